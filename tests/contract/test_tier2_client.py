"""Tier-2's client: waits, targets, money, and what it sends, over loopback to the recorded frontier."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from schemas.tickets import Attempt
from tests.frontier_faults import (
    NO_SUCH_HOST,
    Script,
    error_500,
    frontier,
    hang,
    overloaded,
    rate_limited,
    recordings,
    unknown_model,
    wrong_json,
)
from tests.tier2_client import ANSWER, KEY, UNHEARD_MICRO_USD, Frontier, config, routed, running, scripted, target
from workers.errors import HeldError
from workers.tier2.client import HandoffError, Tier2
from workers.tier2.hedging import CALLS_PER_HEDGE
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_desk import LocalSpend


@pytest.fixture
async def provider() -> AsyncIterator[Frontier]:
    async with scripted() as frontier:
        yield frontier


# -- retries ------------------------------------------------------------------------------------------------------


async def test_the_draft_tells_all_calls_and_their_time(provider: Frontier) -> None:
    """Failed ones and the waits between them included; the provider's dated name of the model is kept."""
    provider.then("anthropic", overloaded)
    async with running(config(target("anthropic", provider.base_url))) as client:
        draft = await client.tier2.answer(routed())
        assert (draft.text, draft.calls, draft.provider) == (ANSWER, 2, "anthropic")
        assert round(draft.cost_usd * 1e6) == client.spent_micro_usd
        assert draft.duration_s == sum(client.time.waits_s)
        assert 0.25 <= draft.duration_s <= 0.5


async def test_the_providers_wait_is_honoured(provider: Frontier) -> None:
    """Retry-After is longer than our own pause, so it counts; for every ticket, not only for the one that was told."""
    provider.then("anthropic", lambda p: rate_limited(p, retry_after_s=7.0))
    async with running(config(target("anthropic", provider.base_url))) as client:
        await client.tier2.answer(routed())
        assert sum(client.time.waits_s) >= 7.0


async def test_a_wait_past_the_deadline_is_not_waited(provider: Frontier) -> None:
    """The ticket goes to a person now, not in ten minutes."""
    provider.then("anthropic", lambda p: rate_limited(p, retry_after_s=600.0))
    async with running(config(target("anthropic", provider.base_url))) as client:
        with pytest.raises(HandoffError, match="1 calls, the last: HTTP 429 rate_limit_error"):
            await client.tier2.answer(routed())
        assert sum(client.time.waits_s) == 0


async def test_whoever_may_wait_is_not_handed_off_for_want_of_a_turn(provider: Frontier) -> None:
    """A ticket of the slow lane for which nothing was tried tries again later; a live one goes to a person. So does one
    of the slow lane whose call has failed."""
    provider.then("anthropic", lambda p: rate_limited(p, retry_after_s=600.0))
    async with running(config(target("anthropic", provider.base_url))) as client:
        with pytest.raises(HandoffError, match="1 calls"):
            await client.tier2.answer(routed(), behind=True)
        with pytest.raises(HandoffError, match="0 calls"):
            await client.tier2.answer(routed())
        with pytest.raises(HeldError, match="0 calls"):
            await client.tier2.answer(routed(), behind=True)
        client.time.now_s += 600.0
        assert (await client.tier2.answer(routed(), behind=True)).calls == 1


async def test_a_long_wait_is_another_targets_turn(provider: Frontier) -> None:
    """Nobody waits a minute for one provider while another is free."""
    provider.then("anthropic", lambda p: rate_limited(p, retry_after_s=60.0))
    targets = target("anthropic", provider.base_url), target("openai", provider.base_url, "fallback")
    async with running(config(*targets)) as client:
        draft = await client.tier2.answer(routed())
        assert (draft.provider, draft.calls) == ("openai", 2)
        assert sum(client.time.waits_s) < 5.0


async def test_a_call_gets_no_more_time_than_the_deadline_leaves(provider: Frontier) -> None:
    """However long the timeout of one call."""
    provider.then("anthropic", hang)
    short = config(target("anthropic", provider.base_url), timeout_s=60.0, deadline_s=0.2, attempts=1)
    async with running(short) as client:
        with pytest.raises(HandoffError, match=r"no answer within 0\.2 s"):
            await client.tier2.answer(routed())


