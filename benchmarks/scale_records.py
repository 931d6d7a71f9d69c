"""How large records and prompts are: the example company's test split, encoded as the stages do. No model is asked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from schemas.answers import Verdict
from schemas.audits import Audit
from schemas.codec import encode
from schemas.drafts import Draft
from schemas.events import Event
from schemas.generations import LogProbs, Usage
from schemas.seen import Seen
from schemas.spend import Reserve, Settle, SpendEntry
from schemas.tickets import Decision, Routed, RouteReason, Ticket, Tier
from streams.outcomes import answer, attempt
from streams.runtime.headers import OutputHeaders
from streams.runtime.stage import Origin
from workers.knowledge import load_knowledge
from workers.learning.company import Example, as_ticket, load_company
from workers.tier1 import prompts as tier1_prompts
from workers.tier2 import prompts as tier2_prompts
from workers.tier2.recording import tokens_in

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
AT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
ORIGIN = Origin("tickets", 12, 1_234_567)
PASSAGES = 2
"""Passages of the company's knowledge in a tier-1 prompt, as the router's decision names them."""
ID = "0123456789abcdef0123456789abcdef"


def examples() -> Sequence[Example]:
    return load_company(FERNWAY).split("test")


def sizes(of: Sequence[Example]) -> Mapping[str, int]:
    """Mean bytes of a record by topic: value, key and headers, uncompressed, to the nearest ten."""
    routed = [_routed(e) for e in of]
    drafts = [_draft(e, r, "tier1") for e, r in zip(of, routed, strict=True)]
    verdict = Verdict(
        accepted=True, reasons=(), score=0.98123, threshold=0.93412, policy_version="2026-11-24T12:00:00", cost_usd=3e-7
    )
    records: Mapping[str, Iterable[tuple[str, Struct]]] = {
        "tickets": ((e.ticket_id, as_ticket(e)) for e in of),
        "tier1, tier2": ((r.ticket.ticket_id, r) for r in routed),
        "drafts": ((d.routed.ticket.ticket_id, d) for d in drafts),
        "answers": ((d.routed.ticket.ticket_id, answer(d, verdict)) for d in drafts),
        "events": ((r.ticket.ticket_id, _event(r.ticket, r.decision)) for r in routed),
        "audits": (
            (d.routed.ticket.ticket_id, Audit(ticket=d.routed.ticket, decision=d.routed.decision, draft=a, at=AT))
            for d, a in ((d, attempt(d, verdict)) for d in drafts)
        ),
        "seen": ((f"fernway/{e.ticket_id}", Seen(at=AT, origin=str(ORIGIN))) for e in of),
        "spend": (
            ("", SpendEntry(step=step))
            for step in (Reserve(id=ID, tenant="fernway", micro_usd=6_000), Settle(id=ID, micro_usd=1_182))
        ),
    }
    return {topic: round(_mean(_bytes(topic, those)), -1) for topic, those in records.items()}


def tokens(of: Sequence[Example]) -> Mapping[str, int]:
    """Mean tokens by tier's prompt and answer, at four characters a token: an estimate, as the recording's."""
    passages = load_knowledge(FERNWAY / "knowledge.toml")
    texts = [p.text for p in passages[:PASSAGES]]
    knowledge = "\n".join(p.text for p in passages)
    system = tier2_prompts.system("Fernway", knowledge)

    def tier1(example: Example) -> int:
        return sum(tokens_in(m["content"]) for m in tier1_prompts.chat(as_ticket(example), "Fernway", texts))

    def tier2(example: Example) -> int:
        return tokens_in(tier2_prompts.user(as_ticket(example)))

    def written(example: Example) -> int:
        return tokens_in(example.reference)

    by_what: Mapping[str, Callable[[Example], int]] = {"tier1": tier1, "tier2": tier2, "answer": written}
    return {what: _mean(count(e) for e in of) for what, count in by_what.items()} | {"tier2_system": tokens_in(system)}


def _mean(values: Iterable[int]) -> int:
    found = list(values)
    return round(sum(found) / len(found))


def _bytes(topic: str, records: Iterable[tuple[str, Struct]]) -> Iterable[int]:
    """The helpdesk's own tickets, what is remembered and the ledger have no headers of ours."""
    for key, record in records:
        headers = OutputHeaders("router", ORIGIN, AT.timestamp(), ()).of(type(record).__name__, 0)
        ours = topic not in ("tickets", "seen", "spend")
        yield len(encode(record)) + len(key) + sum(len(name) + len(value) for name, value in headers) * ours


def _routed(example: Example) -> Routed:
    decision = Decision(
        tier="tier1",
        reason=RouteReason.CONFIDENT,
        p_ok=0.912345,
        category=example.category,
        p_category=0.987654,
        threshold=0.723456,
        propensity=0.02,
        policy_version="2026-11-24T12:00:00",
        cost_usd=2.8e-7,
        passages=tuple(f"{example.category}.{example.intent}" for _ in range(PASSAGES)),
        p_ok_tier2=0.991234,
        gain=0.061234,
        in_scope=0.523456,
        model_version="0123456789ab",
    )
    return Routed(ticket=as_ticket(example), decision=decision, received_at=AT)


def _draft(example: Example, routed: Routed, tier: Tier) -> Draft:
    return Draft(
        routed=routed,
        tier=tier,
        text=example.reference,
        finish_reason="stop",
        model="smollm2-135m-fernway",
        provider="openai",
        usage=Usage(prompt_tokens=180, completion_tokens=40),
        logprobs=LogProbs(mean=-0.012345, minimum=-0.912345, q10=-0.112345, q50=-0.000123, tokens=40),
        cost_usd=1.612345e-5,
        duration_s=1.234567,
        cost_per_hour_usd=1.612345e-5,
        engine_s=0.512345,
    )


def _event(ticket: Ticket, decision: Decision) -> Event:
    """As the router's: the others' differ by some fields."""
    return Event(
        event_id=f"router/{ORIGIN}",
        at=AT,
        stage="router",
        outcome="routed",
        ticket_id=ticket.ticket_id,
        tenant=ticket.tenant,
        category=decision.category,
        tier=decision.tier,
        reasons=(decision.reason,),
        p_ok=decision.p_ok,
        p_ok_tier2=decision.p_ok_tier2,
        gain=decision.gain,
        in_scope=decision.in_scope,
        propensity=decision.propensity,
        policy_version=decision.policy_version,
        model="0123456789ab",
        cost_usd=decision.cost_usd,
        duration_s=0.012345,
        age_s=0.023456,
    )
