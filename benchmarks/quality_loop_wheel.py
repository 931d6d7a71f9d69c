"""The flywheel on Fernway's tickets: from no labels at all through the rounds of the training stream.

A round's tickets come, and what is learned from all that have come is measured on the test split, which nothing is ever
learned from. Of a routine intent's wordings three in four go to tier-2, and teach; every fourth is drawn for an audit,
and tier-1's draft is labelled by the rubric. So are complex tickets and those of the validation split, in each round as
many in proportion (workers/learning/splits.py).

The steps are those of `headgate learn` (workers/learning/steps.py), on a company that has seen no later ticket. Costs
are by the price table and estimated tokens, as the recorded frontier charges them.
"""

import asyncio
import hashlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from random import Random

import msgspec
import numpy as np

from benchmarks.quality import FERNWAY
from schemas.generations import Usage
from schemas.policy import Certificate
from schemas.tickets import Decision
from streams.policies import load_policy
from streams.settings import CheckerSettings, RouterSettings
from workers.checker.checker import Checker
from workers.checker.scorer import load_scorer
from workers.judge import judgement
from workers.judge import prompts as judge_prompts
from workers.learning import labelling
from workers.learning.company import Company, Example, as_ticket, load_company
from workers.learning.labelling import IN_FLIGHT, Outcome, as_draft
from workers.learning.serving import served_engine
from workers.learning.splits import ROUNDS, come, retrieval_set
from workers.learning.steps import GOAL, MAX_TOKENS, School
from workers.learning.thresholds import Row
from workers.router.budget import Budget
from workers.router.classifier import Classifier, ticket_text
from workers.router.policy import AUDITABLE, decide
from workers.tier2 import prompts as tier2_prompts
from workers.tier2.prices import Prices
from workers.tier2.recording import tokens_in

TIER2_MODEL, TIER2_DAY = "claude-sonnet-5-5", date(2026, 11, 1)
"""The example's model, and the day of the price table; the judge is the same model."""
VERDICT_TOKENS = 40
"""Of a judge's word on one answer (a guess, from the form it is asked for)."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a round's system does on the test split."""

    round: int
    """0 is the cold start: everything to tier-2."""
    taught: int
    """Tickets that taught: the encoder what they are about, the first of each intent tier-1 what to say."""
    tier1_share: float
    """Of the tickets, those that tier-1's answer was sent to."""
    quality: float
    """Share of good answers, by the rubric. All-tier-2's is 1: the recording's answers pass it by construction."""
    usd: Mapping[str, float]
    """Of a ticket, by part."""
    shipped: int
    bad: int
    certificates: tuple[Certificate, ...] = ()
    learning_usd: float | None = None
    """Once, for all rounds so far: the drafts and the judge of every label."""

    @property
    def cost_usd(self) -> float:
        return sum(self.usd.values())

    @property
    def labels(self) -> int:
        """What the certificates rest on."""
        return sum(certificate.labels for certificate in self.certificates)

    @property
    def bound(self) -> float | None:
        """On the share of bad answers among those shipped: the weakest promise; None where nothing is certified."""
        return max((certificate.upper_bound for certificate in self.certificates), default=None)


