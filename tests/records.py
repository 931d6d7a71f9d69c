"""Records as they travel, for tests: complete, and each field open to the test that cares about it."""

from datetime import UTC, datetime
from typing import Any

from schemas.answers import Verdict
from schemas.drafts import Draft
from schemas.generations import LogProbs, Usage
from schemas.tickets import Attempt, Decision, Routed, RouteReason, Ticket, TicketId, Tier

AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def a_ticket(body: str = "Where is my router?", **fields: Any) -> Ticket:
    return Ticket(**{"ticket_id": TicketId("t1"), "body": body, **fields})


def a_decision(tier: Tier = "tier1", **fields: Any) -> Decision:
    values: dict[str, Any] = {
        "tier": tier,
        "reason": RouteReason.CONFIDENT,
        "p_ok": 0.9,
        "category": "orders",
        "p_category": 0.8,
        "threshold": 0.5,
        "propensity": 1.0,
        "policy_version": "v1",
        "cost_usd": 0.001,
    }
    return Decision(**values | fields)


def a_routed(ticket: Ticket | None = None, **fields: Any) -> Routed:
    return Routed(**{"ticket": ticket or a_ticket(), "decision": a_decision(), "received_at": AT, **fields})


def a_draft(text: str = "It arrives in 2 business days.", routed: Routed | None = None, **fields: Any) -> Draft:
    values: dict[str, Any] = {
        "routed": routed or a_routed(),
        "tier": "tier1",
        "text": text,
        "finish_reason": "stop",
        "model": "m",
        "provider": "p",
        "usage": Usage(prompt_tokens=10, completion_tokens=5),
        "logprobs": LogProbs(mean=-0.1, minimum=-1.0, q10=-0.5, q50=-0.05, tokens=5),
        "cost_usd": 0.01,
        "duration_s": 1.0,
    }
    return Draft(**values | fields)


def a_verdict(accepted: bool = True, **fields: Any) -> Verdict:
    values: dict[str, Any] = {
        "accepted": accepted,
        "reasons": (),
        "score": 0.9,
        "threshold": 0.5,
        "policy_version": "v1",
        "cost_usd": 0.0001,
    }
    return Verdict(**values | fields)


def an_attempt(tier: Tier = "tier1", text: str = "a draft", reason: str = "", **fields: Any) -> Attempt:
    return Attempt(
        **{"tier": tier, "text": text, "reason": reason, "score": None, "cost_usd": 0.0, "duration_s": 1.0, **fields}
    )
