"""`headgate learn`: a company's models from its training tickets, step by step.

adapter   LoRA on the base model, from the reference answers (about 11 minutes on two cores)
labels    tier-1 with that adapter answers tickets it has not seen; the rubric labels the drafts (about 6 minutes)
router    heads on the sentence encoder, from those labels: one ONNX graph
checker   the scorer, and the thresholds of router and checker: policy.json

Each step writes into the company's folder (labels: into the work folder), so
that any one of them can be run again by itself. The test split is never read.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import numpy as np

from schemas.drafts import Draft
from schemas.policy import Policy
from schemas.tickets import Decision, Routed, RouteReason
from workers.checker.checker import Checker
from workers.checker.features import features
from workers.checker.gates import failed_gates
from workers.learning import adapter, base_model, labelling, router, scorer
from workers.learning.company import Company, Example, as_ticket, load_company
from workers.learning.labelling import Outcome
from workers.learning.splits import distillation_set, label_set
from workers.router.classifier import Classifier, Scores, ticket_text
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine
