"""What is asked of a provider for a ticket in a batch, and what follows from each result."""

import orjson
import pytest

from schemas.drafts import Draft
from schemas.generations import Usage
from schemas.tickets import Routed
from tests.tier2_client import config, routed, target
from workers.errors import PermanentError, RetryableError
from workers.tier2 import wire
from workers.tier2.batch_wire import Outcome
from workers.tier2.batching import BATCH_TRIES, Batching, Concluded
from workers.tier2.client import HandoffError
from workers.tier2.paid_call import today

ASKED = target("anthropic", "http://127.0.0.1:1")
USAGE = Usage(prompt_tokens=1_000, completion_tokens=100)
COST_MICRO_USD = (1_000 * 2 + 100 * 10) // 2
"""At claude-sonnet-5-5's batch price."""


def answer(text: str = "It is the setup fee.", model: str = ASKED.model) -> wire.Completion:
    return wire.Completion(text, "stop", model, USAGE)


def concluded(outcome: Outcome | None, number: int = 1, ticket: Routed | None = None) -> Concluded:
    return Batching(config(ASKED)).conclude(
        ticket or routed(), outcome, ASKED, "US", number=number, reserved_micro_usd=9_000, duration_s=60.0
    )


def test_a_request_is_that_of_a_call_and_costs_half_at_worst() -> None:
    """The same body, so that the same prompt cache holds its system prompt."""
    batching = Batching(config(ASKED))
    asked = batching.ask(routed(), ASKED, "US")
    assert orjson.loads(asked.body).keys() == {"model", "max_tokens", "system", "messages"}
    price = batching.config.prices.of(ASKED.model, today())
    whole = price.worst_case_micro_usd(len(asked.body) // 2, 500)
    assert asked.worst_micro_usd == pytest.approx(whole / 2, abs=1)


def test_personal_data_stays_here_and_is_back_in_the_draft() -> None:
    """As with a call: the placeholder leaves, the address comes back."""
    ticket = routed("Write to ann@example.com, please.")
    asked = Batching(config(ASKED)).ask(ticket, ASKED, "US")
    assert b"ann@example.com" not in asked.body
    draft = concluded(answer("We write to [EMAIL_1]."), ticket=ticket).step
    assert isinstance(draft, Draft)
    assert draft.text == "We write to ann@example.com."
    assert b"ann@example.com" in Batching(config(ASKED)).ask(ticket, ASKED, "").body


def test_an_answer_becomes_a_draft_at_the_batch_price() -> None:
    """Cost, usage, calls and model are those of the batch."""
    found = concluded(answer(), number=2)
    draft = found.step
    assert isinstance(draft, Draft)
    assert (draft.tier, draft.provider, draft.model, draft.usage) == ("tier2", "anthropic", ASKED.model, USAGE)
    assert (round(draft.cost_usd * 1e6), found.charged_micro_usd) == (COST_MICRO_USD, COST_MICRO_USD)
    assert (draft.calls, draft.duration_s, draft.exposure_usd) == (2, 60.0, 0.0)


def test_what_was_not_executed_is_tried_again_and_then_goes_by_calls() -> None:
    """A bounded number of batches, since each may take a day; nothing was charged."""
    expired = wire.TurnedAwayError("in a batch: expired")
    steps = [concluded(expired, number) for number in range(1, BATCH_TRIES + 1)]
    assert [s.step for s in steps] == ["again"] * (BATCH_TRIES - 1) + ["calls"]
    assert {s.charged_micro_usd for s in steps} == {0}


@pytest.mark.parametrize(
    ("outcome", "charged_micro_usd"),
    [
        (wire.RejectedError("in a batch: invalid_request_error"), 0),
        (None, None),
        (RetryableError("HTTP 500"), None),
    ],
)
def test_what_a_batch_cannot_settle_goes_by_calls(outcome: Outcome | None, charged_micro_usd: int | None) -> None:
    """At once; what may have been charged stays counted."""
    assert concluded(outcome) == Concluded("calls", charged_micro_usd)


@pytest.mark.parametrize("outcome", [wire.BrokenAnswerError("no answer"), PermanentError("ended with 'tool_use'")])
def test_what_was_paid_for_and_is_no_answer_goes_to_a_person(outcome: Outcome) -> None:
    """With what it may have cost."""
    found = concluded(outcome)
    assert isinstance(found.step, HandoffError)
    assert (found.step.why, found.step.exposure_usd, found.charged_micro_usd) == ("rejected", 0.009, None)


def test_another_models_answer_is_paid_for_and_not_used() -> None:
    """As with a call."""
    found = concluded(answer(model="claude-opus-5-5"))
    assert isinstance(found.step, HandoffError)
    assert (round(found.step.cost_usd * 1e6), found.charged_micro_usd) == (COST_MICRO_USD, COST_MICRO_USD)


def test_a_batch_at_a_target_that_is_gone_is_named() -> None:
    """Nobody could ask for its results."""
    with pytest.raises(ValueError, match=r"openai/gpt-6\.1-sol"):
        Batching(config(ASKED)).target_of("openai/gpt-6.1-sol")