async def test_a_cancelled_call_counts_at_its_worst_case(provider: Frontier) -> None:
    """When partitions move, the call is dropped here and perhaps finished, and charged, there."""
    provider.then("anthropic", hang)
    async with running(config(target("anthropic", provider.base_url), timeout_s=60.0)) as client:
        task = asyncio.create_task(client.tier2.answer(routed()))
        async with asyncio.timeout(10):
            while not await provider.calls():  # noqa: ASYNC110 - the server is to be met as it is
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.spent_micro_usd > UNHEARD_MICRO_USD


async def test_a_rejected_request_is_not_made_again(provider: Frontier) -> None:
    """No other target would take it either; the provider's words are kept."""
    targets = target("anthropic", provider.base_url), target("openai", provider.base_url, "fallback")
    async with running(config(*targets)) as client:
        with pytest.raises(HandoffError, match="no recording for this ticket") as refused:
            await client.tier2.answer(routed(body="What is the weather?"))
        assert (refused.value.why, refused.value.calls) == ("rejected", 1)


# -- breaker and order --------------------------------------------------------------------------------------------


async def test_a_target_that_keeps_failing_is_left_alone(provider: Frontier) -> None:
    """Later tickets go to the fallback at once; when its time has come the target is asked again, and is back."""
    provider.then("anthropic", *[error_500] * 6)
    targets = target("anthropic", provider.base_url), target("openai", provider.base_url, "fallback")
    async with running(config(*targets, attempts=6)) as client:
        drafts = [await client.tier2.answer(routed()) for _ in range(6)]
        assert [d.provider for d in drafts] == ["openai"] * 6
        assert drafts[-1].calls == 1, "nobody asks it any more"
        left = provider.script.left
        provider.script.steps["anthropic"].clear()
        assert left < 6
        client.time.now_s += 600.0
        assert (await client.tier2.answer(routed())).provider == "anthropic"


async def test_a_refused_key_is_not_tried_ticket_after_ticket(provider: Frontier) -> None:
    """The target is at fault, so its breaker opens with the first refusal."""
    provider.then("anthropic", unknown_model)
    targets = target("anthropic", provider.base_url), target("openai", provider.base_url, "fallback")
    async with running(config(*targets)) as client:
        drafts = [await client.tier2.answer(routed()) for _ in range(3)]
        assert [d.calls for d in drafts] == [2, 1, 1]


async def test_primaries_share_the_tickets_by_weight(provider: Frontier) -> None:
    """Three to one, as far as chance allows."""
    first = target("anthropic", provider.base_url, weight=3.0)
    async with running(config(first, target("openai", provider.base_url, weight=1.0))) as client:
        drafts = [await client.tier2.answer(routed()) for _ in range(80)]
        assert 45 <= sum(d.provider == "anthropic" for d in drafts) <= 75


async def test_a_slow_answer_is_asked_for_a_second_time(provider: Frontier) -> None:
    """Once it takes longer than nearly all others did; the slow call is dropped, and counts at its worst case."""
    spend = LocalSpend(SpendLimits())
    # On the real clock: how long answers take is what it is about.
    async with Tier2(config(target("anthropic", provider.base_url), hedge=True, timeout_s=60.0), spend) as tier2:
        drafts = [await tier2.answer(routed()) for _ in range(60)]
        provider.then("anthropic", hang)
        async with asyncio.timeout(20):
            drafts.append(await tier2.answer(routed()))
    assert (drafts[-1].text, drafts[-1].calls) == (ANSWER, 2)
    assert drafts[-1].exposure_usd * 1e6 > UNHEARD_MICRO_USD
    # Also what the few other second calls may have cost.
    spent_micro_usd = spend.book.counted_micro_usd(None, "month", spend.now_s())
    assert spent_micro_usd == sum(round((d.cost_usd + d.exposure_usd) * 1e6) for d in drafts)
    assert sum(d.calls - 1 for d in drafts) <= 61 / 20


async def test_a_second_call_that_fails_is_not_the_first_ones_fault(provider: Frontier) -> None:
    """Both fail: the first target's own failure decides what follows, so it is asked again and answers."""
    targets = target("anthropic", provider.base_url), target("openai", provider.base_url, "fallback")
    async with Tier2(config(*targets, hedge=True, timeout_s=1.0), LocalSpend(SpendLimits())) as tier2:
        # They pay for one second call; with one more, a slow one among them might spend it.
        for _ in range(CALLS_PER_HEDGE):
            await tier2.answer(routed())
        # At once: whatever the machine is like, the first call is slower than that.
        tier2.callers["anthropic/claude-sonnet-5-5"].hedge._took_s.extend([0.0] * 200)
        provider.then("anthropic", hang)
        provider.then("openai", unknown_model)
        draft = await tier2.answer(routed())
        assert (draft.provider, draft.text, draft.calls) == ("anthropic", ANSWER, 3)


