"""One suite for both providers' batch interfaces, on the recorded frontier: submitted, found again, collected."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.frontier_faults import frontier, ledger, recordings
from tests.kafka import until
from tests.tier2_client import KEY, MODELS, target
from workers.errors import PermanentError, RetryableError
from workers.tier2 import wire
from workers.tier2.batch_wire import BatchRequest, Outcome, outcomes
from workers.tier2.batches import (
    CLOCK_SLACK_S,
    AnthropicBatches,
    BatchFailedError,
    NoSuchBatchError,
    NotKnownYetError,
    OpenAIBatches,
    batches_of,
)
from workers.tier2.connection import NotSentError
from workers.tier2.paid_call import today
from workers.tier2.prices import Prices
from workers.tier2.recorded_batches import BatchFault, End
from workers.tier2.recorded_frontier import no_faults
from workers.tier2.wire import Provider

ANSWERS = {f"What is fee number {n}?": f"Fee {n} is ${n}." for n in range(4)}
BATCH_S = 0.3


@dataclass
class Suite:
    """A provider's batches before the recorded frontier; `faults` are for the next submissions, in their order."""

    provider: Provider
    base_url: str
    api: AnthropicBatches | OpenAIBatches
    faults: list[BatchFault] = field(default_factory=list)

    def requests(self, key: str) -> list[BatchRequest]:
        return [BatchRequest(f"{key}-{n}", self.body(question)) for n, question in enumerate(ANSWERS)]

    def body(self, user: str) -> bytes:
        model = MODELS[self.provider]
        return wire.request(self.provider, api_key=KEY, model=model, system="Help.", user=user, max_tokens=100).body

    async def submitted(self, key: str, *faults: BatchFault) -> str:
        self.faults.extend(faults)
        return await self.api.submit(key, self.requests(key))

    async def found(self, key: str, others: tuple[str, ...] = (), ago_s: float = 0.0) -> str | None:
        at_s = time.time() - ago_s
        return await self.api.find(key, len(ANSWERS), at_s, at_s, others)

    async def ended(self, batch_id: str) -> dict[str, Outcome]:
        found: list[dict[str, Outcome]] = []

        async def has_ended() -> bool:
            if (results := await self.api.outcomes(batch_id)) is not None:
                found.append(results)
            return bool(found)

        await until(has_ended, limit_s=10.0)
        return found[0]

    async def kept(self) -> int:
        """Batches (Anthropic) or files (OpenAI) that the provider has."""
        path = {"anthropic": "v1/messages/batches", "openai": "v1/files"}[self.provider]
        async with httpx.AsyncClient(base_url=self.base_url, trust_env=False) as http:
            return len((await http.get(path, headers=wire.auth(self.provider, KEY))).raise_for_status().json()["data"])

    async def batches(self) -> int:
        return int((await ledger(self.base_url))["batches"])


@pytest.fixture(params=["anthropic", "openai"])
async def suite(request: pytest.FixtureRequest) -> AsyncIterator[Suite]:
    faults: list[BatchFault] = []

    def next_fault(_: Provider) -> BatchFault | None:
        return faults.pop(0) if faults else None

    async with (
        frontier(recordings(ANSWERS), no_faults, batch_s=BATCH_S, batch_faults=next_fault) as base_url,
        batches_of(target(request.param, base_url), timeout_s=1.0) as api,
    ):
        yield Suite(request.param, base_url, api, faults)


def ends(*how: End) -> BatchFault:
    """The requests end so, one after the other."""
    return BatchFault(end_of=lambda number: how[number])


async def test_each_answer_is_found_by_its_custom_id(suite: Suite) -> None:
    """In whatever order they come; the provider has charged half of what calls cost, to the micro-dollar."""
    results = await suite.ended(await suite.submitted("k1"))
    assert {
        custom_id: outcome.text for custom_id, outcome in results.items() if isinstance(outcome, wire.Completion)
    } == {f"k1-{n}": answer for n, answer in enumerate(ANSWERS.values())}
    price = Prices.load().of(MODELS[suite.provider], today())
    costs = [price.cost_micro_usd(o.usage, batch=True) for o in results.values() if isinstance(o, wire.Completion)]
    whole = [price.cost_micro_usd(o.usage) for o in results.values() if isinstance(o, wire.Completion)]
    assert sum(costs) == (await ledger(suite.base_url))["cost_micro_usd"]
    assert sum(costs) == pytest.approx(sum(whole) / 2, abs=len(costs))


async def test_a_batch_under_way_has_no_results(suite: Suite) -> None:
    """None says that it has to be asked for again."""
    assert await suite.api.outcomes(await suite.submitted("k1")) is None


async def test_partial_failure_is_told_by_request(suite: Suite) -> None:
    """What has expired or broke was free of charge and may go better; the others have their answers."""
    results = await suite.ended(await suite.submitted("k1", ends("answered", "expired", "errored", "answered")))
    assert isinstance(results["k1-0"], wire.Completion)
    assert isinstance(results["k1-3"], wire.Completion)
    assert isinstance(results["k1-1"], wire.TurnedAwayError)
    assert isinstance(results["k1-2"], RetryableError)


async def test_a_request_that_is_refused_is_told_so(suite: Suite) -> None:
    """Another try would be refused, too; nothing of the provider's message, which may quote the ticket, is told."""
    requests = [*suite.requests("k1"), BatchRequest("k1-9", suite.body("Nobody has recorded an answer to this."))]
    refused = (await suite.ended(await suite.api.submit("k1", requests)))["k1-9"]
    assert isinstance(refused, wire.RejectedError)
    assert "recording" not in refused.reason.replace("no_recording", "")


