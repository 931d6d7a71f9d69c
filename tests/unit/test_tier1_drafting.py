"""Tier-1's worker: which model is asked what, how a prompt that is too long is asked again, and what a draft says."""

import msgspec
import pytest

from tests.fakes import FakeEngine
from tests.records import a_decision, a_routed, a_ticket
from workers.errors import PermanentError
from workers.tier1.drafting import SHORTER_PROMPTS, Tier1, Tier1Config
from workers.tier1.metering import Prices
from workers.tier1.models import Entry, Models, ServedModel, single
from workers.tier1.prompts import GAP, LEAST_CHARS, chat

CONFIG = Tier1Config(
    company="Fernway",
    passages={"orders.track": "Routers take 2 days.", "orders.cancel": "Cancel by 8 pm."},
    context_tokens=400,
    max_tokens=100,
    prices=Prices(usd_per_hour=0.08, usd_per_million_prompt_tokens=1.0, usd_per_million_completion_tokens=2.0),
)
ROOM_CHARS = 900
"""Three characters for each token that the answer leaves."""


def tier1(engine: FakeEngine, models: Models | None = None) -> Tier1:
    in_force = models or single("only")
    return Tier1(CONFIG, engine, lambda: in_force)


async def test_a_ticket_is_asked_whole_with_the_passages_that_the_router_picked() -> None:
    """In the router's order; one that the company has no longer is left out."""
    engine = FakeEngine()
    routed = a_routed(decision=a_decision(passages=("orders.cancel", "gone", "orders.track")))
    draft = await tier1(engine).answer(routed, priority=1)
    (request,) = engine.requests
    assert request.messages == chat(routed.ticket, "Fernway", ["Cancel by 8 pm.", "Routers take 2 days."])
    assert (request.max_tokens, request.priority) == (100, 1)
    assert (draft.text, draft.model, draft.calls, draft.cut_chars) == ("Hello.", "only", 1, 0)


async def test_a_draft_has_both_costs() -> None:
    """By the engine's busy time, which counts here, and by the token."""
    draft = await tier1(FakeEngine()).answer(a_routed())
    assert draft.engine_s > 0
    assert draft.cost_usd == draft.cost_per_hour_usd == pytest.approx(draft.engine_s * 0.08 / 3600)
    assert draft.cost_per_token_usd == pytest.approx(120e-6)


async def test_a_long_ticket_is_cut_to_the_window_and_the_draft_says_so() -> None:
    """Before it is sent: an engine that takes it whole would cut the answer."""
    engine = FakeEngine(most_chars=ROOM_CHARS)
    draft = await tier1(engine).answer(a_routed(a_ticket("word " * 1_000)))
    assert sum(len(message["content"]) for message in engine.requests[0].messages) == ROOM_CHARS
    assert draft.cut_chars > 5_000 - ROOM_CHARS
    assert draft.calls == 1


async def test_a_prompt_that_the_engine_finds_too_long_is_asked_in_half_the_room() -> None:
    """A text of many tokens, such as numbers; short as it is by its characters."""
    engine = FakeEngine(most_chars=450)
    system_chars = len("You answer customers of Fernway.")
    draft = await tier1(engine).answer(a_routed(a_ticket("7" * 800)))
    lengths = [sum(len(message["content"]) for message in request.messages) for request in engine.requests]
    assert lengths == [system_chars + 800, (system_chars + 800) // 2]
    assert draft.calls == 2
    assert draft.cut_chars == 800 - (lengths[1] - system_chars - len(GAP))


async def test_a_ticket_without_room_is_permanent() -> None:
    """Tier-2's window is larger. It is not asked again when all is left out that may be."""
    engine = FakeEngine(most_chars=0)
    with pytest.raises(PermanentError, match="window"):
        await tier1(engine).answer(a_routed(a_ticket("7" * LEAST_CHARS, context=("fact",))))
    assert len(engine.requests) == 1
    with pytest.raises(PermanentError, match="window"):
        await tier1(engine).answer(a_routed(a_ticket("7" * 100_000)))
    assert len(engine.requests) - 1 <= 1 + SHORTER_PROMPTS


async def test_models_share_the_tickets_and_one_in_force_later_takes_the_next() -> None:
    """A ticket's draft names the model that answered it."""
    in_force = Models("1", (Entry(ServedModel(name="old"), 3.0), Entry(ServedModel(name="canary"), 1.0)))
    worker = Tier1(CONFIG, FakeEngine(), lambda: in_force)
    tickets = [a_routed(a_ticket(ticket_id=f"t{n}")) for n in range(100)]
    drafted = [(await worker.answer(routed)).model for routed in tickets]
    assert drafted == [in_force.pick(routed.ticket.ticket_id).name for routed in tickets]
    assert set(drafted) == {"old", "canary"}
    in_force = single("new")
    assert (await worker.answer(tickets[0])).model == "new"


def test_a_window_without_room_for_a_prompt_is_refused_at_start() -> None:
    """By the settings' names."""
    with pytest.raises(ValueError, match=r"tier1\.max_tokens 400 .* tier1\.context_tokens"):
        msgspec.structs.replace(CONFIG, max_tokens=400)
