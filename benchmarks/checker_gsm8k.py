"""A checker for Mixtral's answers to grade-school arithmetic: RouteLLM's GSM8K responses, right or wrong.

No log-probabilities are published, so what can be seen of an answer is its text: do its sums come out, does its last
number follow from them, which of the question's numbers does it leave unused, and how do the texts read to the router's
encoder. The right results themselves are never read.
"""

import ast
import csv
import gzip
import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_sets import read
from workers.router.classifier import Classifier

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

TEST_SHARE = 0.2

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_CHAIN = re.compile(r"[\d.()+*/ -]*\d[\d.()+*/ -]*(?:=[\d.()+*/ -]*\d[\d.()+*/ -]*)+")
_FINAL = re.compile(r"####\s*[^\d-]{0,3}(-?\d+(?:\.\d+)?)")
_OPERATORS: dict[type[ast.operator | ast.unaryop], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_HEDGES = re.compile(
    r"\b(however|since|assum\w+|approximately|about|but|if|let's|wait|actually|cannot|can't|not)\b", re.I
)

_NUMBER_WORDS = re.compile(
    r"\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|twenty|thirty)\b", re.I
)
_FRACTIONS = re.compile(r"%|\bpercent|\b\d+/\d+\b|\b(half|third|quarter|fifth|twice|triple|double|times)\b", re.I)

CONSTANTS = frozenset(map(float, (1, 2, 3, 4, 5, 7, 10, 12, 24, 30, 52, 60, 100, 365)))
"""Operands that need no source: small counts, units of time, percentages."""

ROUNDED = 0.006
"""Answers round to cents."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A calculation that an answer writes out: what its left side comes to, and what it says."""

    computed: float
    stated: float
    operands: frozenset[float]
    """The numbers on its left side."""

    @property
    def right(self) -> bool:
        return abs(self.computed - self.stated) <= max(ROUNDED, ROUNDED * abs(self.computed))


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """n questions with Mixtral's answers."""

    prompts: list[str]
    answers: list[str]
    right: NDArray[np.bool_]
    clues: Floats
    """(n, len(NAMES))"""
    embeddings: Floats
    """(n, 768): of the question, then of the answer."""


def load(data: Path, classifier: Classifier, model: Path, cache: Path) -> Responses:
    """Read the set from the folder `data`, less the prompts that RouteLLM names as contaminated."""
    contaminated = {
        e["eval_prompt"] for e in json.loads((data / "routellm" / "contaminated.json").read_text())["gsm8k"]
    }
    with gzip.open(data / "routellm" / "gsm8k.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] not in contaminated]
    prompts, answers = [row["prompt"] for row in rows], [row["weak_response"] for row in rows]
    asked, said = (read(texts, classifier, model, cache).embeddings for texts in (prompts, answers))
    similarity = (asked * said).sum(1, keepdims=True)
    clues_of = np.array([clues(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])
    right = np.array([row["weak_correct"] == "true" for row in rows])
    return Responses(prompts, answers, right, np.hstack([clues_of, similarity]), np.hstack([asked, said]))


NAMES = (
    "prompt_words",
    "answer_words",
    "prompt_numbers",
    "steps",
    "sums",
    "wrong_sums",
    "share_of_right_sums",
    "final_stated",
    "final_is_last_result",
    "final_is_a_result",
    "final_in_prompt",
    "final_whole",
    "final_negative",
    "final_size",
    "words_after_final",
    "prompt_numbers_unused",
    "ungrounded_numbers",
    "fractional_results",
    "largest_result",
    "annotated_sums",
    "hedges",
    "ungrounded_operands",
    "results_unused",
    "prompt_numbers_outside_sums",
    "number_words_in_prompt",
    "percent_or_fraction_in_prompt",
    "count_asked_but_fraction_found",
    "sentences_in_prompt",
    "similarity",
)
"""The clues, in the order of their columns."""


def clues(prompt: str, answer: str) -> list[float]:
    """What can be seen in one answer; all of NAMES but the similarity, which needs the encoder."""
    given, sums = _numbers(prompt), calculations(answer)
    results = [s.stated for s in sums]
    found = _FINAL.findall(_arithmetic(answer, keep_marks=True))
    final = float(found[-1]) if found else math.nan
    tail = answer.split("####")[-1] if found else ""
    said = _numbers(answer)
    known = given | {round(r, 2) for r in results}
    operands = {operand for s in sums for operand in s.operands}
    return [
        math.log1p(len(prompt.split())),
        math.log1p(len(answer.split())),
        float(len(given)),
        float(sum(bool(line.strip()) for line in answer.splitlines())),
        float(len(sums)),
        float(sum(not s.right for s in sums)),
        sum(s.right for s in sums) / len(sums) if sums else 0.5,
        float(bool(found)),
        float(bool(results) and abs(results[-1] - final) < ROUNDED),
        float(any(abs(r - final) < ROUNDED for r in results)),
        float(round(final, 2) in given) if found else 0.0,
        float(final == round(final)) if found else 0.0,
        float(final < 0) if found else 0.0,
        math.log1p(abs(final)) if found else -1.0,
        float(len(re.findall(r"[a-z]+", tail, re.I))),
        float(len(given - said)),
        float(len(said - known)),
        float(sum(r != round(r) for r in results)),
        math.log1p(max(map(abs, results), default=0.0)),
        float(answer.count("<<")),
        float(len(_HEDGES.findall(answer))),
        float(len(operands - known - CONSTANTS)),
        float(len({round(r, 2) for r in results[:-1]} - operands)),
        float(len(given - operands)),
        float(len(_NUMBER_WORDS.findall(prompt))),
        float(len(_FRACTIONS.findall(prompt))),
        float(bool(found) and final != round(final) and "how many" in prompt.lower()),
        float(len(re.findall(r"[.?!](?:\s|$)", prompt))),
    ]


def calculations(answer: str) -> list[Sum]:
    """Every `3 * 4 = 12` of an answer, in order; units and words between the numbers don't matter."""
    found = []
    for chain in _CHAIN.findall(_arithmetic(answer)):
        sides = chain.split("=")
        for left, right in pairwise(sides):
            computed, stated = _value(left), _value(right)
            if computed is not None and stated is not None and re.search(r"\d\s*[-+*/]", left):
                found.append(Sum(computed, stated, frozenset(_numbers(left))))
    return found


def _arithmetic(text: str, keep_marks: bool = False) -> str:
    """The text with its arithmetic in one notation, and without thousands separators, currency signs and words."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text.replace("\\", ""))
    text = re.sub(r"(?<=[\d) ])\s*[x\u00d7](?=\s*[$\d(])", "*", text).replace("\u00f7", "/")
    text = re.sub(r"(\d)\s*%", r"\1/100", text)
    # The annotation repeats what stands before it: one of the two is enough.
    text = re.sub(r"<<.*?>>", "", text)
    if keep_marks:
        return text.replace("$", "")
    return re.sub(r"[$\u20ac]|(?<=[\d) ])[ ]?[a-zA-Z][a-zA-Z'/ -]*(?=[=+*/) -])", "", text)


def _value(expression: str) -> float | None:
    try:
        return _evaluated(ast.parse(expression.strip(" ."), mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ArithmeticError, RecursionError):
        return None


def _evaluated(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.BinOp(left, op, right):
            return _OPERATORS[type(op)](_evaluated(left), _evaluated(right))
        case ast.UnaryOp(op, operand):
            return _OPERATORS[type(op)](_evaluated(operand))
        case _:
            raise ValueError("no arithmetic")


def _numbers(text: str) -> set[float]:
    return {round(float(n), 2) for n in _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", text))}


OURS = "sums and texts, logistic and trees"
LENGTH = "answer's length"
EMBEDDINGS = "embeddings alone, logistic"

C_EMBEDDINGS = 3.0
TREES, LEAST_IN_LEAF = 400, 4
"""As it came from the first few tried; neither moves the AUROC by more than 0.01."""


def scored(responses: Responses, seed: int) -> dict[str, tuple[Floats, Indices]]:
    """By method: scores of the tested rows (higher: likelier right), and those rows; one random split."""
    order = np.random.default_rng(seed).permutation(len(responses.right))
    size = int(len(order) * TEST_SHARE)
    test, train = order[:size], order[size:]
    both = _logistic(responses.clues, responses.right, train, test)
    trees = _trees(responses.clues, responses.right, train, test)
    embedded = _embedded(responses.embeddings, responses.right, train, test)
    column = responses.clues[test].T
    scores = {
        OURS: (both + trees) / 2,
        "the same, logistic alone": both,
        "the same, trees alone": trees,
        "share of sums that come out": column[NAMES.index("share_of_right_sums")],
        EMBEDDINGS: embedded,
        LENGTH: -column[NAMES.index("answer_words")],
        "question's length": -column[NAMES.index("prompt_words")],
    }
    return {name: (score, test) for name, score in scores.items()}


def _logistic(rows: Floats, right: NDArray[np.bool_], train: Indices, test: Indices) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3_000)).fit(rows[train], right[train])
    return np.asarray(model.predict_proba(rows[test])[:, 1])


def _trees(rows: Floats, right: NDArray[np.bool_], train: Indices, test: Indices) -> Floats:
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(TREES, min_samples_leaf=LEAST_IN_LEAF, random_state=0).fit(rows[train], right[train])
    return np.asarray(model.predict_proba(rows[test])[:, 1])


def _embedded(rows: Floats, right: NDArray[np.bool_], train: Indices, test: Indices) -> Floats:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C_EMBEDDINGS, max_iter=2_000).fit(rows[train], right[train])
    return np.asarray(model.predict_proba(rows[test])[:, 1])
