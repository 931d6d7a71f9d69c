"""`headgate learn`: a company's models from its training tickets, step by step.

adapter   LoRA on the base model, from the reference answers (about 11 minutes on two cores)
labels    tier-1 with that adapter answers tickets it has not seen; the rubric labels the drafts (about 6 minutes)
router    heads on the sentence encoder, from those labels: one ONNX graph
checker   the scorer, and the thresholds of router and checker: policy.json

Each step writes into the company's folder (labels: into the work folder), so
that any one of them can be run again by itself. The test split is never read.
"""



