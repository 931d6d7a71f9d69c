"""Training of the router's model: linear heads on a frozen sentence encoder, all in one int8 ONNX graph.

The encoder is MiniLM-L6 (all-MiniLM-L6-v2, Apache-2.0). The heads are fitted on
what the int8 encoder gives, so training and serving see the same numbers, and
the artefact is refused when int8 decides otherwise than float32. Needs the
`learn` extra.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.knowledge import Passage
from workers.learning.encoder import ENCODER, MAX_TOKENS, export_encoder, quantise
from workers.learning.passages import PassageHead, fit, out_of_fold
from workers.router.classifier import EMBEDDING_SIZE, Classifier, Scores, load_tokenizer, padded

Floats = NDArray[np.float64]

LEAST_AGREEMENT = 0.97
"""int8 and float32 must decide alike on this share of the validation rows."""

FOLDS = 5
SEED = 7
REGULARISATION = [0.3, 3.0, 30.0]
"""Inverse strengths tried by cross-validation; between them the loss is flat."""

LENGTH_WEIGHT = 0.3
CERTAINTY_WEIGHT = 1.0
"""Scales of log(tokens) and of the likeliest passage's probability beside the embedding, whose parts are about 0.05:
what a feature weighs under one common regularisation. A guess, from trials with simulated labels."""

_HEADS = """
<ir_version: 10, opset_import: ["" : 18]>
heads (float[batch, 384] pooled, int64[batch, sequence] attention_mask)
    => (float[batch] p_ok, float[batch, passages] passage_probs, float[batch, 384] embedding)
{
    embedding = Identity (pooled)
    passage_logits = Gemm (pooled, passage_weights, passage_bias)
    passage_probs = Softmax <axis = -1> (passage_logits)
    certainty = ReduceMax <keepdims = 1> (passage_probs, second_axis)
    tokens = ReduceSum <keepdims = 1> (attention_mask, second_axis)
    tokens_float = Cast <to = 1> (tokens)
    log_tokens = Log (tokens_float)
    features = Concat <axis = 1> (pooled, log_tokens, certainty)
    ok_logit = Gemm (features, ok_weights, ok_bias)
    ok_column = Sigmoid (ok_logit)
    p_ok = Squeeze (ok_column, second_axis)
}
"""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A past ticket: what it was about, and where tier-1 was tried on it, whether the answer was acceptable."""

    text: str
    category: str
    passage: str | None
    """The one passage that answers it; None if there is no such one (complex tickets)."""
    acceptable: bool | None


@dataclass(frozen=True, slots=True)
class Heads:
    """The fitted heads. Inputs of p_ok, (386, 1), are unscaled features: embedding, log(tokens), certainty."""

    passages: PassageHead
    ok_weights: Floats
    ok_bias: Floats