# -- money --------------------------------------------------------------------------------------------------------


def cent_a_day(**limits: Any) -> SpendLimits:
    return SpendLimits(day_usd=0.01, **limits)


async def test_the_spend_limit_stops_retries_too(provider: Frontier) -> None:
    """A broken call's worst case counts, so the next one doesn't fit any more."""
    provider.then("anthropic", wrong_json)
    async with running(config(target("anthropic", provider.base_url)), cent_a_day()) as client:
        with pytest.raises(HandoffError, match="spend limit") as refused:
            await client.tier2.answer(routed())
        assert (refused.value.why, refused.value.calls) == ("spend_limit", 1)
        assert refused.value.exposure_usd * 1e6 == client.spent_micro_usd


async def test_calls_wait_for_room_under_the_spend_limit(provider: Frontier) -> None:
    """The limit holds one worst case at a time, and all five real costs: nobody is turned away."""
    async with running(config(target("anthropic", provider.base_url)), SpendLimits(day_usd=0.012)) as client:
        async with asyncio.timeout(10):
            drafts = await asyncio.gather(*(client.tier2.answer(routed()) for _ in range(5)))
        assert [d.calls for d in drafts] == [1] * 5
        assert client.spent_micro_usd == await provider.charged_micro_usd()


async def test_a_ticket_that_finds_no_room_in_time_is_a_matter_of_money(provider: Frontier) -> None:
    """Another process's call holds all of the limit until its deadline: nobody says that the provider was away."""
    waiting = config(target("anthropic", provider.base_url), deadline_s=0.2)
    async with running(waiting, SpendLimits(day_usd=0.007)) as client:
        await client.spend.reserve("default", 6_900, patience_s=1.0)
        with pytest.raises(HandoffError, match="nothing was granted") as refused:
            await client.tier2.answer(routed())
        assert (refused.value.why, refused.value.calls) == ("spend_limit", 0)
        assert await provider.calls() == 0


async def test_held_tickets_come_back_when_the_period_is_over(provider: Frontier) -> None:
    """The first that is declared and possible: hold; the stage begins nothing meanwhile."""
    holding = config(target("anthropic", provider.base_url), when_spent=("hold", "handoff"), hold_s=1e6)
    async with running(holding, SpendLimits(month_usd=0.0)) as client:
        with pytest.raises(HandoffError):
            # No month will ever leave room for it.
            await client.tier2.answer(routed())
    async with running(holding, SpendLimits(day_usd=0.007)) as client:
        provider.then("anthropic", wrong_json)
        with pytest.raises(HeldError) as held:
            await client.tier2.answer(routed())
        assert 0 < held.value.after_s <= 24 * 3600 + 1
        assert client.tier2.saturated()


async def test_a_hold_that_would_last_too_long_is_a_handoff(provider: Frontier) -> None:
    """The next in the declared order."""
    holding = config(target("anthropic", provider.base_url), when_spent=("hold", "handoff"), hold_s=1e-9)
    async with running(holding, SpendLimits(day_usd=0.007)) as client:
        provider.then("anthropic", wrong_json)
        with pytest.raises(HandoffError, match="spend limit"):
            await client.tier2.answer(routed())
        assert not client.tier2.saturated()


async def test_a_cheaper_model_says_whose_place_it_takes(provider: Frontier) -> None:
    """Never in silence: the draft names both models. Without a limit in the way the cheaper one is never asked."""
    small = target("anthropic", provider.base_url, "cheaper", model="claude-haiku-5-5")
    cheap = config(target("anthropic", provider.base_url), small, when_spent=("cheaper_model", "handoff"))
    async with running(cheap) as client:
        assert (await client.tier2.answer(routed())).instead_of == ""
    async with running(cheap, SpendLimits(day_usd=0.001)) as client:
        draft = await client.tier2.answer(routed())
        assert (draft.model, draft.instead_of) == ("claude-haiku-5-5", "claude-sonnet-5-5")