async def test_a_batch_whose_id_was_lost_is_found(suite: Suite) -> None:
    """The submission's answer never came: the batch is there once, and its own key finds it."""
    with pytest.raises(RetryableError) as caught:
        await suite.submitted("lost", BatchFault(is_told=False))
    assert not isinstance(caught.value, wire.TurnedAwayError | NotSentError)
    others = (await suite.submitted("k1"), await suite.submitted("k2"))
    found: list[str | None] = []

    async def is_known() -> bool:
        try:
            found.append(await suite.found("lost", others))
        except NotKnownYetError:
            return False
        return True

    await until(is_known, limit_s=10.0)
    assert found[0] not in (None, *others)
    assert (await suite.ended(found[0] or "")).keys() == {f"lost-{n}" for n in range(len(ANSWERS))}
    assert await suite.batches() == 3


async def test_what_is_deleted_is_gone_at_the_provider(suite: Suite) -> None:
    """Requests and results; whoever asks for it then is told so, as with an id that never was. Others stay."""
    first = await suite.submitted("k1", ends("answered", "expired", "errored", "answered"))
    second = await suite.submitted("k2")
    for batch_id in (first, second):
        await suite.ended(batch_id)
    kept = await suite.kept()
    await suite.api.delete(first)
    assert (kept, await suite.kept()) == {"anthropic": (2, 1), "openai": (5, 2)}[suite.provider]
    for unknown in (first, "batch_0"):
        with pytest.raises(NoSuchBatchError):
            await suite.api.outcomes(unknown)
    assert len(await suite.ended(second)) == len(ANSWERS)


async def test_a_submission_that_made_no_batch_leaves_nothing_behind(suite: Suite) -> None:
    """It would be uploaded anew at each try."""
    with pytest.raises(wire.TurnedAwayError):
        await suite.submitted("k1", BatchFault(is_made=False))
    assert await suite.kept() == 0


async def test_only_evidence_makes_a_batch_ours(suite: Suite) -> None:
    """Another one of the same size and time is not taken; at Anthropic nothing is said of it until it has ended."""
    other = await suite.submitted("k1")
    if suite.provider == "anthropic":
        with pytest.raises(NotKnownYetError):
            await suite.found("lost")
        assert await suite.found("lost", (other,)) is None
        await suite.ended(other)
    assert await suite.found("lost") is None


async def test_a_batch_that_was_made_too_late_is_not_waited_for(suite: Suite) -> None:
    """Somebody else's of the same size, on the same account, may always be under way."""
    await suite.submitted("k1")
    assert await suite.found("lost", ago_s=2 * CLOCK_SLACK_S) is None


async def test_all_pages_of_the_list_are_searched(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is among the oldest."""
    monkeypatch.setattr("workers.tier2.batches.PAGE", 2)
    first = await suite.submitted("k0")
    for n in range(1, 5):
        await suite.ended(await suite.submitted(f"k{n}"))
    assert await suite.found("k0") == first


async def test_a_submission_that_is_turned_away_made_no_batch(suite: Suite) -> None:
    """It may be sent again at once."""
    with pytest.raises(wire.TurnedAwayError):
        await suite.submitted("k1", BatchFault(is_made=False))
    assert await suite.batches() == 0


async def test_a_submission_is_over_within_its_time_however_many_requests_it_takes() -> None:
    """OpenAI's upload and the batch after it: whoever looks for the batch by then must not come between them."""
    made = []

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        made.append(request.path)
        return web.json_response({"id": "1", "status": "validating", "created_at": 1})

    app = web.Application()
    app.router.add_post("/v1/{name}", slow)
    async with TestServer(app) as server, batches_of(target("openai", str(server.make_url(""))), timeout_s=1.0) as api:
        with pytest.raises(RetryableError, match="no answer within"):
            await api.submit("k1", [BatchRequest("k1-0", b"{}")])
    assert made == ["/v1/files"]


async def test_a_key_that_is_refused_is_the_targets_fault(suite: Suite) -> None:
    """Not the tickets'."""
    suite.api._headers = {}
    with pytest.raises(PermanentError):
        await suite.submitted("k1")
    assert await suite.batches() == 0


async def test_a_batch_that_fails_as_a_whole_has_no_results() -> None:
    """OpenAI checks the file after it was accepted; nothing of it was executed or charged, and the error says so."""
    fails = BatchFault(fails=True)
    async with (
        frontier(recordings(ANSWERS), no_faults, batch_s=0.0, batch_faults=lambda _: fails) as base_url,
        batches_of(target("openai", base_url), timeout_s=1.0) as api,
    ):
        failed = Suite("openai", base_url, api)
        batch_id = await failed.submitted("k1")
        with pytest.raises(BatchFailedError):
            await api.outcomes(batch_id)
        assert (await ledger(base_url))["charged"] == 0


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_broken_answer_in_the_results_is_one_requests_alone(provider: Provider) -> None:
    """It may have been charged: the class says so."""
    broken = {
        "anthropic": {"custom_id": "k-1", "result": {"type": "succeeded", "message": {"hello": "world"}}},
        "openai": {"custom_id": "k-1", "response": {"status_code": 200, "body": {"hello": "world"}}, "error": None},
    }
    found = outcomes(provider, [orjson.dumps(broken[provider]), b""])
    assert isinstance(found["k-1"], wire.BrokenAnswerError)


def test_a_line_that_is_no_result_is_an_error() -> None:
    """Half a download must not read as a request without a result."""
    with pytest.raises(wire.BrokenAnswerError):
        outcomes("openai", [b'{"custom_id": "k-1", "respon'])
