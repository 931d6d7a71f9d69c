"""The shipped checker on the example company's test tickets, against simpler ways to doubt a draft.

Tier-1 really answers, and is really asked whether its answer is right; both are kept by what they depend on, so that a
second run is quick. A score says how likely a draft is good: higher is better, and only the order counts.
"""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks.quality import FERNWAY, MAX_TOKENS, decisions
from schemas.drafts import Draft
from streams.policies import load_policy
from workers.checker.checker import Checker
from workers.checker.gates import failed_gates
from workers.checker.scorer import load_scorer
from workers.knowledge import load_knowledge
from workers.learning.company import Example, as_ticket, load_company
from workers.learning.labelling import IN_FLIGHT, Outcome, as_draft, outcomes
from workers.learning.serving import MODEL, served_engine
from workers.router.classifier import Classifier
from workers.tier1.engine import Engine, Generation, Request
from workers.tier1.prompts import ChatMessage, chat

Floats = NDArray[np.float64]

CACHE = Path(".headgate") / "bench" / "checker"
ADAPTER = FERNWAY / "tier1" / "adapter.gguf"

SCORER = "scorer without gates"

DOUBT = "Is that answer correct and complete for this customer? Reply with one word, yes or no."


class Answered(Struct, frozen=True):
    """What tier-1 said to a ticket, and then of its own answer."""

    outcome: Outcome
    self_check: Generation
    """One token."""


class Drafts(Struct, frozen=True):
    """n drafts, in the order of the company's test split."""

    good: NDArray[np.bool_]
    """(n,), by the rubric."""
    categories: list[str]
    """Of the tickets."""
    gated: NDArray[np.bool_]
    """(n,), refused by a gate."""
    scores: dict[str, Floats]
    """(n,) each, by the name of the way to score; `checker` first."""


def measured() -> Drafts:
    """Answer, grade and score the test split."""
    examples = load_company(FERNWAY).split("test")
    classifier = Classifier(FERNWAY / "router" / "model.onnx")
    decided = decisions(examples, classifier)
    answered = _cached(examples, [d.passages for d in decided], classifier.version)
    drafts = [as_draft(e, d, a.outcome) for e, d, a in zip(examples, decided, answered, strict=True)]
    passages = load_knowledge(FERNWAY / "knowledge.toml")
    promised = "\n".join(passage.text for passage in passages)
    gated = np.array([bool(failed_gates(draft, promised)) for draft in drafts])
    scorer = load_scorer(FERNWAY / "checker" / "scorer.onnx")
    policy = load_policy(FERNWAY / "policy.json")
    checker = Checker(classifier, scorer, passages, lambda _: policy, 0.0)
    scored = np.array(checker.scores(drafts))
    return Drafts(
        good=np.array([a.outcome.acceptable for a in answered]),
        categories=[e.category for e in examples],
        gated=gated,
        scores={
            # A gate has the last word, as in the checker's verdict.
            "checker": np.where(gated, -1.0, scored),
            SCORER: scored,
            "mean log-probability": _mean_logprob(drafts),
            "answer's length": np.array([-float(len(draft.text)) for draft in drafts]),
            "self-check": np.array([_yes(a.self_check) for a in answered]),
            "router's p_ok, before any answer": np.array([d.p_ok for d in decided]),
        },
    )


def _mean_logprob(drafts: Sequence[Draft]) -> Floats:
    return np.array([draft.logprobs.mean if draft.logprobs else 0.0 for draft in drafts])


def _yes(said: Generation) -> float:
    """P(yes), from the one token and its probability; another word than yes or no says nothing."""
    probability = float(np.exp(said.logprobs.mean)) if said.logprobs else 1.0
    word = said.text.strip().lower()
    return probability if word.startswith("yes") else 1 - probability if word.startswith("no") else 0.5


def _cached(examples: Sequence[Example], passages: Sequence[tuple[str, ...]], router: str) -> list[Answered]:
    """Every example's answer; what an earlier run has kept is not asked again, even if it was stopped half-way."""
    asked = [(e.ticket_id, e.body, e.context, p) for e, p in zip(examples, passages, strict=True)]
    key = hashlib.sha256(msgspec.json.encode([router, MAX_TOKENS, DOUBT, asked]) + ADAPTER.read_bytes())
    file = CACHE / f"{key.hexdigest()[:16]}.jsonl"
    kept = _kept(file)
    missing = [(e, p) for e, p in zip(examples, passages, strict=True) if e.ticket_id not in kept]
    if missing:
        CACHE.mkdir(parents=True, exist_ok=True)
        # Any order but the company's: a run that is stopped leaves a fair sample.
        random.Random(0).shuffle(missing)
        asyncio.run(_answer(missing, file))
        kept = _kept(file)
    return [kept[example.ticket_id] for example in examples]


def _kept(file: Path) -> dict[str, Answered]:
    if not file.is_file():
        return {}
    rows = [msgspec.json.decode(line, type=Answered) for line in file.read_bytes().splitlines()]
    return {row.outcome.ticket_id: row for row in rows}


async def _answer(missing: Sequence[tuple[Example, tuple[str, ...]]], file: Path) -> None:
    texts = {p.id: p.text for p in load_knowledge(FERNWAY / "knowledge.toml")}
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def answer(example: Example, passages: tuple[str, ...], engine: Engine) -> None:
        async with slots:
            (made,) = await outcomes([example], [passages], texts, engine, "Fernway", MAX_TOKENS)
            # At once, while the server still holds the conversation.
            prompt: list[ChatMessage] = [
                *chat(as_ticket(example), "Fernway", [texts[passage] for passage in passages]),
                {"role": "assistant", "content": made.generation.text},
                {"role": "user", "content": DOUBT},
            ]
            check = await engine.generate(Request(messages=prompt, model=MODEL, max_tokens=1))
        with file.open("ab") as kept:
            kept.write(msgspec.json.encode(Answered(made, check)) + b"\n")

    # One thread: two of them wait for each other wherever the machine has other work.
    async with served_engine(ADAPTER, threads=1) as engine, asyncio.TaskGroup() as tasks:
        for example, passages in missing:
            tasks.create_task(answer(example, passages, engine))
