"""What tier-1 really says to Fernway's tickets before a shift and after it; for benchmarks/drift.py.

Its validation and test tickets, routed and scored by the committed models. A shift changes what a good answer is, what
the knowledge says, or whose tickets come.
"""

import csv
import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.drift_stream import FOREIGN_SHARE, Drafts, Figures, compare
from streams.policies import load_policy
from workers.checker.checker import Checker
from workers.checker.scorer import load_scorer
from workers.knowledge import Passage
from workers.learning.company import Company, Example, as_ticket, load_company
from workers.learning.labelling import as_draft, outcomes
from workers.learning.rubric import Claim, Fact, Rubric, grade
from workers.learning.serving import served_engine
from workers.learning.steps import MAX_TOKENS, passage_of
from workers.router.budget import Budget
from workers.router.classifier import Classifier, ticket_text
from workers.router.policy import AUDITABLE, decide
from workers.tier1.engine import Engine

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
AUDIT_SHARE, HIGH_AUDIT_SHARE = 0.05, 0.25
"""Of the tickets: the default of `thresholds.Goal`, and what an early warning makes of it."""
PRICES = {
    "billing.late_fee": ("8", "11"),
    "billing.paper_bill": ("2.50", "3.75"),
    "equipment.return_router": ("85", "95"),
    "installation.reschedule": ("25", "32"),
    "mobile.lost_phone": ("5", "9"),
    "moving.fee": ("35", "42"),
}
"""Six fees, by the passage that names them: the old one and the new one, in dollars."""


def priced(text: str, old: str, new: str) -> str:
    """A text, or a rubric's pattern, with one price in place of another."""
    for before, after in ((f"${old}", f"${new}"), (rf"\${re.escape(old)}", rf"\${re.escape(new)}")):
        text = re.sub(re.escape(before) + r"(?!\d|\.\d|\\\.\d)", lambda _, after=after: after, text)
    return text


def repriced(example: Example) -> Example:
    """The example under the new prices; itself where its passage names none of them."""
    if example.kind != "routine" or passage_of(example) not in PRICES:
        return example
    old, new = PRICES[passage_of(example)]
    rubric = Rubric(
        states=tuple(Fact(f.fact, tuple(priced(p, old, new) for p in f.any)) for f in example.rubric.states),
        forbids=(*example.rubric.forbids, Claim("the old price", (rf"\${re.escape(old)}(?!\d|\.\d)",))),
        numbers=example.rubric.numbers | {new},
    )
    changed = replace(example, reference=priced(example.reference, old, new), rubric=rubric)
    if not grade(changed.reference, rubric).acceptable or grade(example.reference, rubric).acceptable:
        raise RuntimeError(f"{example.ticket_id}: its rubric does not tell the new price from the old one")
    return changed


def repriced_passages(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """What a company writes down that keeps its knowledge up to date."""
    return tuple(replace(p, text=priced(p.text, *PRICES[p.id])) if p.id in PRICES else p for p in passages)


def foreign_examples(data: Path, count: int) -> list[Example]:
    """Tickets of other companies, as if sent to Fernway: no answer that tier-1 could give them is right."""
    with gzip.open(data / "bitext" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in file]
    with gzip.open(data / "banking77" / "test.csv.gz", "rt", encoding="utf-8", newline="") as file:
        texts += [row["text"] for row in csv.DictReader(file)]
    nothing = Rubric(states=(Fact("what Fernway can't know", (r"(?!)",)),), forbids=(), numbers=frozenset())
    return [
        Example(f"foreign-{i}", "test", "complex", "", "", 0, "web", "en", "", text, (), "", nothing, ())
        for i, text in enumerate(random.Random(0).sample(texts, count))
    ]


class House:
    """Fernway's router and checker, and tier-1 at the other end of an engine."""

    def __init__(self) -> None:
        self.company: Company = load_company(FERNWAY)
        self.classifier = Classifier(FERNWAY / "router" / "model.onnx")
        self.policy = load_policy(FERNWAY / "policy.json")

    async def drafts(
        self, examples: Sequence[Example], passages: Sequence[Passage], engine: Engine
    ) -> tuple[Drafts, list[str]]:
        """Route, answer from these passages, score and grade every example; also what tier-1 said."""
        scores = self.classifier.classify([ticket_text(as_ticket(e)) for e in examples])
        rng, unlimited = random.Random(0), Budget()
        decided = [
            decide(as_ticket(e), s, self.policy, unlimited, 0.0, rng) for e, s in zip(examples, scores, strict=True)
        ]
        texts = {p.id: p.text for p in passages}
        made = await outcomes(examples, [d.passages for d in decided], texts, engine, "Fernway", MAX_TOKENS)
        checker = Checker(
            self.classifier, load_scorer(FERNWAY / "checker" / "scorer.onnx"), passages, lambda _: self.policy, 0.0
        )
        verdicts = checker.check([as_draft(e, d, o) for e, d, o in zip(examples, decided, made, strict=True)])
        found = Drafts(
            np.array([d.p_ok if d.reason in AUDITABLE else -1.0 for d in decided]),
            np.array([-1.0 if v.score is None else v.score for v in verdicts]),
            np.array([not o.acceptable for o in made]),
        )
        return found, [o.generation.text for o in made]


async def fernway(data: Path, tickets: int, runs: int) -> Figures:
    """(c): each shift by itself."""
    house = House()
    examples = house.company.split("validation") + house.company.split("test")
    examples = random.Random(0).sample(examples, min(tickets, len(examples)))
    passages, new_passages = house.company.passages, repriced_passages(house.company.passages)
    new = [repriced(e) for e in examples]
    touched = np.array([i for i, (a, b) in enumerate(zip(examples, new, strict=True)) if a is not b])
    found: Figures = {}
    # One thread: two wait for each other as soon as the machine has other work, and then take twenty times as long.
    async with served_engine(FERNWAY / "tier1" / "adapter.gguf", threads=1) as engine:
        before, said = await house.drafts(examples, passages, engine)
        retold, _ = await house.drafts([new[i] for i in touched], new_passages, engine)
        try:
            strangers = foreign_examples(data, len(examples) // 3)
        except FileNotFoundError as exc:
            strangers = []
            print(f"no foreign tickets: {exc.filename} is missing (--data names the folder of the public sets)")
        foreign = (await house.drafts(strangers, passages, engine))[0] if strangers else None
    print(f"\n{len(examples)} drafts, {before.bad.mean():.3f} bad; {len(touched)} name a fee that changes")

    stale = before._replace(bad=np.array([not grade(t, e.rubric).acceptable for t, e in zip(said, new, strict=True)]))
    updated = Drafts(*(column.copy() for column in before))
    for column, changed in zip(updated, retold, strict=True):
        column[touched] = changed
    shifts = {
        "prices_unnoticed": ("six fees change, nobody tells Headgate", stale, 0, AUDIT_SHARE),
        "prices_unnoticed_audits": (
            f"the same, and {HIGH_AUDIT_SHARE:.0%} of the tickets audited",
            stale,
            0,
            HIGH_AUDIT_SHARE,
        ),
        "prices_written_down": ("six fees change, in the knowledge passages too", updated, 0, AUDIT_SHARE),
    }
    if foreign:
        shifts["foreign"] = (
            f"{FOREIGN_SHARE:.0%} foreign tickets",
            before.joined(foreign),
            len(foreign.bad),
            AUDIT_SHARE,
        )
    for key, (name, after, foreign_rows, audits) in shifts.items():
        figures = compare(f"{key}: {name}", before, after, foreign_rows, audits, runs)
        found |= {f"{key}.{figure}": value for figure, value in figures.items()}
    return found
