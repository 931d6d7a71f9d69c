"""Records of an invented run over the example company's tickets, for everything that counts and reports."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.answers import Answer, Costs, GateReason, Handoff, HandoffReason, Verdict
from schemas.events import Event
from schemas.tickets import Attempt, Decision, RouteReason, Ticket, TicketId, Tier
from streams.reporting.report import Baseline, Made, Report, RunMeta, build
from workers.learning.company import Example, load_company

FERNWAY = Path(__file__).parents[3] / "examples" / "fernway"
START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ROUTER_USD, TIER1_USD, CHECKER_USD, TIER2_USD = 0.000002, 0.00002, 0.000003, 0.004


class Records:
    """Makes records with everything a test doesn't care about filled in."""

    @staticmethod
    def attempt(tier: Tier = "tier1", text: str = "a draft", reason: str = "low_score") -> Attempt:
        cost_usd = TIER1_USD if tier == "tier1" else TIER2_USD
        return Attempt(tier=tier, text=text, reason=reason, score=0.2, cost_usd=cost_usd, duration_s=0.5)

    @staticmethod
    def decision(tier: Tier = "tier1", category: str = "billing") -> Decision:
        return Decision(
            tier=tier,
            reason=RouteReason.CONFIDENT if tier == "tier1" else RouteReason.UNCERTAIN,
            p_ok=0.8,
            category=category,
            p_category=0.9,
            threshold=0.5,
            propensity=1.0,
            policy_version="p1",
            cost_usd=ROUTER_USD,
        )

    @staticmethod
    def costs(tier: Tier | None, attempts: Sequence[Attempt]) -> Costs:
        spent = [(a.tier, a.cost_usd) for a in attempts]
        spent += [(tier, TIER1_USD if tier == "tier1" else TIER2_USD)] if tier else []
        return Costs(
            router_usd=ROUTER_USD,
            tier1_usd=sum(usd for t, usd in spent if t == "tier1"),
            checker_usd=CHECKER_USD * len(spent),
            tier2_usd=sum(usd for t, usd in spent if t == "tier2"),
        )

    def answer(
        self,
        ticket_id: str = "t1",
        tier: Tier = "tier1",
        text: str = "an answer",
        attempts: Sequence[Attempt] = (),
        seconds: float = 1.0,
    ) -> Answer:
        return Answer(
            ticket_id=TicketId(ticket_id),
            tenant="default",
            customer_id="c1",
            text=text,
            tier=tier,
            model="m",
            category="billing",
            language="en",
            decision=self.decision("tier1" if tier == "tier1" or attempts else "tier2"),
            verdict=Verdict(
                accepted=True, reasons=(), score=0.9, threshold=0.5, policy_version="p1", cost_usd=CHECKER_USD
            ),
            attempts=tuple(attempts),
            costs=self.costs(tier, attempts),
            received_at=START,
            answered_at=START + timedelta(seconds=seconds),
        )

    def handoff(self, ticket_id: str = "t1", attempts: Sequence[Attempt] = ()) -> Handoff:
        return Handoff(
            ticket=Ticket(ticket_id=TicketId(ticket_id), body="a question"),
            reason=HandoffReason.TIER2_REFUSED,
            detail="refusal",
            decision=self.decision("tier1" if any(a.tier == "tier1" for a in attempts) else "tier2"),
            attempts=tuple(attempts),
            costs=self.costs(None, attempts),
            received_at=START,
            handed_off_at=START + timedelta(seconds=5),
        )

    @staticmethod
    def event(event_id: str = "e1", ticket_id: str = "t1", outcome: Any = "routed", stage: Any = "router") -> Event:
        return Event(event_id=event_id, at=START, stage=stage, outcome=outcome, ticket_id=TicketId(ticket_id))


META = RunMeta(
    company="Fernway",
    command="headgate demo --tickets 120",
    at=START,
    wall_s=83.4,
    real=(
        "Apache Kafka 4.3.1, every stage a process of its own",
        "tier-1: SmolLM2-135M with Fernway's adapter, on this machine's CPU",
    ),
    recorded=(
        "tier-2: answers written by the project's authors, replayed with a provider's protocol, prices and pace",
    ),
)


@pytest.fixture(scope="session")
def fernway() -> list[Example]:
    """The example company's test tickets."""
    return load_company(FERNWAY).split("test")


@pytest.fixture
def make() -> Records:
    """The factory of records."""
    return Records()


@pytest.fixture
def meta() -> RunMeta:
    """What is known of the invented run."""
    return META


@pytest.fixture
def report_of(meta: RunMeta) -> Callable[..., Report]:
    """Builds a report with nothing in it but what is given."""

    def built(published: Sequence[Example], answers: Sequence[Answer] = (), **given: Any) -> Report:
        return build(
            {a.ticket_id: a for a in answers},
            {h.ticket.ticket_id: h for h in given.get("handoffs", ())},
            given.get("events", ()),
            given.get("dead_letters", 0),
            {TicketId(e.ticket_id): e for e in published},
            given.get("baseline", Baseline({}, {})),
            given.get("meta", meta),
        )

    return built


@pytest.fixture
def a_run(fernway: list[Example], make: Records, report_of: Callable[..., Report]) -> Report:
    """120 tickets, split, answered and refused about as a real run does it."""
    rng = random.Random(1)
    published = rng.sample(fernway, 120)
    answers, handoffs = [], []
    for example in published:
        routine = example.kind == "routine"
        good = rng.random() < (0.86 if routine else 0.05)
        draft = example.reference if good else example.wrong[0]
        to_tier1 = rng.random() < (0.8 if routine else 0.12)
        kept = to_tier1 and rng.random() < (0.9 if good else 0.2)
        tries = () if kept or not to_tier1 else (make.attempt("tier1", draft, _reason(rng)),)
        if kept:
            answers.append(make.answer(example.ticket_id, "tier1", draft, (), rng.lognormvariate(0.4, 0.6)))
        elif rng.random() < 0.05:
            handoffs.append(make.handoff(example.ticket_id, (*tries, make.attempt("tier2", "no", "refusal"))))
        else:
            seconds = rng.lognormvariate(1.2, 0.4) + (2.0 if tries else 0.0)
            answers.append(make.answer(example.ticket_id, "tier2", example.reference, tries, seconds))
    baseline = Baseline(
        {TicketId(e.ticket_id): Made(e.reference if rng.random() < 0.68 else e.wrong[0], TIER1_USD) for e in published},
        {TicketId(e.ticket_id): Made(e.reference if rng.random() < 0.97 else "", TIER2_USD) for e in published},
    )
    return report_of(published, answers, handoffs=handoffs, baseline=baseline)


def _reason(rng: random.Random) -> str:
    return rng.choices([GateReason.LOW_SCORE, "unfounded_promise,low_score", GateReason.TRUNCATED], (8, 2, 1))[0]