class Answers:
    """What tier-1 said, kept by adapter, ticket and passages: a second run is quick, and a round asks for news only."""

    def __init__(self, file: Path, threads: int) -> None:
        self._file, self._threads = file, threads
        lines = file.read_bytes().splitlines() if file.is_file() else []
        self._kept = {row.key: row.outcome for row in (msgspec.json.decode(line, type=_Row) for line in lines)}

    def of(
        self, adapter: Path, examples: Sequence[Example], picks: Sequence[tuple[str, ...]], texts: dict[str, str]
    ) -> list[Outcome]:
        """One outcome an example, each with its own picked passages."""
        by = hashlib.sha256(adapter.read_bytes()).hexdigest()
        asked = [
            (e.ticket_id, e.body, e.context, [texts[p] for p in pick]) for e, pick in zip(examples, picks, strict=True)
        ]
        keys = [hashlib.sha256(msgspec.json.encode([by, MAX_TOKENS, each])).hexdigest()[:16] for each in asked]
        missing = [(k, e, p) for k, e, p in zip(keys, examples, picks, strict=True) if k not in self._kept]
        if missing:
            asyncio.run(self._ask(adapter, missing, texts))
        return [self._kept[key] for key in keys]

    async def _ask(
        self, adapter: Path, missing: Sequence[tuple[str, Example, tuple[str, ...]]], texts: dict[str, str]
    ) -> None:
        started = time.monotonic()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def ask(key: str, example: Example, pick: tuple[str, ...]) -> None:
            async with slots:
                (made,) = await labelling.outcomes([example], [pick], texts, engine, "Fernway", MAX_TOKENS)
            self._kept[key] = made
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(_Row(key, made)) + b"\n")

        async with served_engine(adapter, self._threads) as engine, asyncio.TaskGroup() as tasks:
            for each in missing:
                tasks.create_task(ask(*each))
        print(f"tier-1 answered {len(missing)} tickets in {time.monotonic() - started:.0f} s", flush=True)


class _Row(msgspec.Struct, frozen=True):
    key: str
    outcome: Outcome


class Wheel:
    """The rounds. `work` keeps every round's models and policy: a round that is there is not learned again."""

    def __init__(self, work: Path, threads: int) -> None:
        self.work = work
        self.company = load_company(FERNWAY)
        self.test = self.company.split("test")
        self.answers = Answers(work / "answers.jsonl", threads)
        self.costs = Costs(self.company)

    def cold(self) -> Result:
        """Before anything is known: every ticket to tier-2."""
        tier2_usd = float(np.mean([self.costs.tier2(example) for example in self.test]))
        return Result(round=0, taught=0, tier1_share=0.0, quality=1.0, usd={"tier2": tier2_usd}, shipped=0, bad=0)

    def shipped(self) -> tuple[Result, list[Row]]:
        """The models in the example's folder, which are the last round's."""
        return self.tested(ROUNDS, FERNWAY)

    def turn(self, number: int) -> tuple[Result, list[Row]]:
        """Learn from all that has come by the end of a round, and measure it."""
        school = self.school(number)
        if not (school.folder / "policy.json").is_file():
            self.learn(number, school)
        result, rows = self.tested(number, school.folder)
        by_id = {e.ticket_id: e for e in self.company.examples}
        labels = school.outcomes.values()
        judge_usd = sum(self.costs.judge(by_id[o.ticket_id], o.generation.text) for o in labels)
        return msgspec.structs.replace(result, learning_usd=judge_usd + GOAL.tier1_usd * len(labels)), rows

    def learn(self, number: int, school: School) -> None:
        """Tier-1 from the round before, labels of what it says now, then router, scorer and thresholds."""
        adapter = school.folder / "tier1" / "adapter.gguf"
        if not adapter.is_file():
            school.train_adapter(self.school(number - 1) if number > 1 else None)
        examples = school.to_label
        made = self.answers.of(
            adapter, examples, [school.retriever.picked[e.ticket_id] for e in examples], school.texts
        )
        labelling.save(made, school.work / "labels.jsonl")
        school.learn_router()
        school.learn_checker()

    def school(self, number: int) -> School:
        """A folder and a company of the round's own."""
        folder = self.work / f"round-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("headgate.toml", "knowledge.toml"):
            shutil.copyfile(FERNWAY / name, folder / name)
        return School(come(self.company, number), folder, folder / "work")

    def tested(self, number: int, models: Path) -> tuple[Result, list[Row]]:
        """Router, tier-1 and checker on the test split, under the policy that the labels prove; and the drafts that
        tier-1 may answer with, as labels."""
        policy = load_policy(models / "policy.json")
        classifier = Classifier(models / "router" / "model.onnx")
        started = time.perf_counter()
        scores = classifier.classify([ticket_text(as_ticket(e)) for e in self.test])
        router_usd = (time.perf_counter() - started) / len(self.test) * RouterSettings().usd_per_hour / 3600
        rng, unlimited = Random(0), Budget()
        decided = [decide(as_ticket(e), s, policy, unlimited, 0.0, rng) for e, s in zip(self.test, scores, strict=True)]
        texts = {passage.id: passage.text for passage in self.company.passages}
        adapter = models / "tier1" / "adapter.gguf"
        made = self.answers.of(adapter, self.test, [d.passages for d in decided], texts)
        drafts = [as_draft(e, undrawn(d), o) for e, d, o in zip(self.test, decided, made, strict=True)]
        scorer = load_scorer(models / "checker" / "scorer.onnx")
        checker = Checker(classifier, scorer, self.company.passages, lambda _: policy, CheckerSettings().usd_per_hour)
        verdicts = checker.check(drafts)

        good = np.array([o.acceptable for o in made])
        tried = np.array([d.tier == "tier1" for d in decided])
        shipped = tried & np.array([v.accepted for v in verdicts])
        drawn = np.array([d.propensity for d in decided])
        tier2_usd = np.array([self.costs.tier2(e) for e in self.test])
        judge_usd = np.array([self.costs.judge(e, d.text) for e, d in zip(self.test, drafts, strict=True)])
        rows = [
            Row(d.category, d.p_ok, v.score or 0.0, o.acceptable)
            for d, v, o in zip(decided, verdicts, made, strict=True)
            if d.reason in AUDITABLE
        ]
        result = Result(
            round=number,
            taught=len(retrieval_set(come(self.company, number))),
            tier1_share=float(shipped.mean()),
            quality=float((good | ~shipped).mean()),
            usd={
                "tier2": float((tier2_usd * ~shipped).mean()),
                # In expectation: the tickets that are drawn on their way to tier-2 are drafted, too.
                "tier1": float(GOAL.tier1_usd * np.where(tried, 1.0, drawn).mean()),
                "audits": float((judge_usd * drawn).mean()),
                "router": router_usd,
                "checker": float(np.mean([v.cost_usd for v in verdicts])),
            },
            shipped=int(shipped.sum()),
            bad=int((shipped & ~good).sum()),
            certificates=tuple({c.certificate: None for c in policy.categories.values() if c.certificate}),
        )
        return result, rows


