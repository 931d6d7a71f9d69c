"""Tier-2's client against every fault of a provider: one table, for both wire formats, alone and with a fallback.

Everything goes over loopback to the recorded frontier. Its own ledger says what was really charged.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.frontier_faults import FAULTS, NO_SUCH_HOST, self_signed_server
from tests.tier2_client import (
    ANSWER,
    SILENT_S,
    UNHEARD_MICRO_USD,
    Frontier,
    Running,
    config,
    routed,
    running,
    scripted,
    target,
)
from workers.tier2.client import HandoffError
from workers.tier2.wire import Provider

BOTH: tuple[Provider, ...] = ("anthropic", "openai")
OTHER: Mapping[Provider, Provider] = {"anthropic": "openai", "openai": "anthropic"}

Outcome = Literal["answered", "answered by the other", "a draft to be refused", "unavailable", "rejected"]
Money = Literal["nothing", "the answer", "the answer and more", "more"]
"""What counts as spent: the cost of an answer, or the worst case of a call of unknown outcome, or both."""


@pytest.fixture
async def provider() -> AsyncIterator[Frontier]:
    async with scripted() as frontier:
        yield frontier


@dataclass(frozen=True)
class Row:
    """A fault, what becomes of the ticket with one target and with a second one behind it, and the money after it."""

    fault: str
    times: int
    alone: Outcome
    alone_money: Money
    with_fallback: Outcome
    fallback_money: Money


MATRIX = [
    #   fault            times  one target                                          with a fallback
    Row("rate_limited", 1, "answered", "the answer", "answered", "the answer"),
    Row("rate_limited", 2, "answered", "the answer", "answered by the other", "the answer"),
    Row("rate_limited", 3, "unavailable", "nothing", "answered by the other", "the answer"),
    Row("overloaded", 1, "answered", "the answer", "answered", "the answer"),
    Row("overloaded", 3, "unavailable", "nothing", "answered by the other", "the answer"),
    Row("error_500", 1, "answered", "the answer and more", "answered", "the answer and more"),
    Row("error_500", 3, "unavailable", "more", "answered by the other", "the answer and more"),
    Row("hang", 1, "answered", "the answer and more", "answered", "the answer and more"),
    Row("hang", 3, "unavailable", "more", "answered by the other", "the answer and more"),
    Row("slow_drip", 1, "answered", "the answer and more", "answered", "the answer and more"),
    Row("half_body", 1, "answered", "the answer and more", "answered", "the answer and more"),
    Row("wrong_json", 1, "answered", "the answer and more", "answered", "the answer and more"),
    Row("wrong_json", 2, "unavailable", "more", "answered by the other", "the answer and more"),
    Row("tls", 1, "rejected", "nothing", "answered by the other", "the answer"),
    Row("dns", 3, "unavailable", "nothing", "answered by the other", "the answer"),
    Row("refusal", 1, "a draft to be refused", "the answer", "a draft to be refused", "the answer"),
    Row("content_filter", 1, "a draft to be refused", "the answer", "a draft to be refused", "the answer"),
    Row("empty_content", 1, "a draft to be refused", "the answer", "a draft to be refused", "the answer"),
    Row("wrong_model", 1, "rejected", "the answer", "answered by the other", "the answer"),
    Row("unknown_model", 1, "rejected", "nothing", "answered by the other", "the answer"),
]
ADDRESSES = ("tls", "dns")
"""Faults that are an address rather than an answer."""
SILENT = ("hang", "slow_drip")
"""Faults that only a call's time ends."""


def cases() -> list[Any]:
    return [
        pytest.param(row, first, fallback, id=f"{row.fault} x{row.times}-{first}-{'fallback' if fallback else 'alone'}")
        for row in MATRIX
        for first in BOTH
        for fallback in (False, True)
        if not (row.fault == "content_filter" and first == "anthropic")
    ]


@pytest.mark.parametrize(("row", "first", "fallback"), cases())
async def test_a_fault_has_its_outcome_and_its_price(
    provider: Frontier, row: Row, first: Provider, fallback: bool
) -> None:
    """The table above, for both wire formats, alone and with the other provider as the fallback."""
    async with AsyncExitStack() as stack:
        base_url = await _address(row, provider, stack)
        tries = min(row.times, 2) if fallback else row.times
        if row.fault not in ADDRESSES:
            provider.then(first, *[FAULTS[row.fault]] * tries)
        targets = [target(first, base_url)] + [target(OTHER[first], provider.base_url, "fallback")] * fallback
        timeout_s = SILENT_S if row.fault in SILENT else 60.0
        attempts = 4 if fallback else 3
        client = await stack.enter_async_context(running(config(*targets, attempts=attempts, timeout_s=timeout_s)))
        outcome, known_micro_usd, exposure_micro_usd = await _outcome(client, first)
        assert outcome == (row.with_fallback if fallback else row.alone)
        money = row.fallback_money if fallback else row.alone_money
        assert (exposure_micro_usd > UNHEARD_MICRO_USD) == ("more" in money)
        assert client.spent_micro_usd == known_micro_usd + exposure_micro_usd
        # To the micro-dollar: what arrived whole is known, and what didn't is within what was set aside for it.
        assert known_micro_usd == await provider.delivered_micro_usd()
        assert await provider.charged_micro_usd() <= client.spent_micro_usd
        assert (known_micro_usd > 0) == ("the answer" in money)


async def _address(row: Row, provider: Frontier, stack: AsyncExitStack) -> str:
    if row.fault == "tls":
        return await stack.enter_async_context(self_signed_server())
    return NO_SUCH_HOST if row.fault == "dns" else provider.base_url


async def _outcome(client: Running, first: Provider) -> tuple[Outcome, int, int]:
    """What became of the ticket; the known cost, and the worst case of what is unknown."""
    try:
        draft = await client.tier2.answer(routed())
    except HandoffError as exc:
        exposure_micro_usd = round(exc.exposure_usd * 1e6)
        why: Outcome = "unavailable" if exc.why == "unavailable" else "rejected"
        return why, client.spent_micro_usd - exposure_micro_usd, exposure_micro_usd
    exposure_micro_usd = round(draft.exposure_usd * 1e6)
    known_micro_usd = client.spent_micro_usd - exposure_micro_usd
    if draft.finish_reason in ("refusal", "content_filter") or not draft.text:
        return "a draft to be refused", known_micro_usd, exposure_micro_usd
    assert draft.text == ANSWER
    return "answered" if draft.provider == first else "answered by the other", known_micro_usd, exposure_micro_usd
