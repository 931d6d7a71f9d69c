"""Rubric quality on Fernway's test split: tier-1 base, tier-1 distilled, all-tier-2, Headgate. No Kafka, no clock.

    make bench NAME=quality

The workers' own decisions (router, checker, policy) on what tier-1 really says.
Tier-2 is the recording, whose answers pass their rubrics by construction, so
what is measured is what Headgate loses against it: bad tier-1 answers that
were shipped. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

from schemas.tickets import Decision
from streams.policies import load_policy
from workers.checker.checker import Checker
from workers.checker.scorer import load_scorer
from workers.knowledge import load_knowledge
from workers.learning.company import Example, as_ticket, load_company
from workers.learning.labelling import Outcome, as_draft, outcomes
from workers.learning.serving import served_engine
from workers.router.budget import Budget
from workers.router.classifier import Classifier, ticket_text
from workers.router.policy import decide

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
MAX_TOKENS = 120


def decisions(examples: Sequence[Example], classifier: Classifier) -> list[Decision]:
    """The router's decision on every ticket."""
    policy = load_policy(FERNWAY / "policy.json")
    scores = classifier.classify([ticket_text(as_ticket(e)) for e in examples])
    rng, unlimited = random.Random(0), Budget()
    return [decide(as_ticket(e), s, policy, unlimited, 0.0, rng) for e, s in zip(examples, scores, strict=True)]


async def tier1(examples: Sequence[Example], decided: Sequence[Decision], adapter: Path | None) -> list[Outcome]:
    """What tier-1 says to every ticket, with the passages that the router picked."""
    texts = {p.id: p.text for p in load_knowledge(FERNWAY / "knowledge.toml")}
    async with served_engine(adapter) as engine:
        return await outcomes(examples, [d.passages for d in decided], texts, engine, "Fernway", MAX_TOKENS)


def share(flags: Sequence[bool]) -> float | None:
    """The share of true ones; None of none."""
    return round(sum(flags) / len(flags), 4) if flags else None


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-base", action="store_true", help="leave the untuned model out: it takes longest")
    args = parser.parse_args()
    examples = load_company(FERNWAY).split("test")
    classifier = Classifier(FERNWAY / "router" / "model.onnx")
    decided = decisions(examples, classifier)
    distilled = await tier1(examples, decided, FERNWAY / "tier1" / "adapter.gguf")
    base = None if args.no_base else await tier1(examples, decided, None)

    policy = load_policy(FERNWAY / "policy.json")
    checker = Checker(
        classifier,
        load_scorer(FERNWAY / "checker" / "scorer.onnx"),
        load_knowledge(FERNWAY / "knowledge.toml"),
        lambda _: policy,
        0.0,
    )
    verdicts = checker.check([as_draft(e, d, o) for e, d, o in zip(examples, decided, distilled, strict=True)])
    good = [o.acceptable for o in distilled]
    tried = [d.tier == "tier1" for d in decided]
    shipped = [t and v.accepted for t, v in zip(tried, verdicts, strict=True)]
    routine = [e.kind == "routine" for e in examples]
    picked = [f"{e.category}.{e.intent}" in d.passages for e, d in zip(examples, decided, strict=True)]
    figures = {
        "tickets": len(examples),
        "routine": sum(routine),
        "quality_tier1_base": share([o.acceptable for o in base]) if base else None,
        "quality_tier1_distilled": share(good),
        "quality_tier1_distilled_routine": share([g for g, r in zip(good, routine, strict=True) if r]),
        "quality_all_tier2": 1.0,
        "quality_headgate": share([g or not s for g, s in zip(good, shipped, strict=True)]),
        "right_passage_picked_routine": share([p for p, r in zip(picked, routine, strict=True) if r]),
        "tried_on_tier1": share(tried),
        "shipped_from_tier1": share(shipped),
        "shipped": sum(shipped),
        "bad_shipped": sum(s and not g for g, s in zip(good, shipped, strict=True)),
        "good_refused": sum(t and g and not s for g, t, s in zip(good, tried, shipped, strict=True)),
    }
    for name, value in figures.items():
        print(f"{name:34} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main())