def train_router(
    rows: Sequence[Labelled],
    validation: Sequence[Labelled],
    knowledge: Sequence[Passage],
    out: Path,
    command: str = "headgate learn router",
) -> dict[str, Any]:
    """Train on `rows`, measure on `validation`; writes model.onnx, tokenizer.json and card.json to `out`.

    Rows with a passage teach that head, rows with a label teach p_ok. Returns the card.

    Raises: ValueError if there are too few labels of a kind, or if int8 and float32 decide differently too often.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        exact = export_encoder(Path(folder) / "float32")
        small = quantise(exact, Path(folder) / "int8" / "encoder.onnx")
        known, _ = encoded(small, [passage.text for passage in knowledge])
        heads = fit_heads(rows, *encoded(small, [row.text for row in rows]), known, [p.id for p in knowledge])
        models = [attach(encoder, heads, encoder.with_name("model.onnx")) for encoder in (exact, small)]
        texts = [row.text for row in validation]
        exact_scores, scores = (Classifier(model).classify(texts) for model in models)
        agreement = agreement_of(exact_scores, scores)
        if agreement < LEAST_AGREEMENT:
            raise ValueError(
                f"int8 and float32 agree on {agreement:.1%} of the decisions, less than {LEAST_AGREEMENT:.0%}"
            )
        for file in ("model.onnx", "tokenizer.json"):
            shutil.copyfile(small.with_name(file), out / file)
    card = _card(rows, validation, scores) | {
        "version": Classifier(out / "model.onnx").version,
        "agreement_int8_float32": round(agreement, 4),
        "command": command,
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def encoded(encoder: Path, texts: Sequence[str]) -> tuple[Floats, Floats]:
    """Embeddings (n, 384) and log token counts (n,), one text at a time as the classifier does it on the CPU."""
    import onnxruntime

    tokenizer = load_tokenizer(encoder.with_name("tokenizer.json"), MAX_TOKENS)
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    pieces = [tokenizer.encode(text).ids for text in texts]
    embeddings = [session.run(["pooled"], padded([ids], 1))[0][0] for ids in pieces]
    return np.stack(embeddings).astype(np.float64), np.log([len(ids) for ids in pieces])


def fit_heads(
    rows: Sequence[Labelled], embeddings: Floats, log_tokens: Floats, knowledge: Floats, passages: Sequence[str]
) -> Heads:
    """Fit both heads: a softmax over the passages, and calibrated logistic regression for p_ok.

    Raises: ValueError if a passage or a label has fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    labelled = np.array([row.acceptable is not None for row in rows])
    acceptable = np.array([row.acceptable is True for row in rows])[labelled]
    _enough({f"label acceptable = {label}": int((acceptable == label).sum()) for label in (True, False)})
    head, certainty = _passages(rows, embeddings, knowledge, passages)

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    scales = np.array([1.0] * EMBEDDING_SIZE + [LENGTH_WEIGHT, CERTAINTY_WEIGHT])
    features = (np.column_stack([embeddings, log_tokens, certainty]) * scales)[labelled]
    ok = _regression(features, acceptable, folds)
    slope, shift = platt(cross_val_predict(ok, features, acceptable, cv=folds, method="decision_function"), acceptable)
    return Heads(head, ok_weights=(slope * ok.coef_ * scales).T, ok_bias=slope * ok.intercept_ + shift)


def out_of_fold_p_ok(
    rows: Sequence[Labelled], embeddings: Floats, log_tokens: Floats, knowledge: Floats, passages: Sequence[str]
) -> Floats:
    """p_ok (n,) of labelled rows, each by heads that have not seen it: what a scorer or thresholds may be fitted on.

    Rows without a label get nan.
    """
    from sklearn.model_selection import StratifiedKFold

    labelled = np.flatnonzero([row.acceptable is not None for row in rows])
    found = np.full(len(rows), np.nan)
    labels = [rows[int(i)].acceptable for i in labelled]
    for _, part in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(labelled, labels):
        held_out = labelled[part]
        kept = np.setdiff1d(np.arange(len(rows)), held_out)
        heads = fit_heads([rows[int(i)] for i in kept], embeddings[kept], log_tokens[kept], knowledge, passages)
        certainty = heads.passages.probabilities(embeddings[held_out]).max(axis=1)
        features = np.column_stack([embeddings[held_out], log_tokens[held_out], certainty])
        found[held_out] = 1 / (1 + np.exp(-(features @ heads.ok_weights + heads.ok_bias)[:, 0]))
    return found


def _passages(
    rows: Sequence[Labelled], embeddings: Floats, knowledge: Floats, passages: Sequence[str]
) -> tuple[PassageHead, Floats]:
    """The passage head, and how certain such a head is of each row, (n,), when it has not seen that row."""
    known = np.flatnonzero([row.passage is not None for row in rows])
    subjects = [str(rows[int(i)].passage) for i in known]
    _enough({f"passage {name}": subjects.count(name) for name in sorted(set(subjects))})
    head = fit(embeddings[known], subjects, knowledge, passages)
    certainty = head.probabilities(embeddings).max(axis=1)
    # A model's opinion of its own training rows is surer than it will ever be of a new ticket.
    certainty[known] = out_of_fold(embeddings[known], subjects, knowledge, passages).max(axis=1)
    return head, certainty


def _enough(counts: Mapping[str, int]) -> None:
    if few := [f"{count} of {name}" for name, count in counts.items() if count < FOLDS]:
        raise ValueError(f"too few examples to train on ({', '.join(few)}): {FOLDS} of each are the least")