def undrawn(decision: Decision) -> Decision:
    """The decision of a ticket that is not drawn: what draws cost is counted in expectation."""
    return msgspec.structs.replace(decision, audited=False)


class Costs:
    """What the parts cost, dollars. System prompts are in the provider's cache, as in any busy hour."""

    def __init__(self, company: Company) -> None:
        self._price = Prices.load().of(TIER2_MODEL, TIER2_DAY)
        knowledge = "\n\n".join(passage.text for passage in company.passages)
        self._answering = tokens_in(tier2_prompts.system("Fernway", knowledge))
        self._judging = tokens_in(judge_prompts.system("Fernway", knowledge))

    def tier2(self, example: Example) -> float:
        """A frontier answer."""
        asked = tokens_in(tier2_prompts.user(as_ticket(example)))
        return self._call(self._answering, asked, tokens_in(example.reference))

    def judge(self, example: Example, text: str) -> float:
        """An audit of one answer."""
        case = judgement.blind(judgement.Case(as_ticket(example), (text,)))
        return self._call(self._judging, tokens_in(judge_prompts.user(case)), VERDICT_TOKENS)

    def _call(self, cached: int, asked: int, answered: int) -> float:
        usage = Usage(prompt_tokens=cached + asked, completion_tokens=answered, cached_tokens=cached)
        return math.ceil(self._price.cost_micro_usd(usage)) / 1e6