async def test_one_tenants_limit_leaves_the_others_alone(provider: Frontier) -> None:
    """Its tickets go to people, the others' are answered."""
    limits = SpendLimits(tenant_day_usd=0.0001)
    async with running(config(target("anthropic", provider.base_url)), replace(limits, tenants={})) as client:
        with pytest.raises(HandoffError, match="tenant"):
            await client.tier2.answer(routed(tenant="small"))
    async with running(config(target("anthropic", provider.base_url)), SpendLimits(tenants={})) as client:
        assert (await client.tier2.answer(routed(tenant="other"))).text == ANSWER


# -- what is sent, and what is shown ------------------------------------------------------------------------------


async def test_a_refused_draft_is_not_shown_to_the_provider(provider: Frontier) -> None:
    """An escalated ticket is asked like any other: the recording, which reads the whole message, finds it."""
    refused = Attempt(tier="tier1", text="It is free.", reason="low_score", score=0.1, cost_usd=0.0, duration_s=1.0)
    async with running(config(target("anthropic", provider.base_url))) as client:
        plain = await client.tier2.answer(routed())
        escalated = await client.tier2.answer(routed(attempts=(refused,)))
        assert plain.usage.prompt_tokens == escalated.usage.prompt_tokens


async def test_the_provider_sees_placeholders_and_the_answer_has_the_data() -> None:
    """The recording finds the ticket by its redacted words alone, and what it says of [EMAIL_1] is put right."""
    recorded = recordings({"Write to [EMAIL_1], please.": "Done: [EMAIL_1] it is."})
    body = "Write to ann@example.com, please."
    async with frontier(recorded, Script()) as base_url:
        async with running(config(target("anthropic", base_url))) as client:
            assert (await client.tier2.answer(routed(body))).text == "Done: ann@example.com it is."
        async with running(config(target("anthropic", base_url), redact=False)) as client:
            with pytest.raises(HandoffError, match="no recording"):
                await client.tier2.answer(routed(body))


async def test_neither_key_nor_ticket_shows_in_errors_and_logs(
    provider: Frontier, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of a client that fails nor of its configuration."""
    provider.then("anthropic", error_500, unknown_model)
    failing = config(target("anthropic", provider.base_url))
    async with running(failing) as client:
        with pytest.raises(HandoffError) as rejected:
            await client.tier2.answer(routed())
    shown = capsys.readouterr()
    everything = repr(rejected.value) + repr(failing) + shown.out + shown.err
    assert "tier2_call_failed" in everything
    assert KEY not in everything
    assert "Ann Field" not in everything


async def test_a_provider_that_is_not_there_is_not_ready() -> None:
    """/readyz says so before a ticket finds out."""
    async with running(config(target("anthropic", NO_SUCH_HOST))) as client:
        assert not await client.tier2.ready()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "gpt-9"}, "gpt-9"),
        ({"base_url": "api.anthropic.com"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"api_key": " "}, "api_key"),
        ({"api_key": "sk-test\n"}, "api_key"),
        ({"api_key": "sk-test "}, "api_key"),
        ({"role": "fallback"}, "primary"),
    ],
)
def test_a_wrong_target_fails_at_start(changes: dict[str, Any], named: str) -> None:
    """The value is named, a key never shown."""
    with pytest.raises(ValueError, match=named) as wrong:
        config(target("anthropic", **({"base_url": "https://api.anthropic.com"} | changes)))
    assert "sk-test" not in str(wrong.value)


def test_a_target_that_comes_twice_fails_at_start() -> None:
    """Its breaker and its pace would be two, and the provider's limit one."""
    first = target("anthropic", "https://api.anthropic.com")
    with pytest.raises(ValueError, match="anthropic/claude-sonnet-5-5"):
        config(first, replace(first, role="fallback"))


@pytest.mark.parametrize("model", [None, "claude-opus-5-5"])
def test_a_cheaper_model_must_be_there_and_cheaper(model: str | None) -> None:
    """Else the operator would only believe to save money."""
    first = target("anthropic", "https://api.anthropic.com")
    others = [target("anthropic", "https://api.anthropic.com", "cheaper", model=model)] if model else []
    with pytest.raises(ValueError, match="cheaper"):
        config(first, *others, when_spent=("cheaper_model", "handoff"))