def _regression(features: Floats, target: NDArray[Any], folds: Any) -> Any:
    """A logistic regression whose regularisation has the least cross-validated log loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(
        LogisticRegression(max_iter=5_000), {"C": REGULARISATION}, scoring="neg_log_loss", cv=folds, error_score="raise"
    )
    return search.fit(features, target).best_estimator_


def platt(logits: Floats, acceptable: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift that make out-of-fold logits into calibrated ones.

    Where they say nothing (a slope below 0 is what cross-validation makes of noise), every ticket gets the base rate.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression().fit(logits[:, None], acceptable)
    if fitted.coef_[0, 0] > 0:
        return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    rate = acceptable.mean()
    return 0.0, float(np.log(rate / (1 - rate)))


def attach(encoder: Path, heads: Heads, out: Path) -> Path:
    """Write encoder and heads as one graph, its metadata filled in; returns `out`."""
    import onnx

    model = onnx.load(encoder)
    # An output named like one of the encoder's inner values makes a file that onnxruntime refuses.
    onnx.compose.add_prefix(model, "encoder/", rename_inputs=False, rename_outputs=False, inplace=True)
    added = onnx.parser.parse_model(_HEADS).graph
    weights = {
        "passage_weights": heads.passages.weights.astype(np.float32),
        "passage_bias": heads.passages.bias.astype(np.float32),
        "ok_weights": heads.ok_weights.astype(np.float32),
        "ok_bias": heads.ok_bias.astype(np.float32),
        "second_axis": np.array([1], np.int64),
    }
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    del model.graph.output[:]
    model.graph.output.extend(added.output)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        # The exporter notes where each came from, with paths of the machine that it ran on.
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(
        model, {"passages": json.dumps(heads.passages.passages), "max_tokens": str(MAX_TOKENS), "encoder": ENCODER}
    )
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return out


def agreement_of(exact: Sequence[Scores], small: Sequence[Scores]) -> float:
    """The share of tickets with the same category and the same side of p_ok = 0.5."""
    pairs = zip(exact, small, strict=True)
    return float(np.mean([a.category == b.category and (a.p_ok >= 0.5) == (b.p_ok >= 0.5) for a, b in pairs]))


def calibration_error(p_ok: Floats, acceptable: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: |mean p_ok - share acceptable| over equal-width bins, weighted by their tickets."""
    bin_of = np.minimum((p_ok * bins).astype(int), bins - 1)
    gaps = [abs(float((p_ok - acceptable)[bin_of == b].sum())) for b in range(bins)]
    return sum(gaps) / len(p_ok)


def auroc(p_ok: Floats, acceptable: NDArray[np.bool_]) -> float:
    """The probability that a random acceptable ticket gets a higher p_ok than a random other one; ties count half."""
    good, bad = p_ok[acceptable][:, None], p_ok[~acceptable][None, :]
    return float(((good > bad) + 0.5 * (good == bad)).mean())


def measures(rows: Sequence[Labelled], scores: Sequence[Scores]) -> dict[str, float]:
    """How good the scores are on rows that the model was not trained on."""
    pairs = list(zip(rows, scores, strict=True))
    found = {"category_accuracy": float(np.mean([s.category == r.category for r, s in pairs]))}
    about = [(r.passage, s.passages) for r, s in pairs if r.passage]
    if about:
        found["passage_first"] = float(np.mean([passage == picked[0] for passage, picked in about]))
        found["passage_picked"] = float(np.mean([passage in picked for passage, picked in about]))
    labelled = [(s.p_ok, r.acceptable) for r, s in pairs if r.acceptable is not None]
    if labelled:
        p_ok, acceptable = np.array([p for p, _ in labelled]), np.array([a for _, a in labelled])
        found |= {
            "acceptable_share": float(acceptable.mean()),
            "p_ok_mean": float(p_ok.mean()),
            "p_ok_calibration_error": calibration_error(p_ok, acceptable),
            "p_ok_brier": float(np.mean((p_ok - acceptable) ** 2)),
        }
        if 0 < acceptable.mean() < 1:
            found["p_ok_auroc"] = auroc(p_ok, acceptable)
    return {name: round(value, 4) for name, value in found.items()}


def _card(rows: Sequence[Labelled], validation: Sequence[Labelled], scores: Sequence[Scores]) -> dict[str, Any]:
    data = json.dumps([[astuple(row) for row in part] for part in (rows, validation)])
    return {
        "encoder": ENCODER,
        "trained_on": _counts(rows),
        "validated_on": _counts(validation),
        "data_sha256": hashlib.sha256(data.encode()).hexdigest(),
        "validation": measures(validation, scores),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _counts(rows: Sequence[Labelled]) -> dict[str, int]:
    labels = [row.acceptable for row in rows]
    return {"tickets": len(rows), "acceptable": labels.count(True), "not_acceptable": labels.count(False)}
