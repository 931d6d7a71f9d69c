"""One call of a handler, and what follows from a failure: who stands alone, who is tried again, who is given up."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest
import structlog

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import TICKETS
from streams.runtime.attempt import after, handled
from streams.runtime.stage import DeadLetter, Done, Origin, Record, Result, Stage, singly
from tests.records import AT, a_ticket
from workers.errors import PermanentError, RetryableError
from workers.retry import Retry, RetryLimits

LIMITS = RetryLimits(attempts=3, age_s=60.0)
DONE = Done((), Event(event_id="e", at=AT, stage="router", outcome="routed", ticket_id=a_ticket().ticket_id))


def record(name: str, offset: int = 0) -> Record[Ticket]:
    return Record(a_ticket(ticket_id=name), Origin("tickets", 0, offset), 0.0)


def stage(handler: Callable[[Sequence[Record[Ticket]]], Awaitable[Sequence[Result]]]) -> Stage[Ticket]:
    return Stage("router", TICKETS, Ticket, handler, retry=LIMITS)


async def results_of(of: Stage[Ticket], *names: str) -> Sequence[Result]:
    return await handled(of, [record(name, i) for i, name in enumerate(names)])


def what_follows(error: Exception, attempt: int = 1, age_s: float = 0.0) -> Retry | Done | DeadLetter:
    return after(stage(singly(never)), record("a"), error, attempt, age_s, random.Random(0))


async def never(record: Record[Ticket]) -> Done:
    raise AssertionError(f"{record.origin} was handled")


async def test_results_come_in_the_order_of_their_records() -> None:
    """One call for the batch; a failure among the results is the one record's own."""
    calls: list[Sequence[str]] = []

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        calls.append([r.value.ticket_id for r in records])
        return [RetryableError("busy") if r.value.ticket_id == "b" else DONE for r in records]

    first, second, third = await results_of(stage(handler), "a", "b", "c")
    assert calls == [["a", "b", "c"]]
    assert first is third is DONE
    assert isinstance(second, RetryableError)


async def test_a_batch_that_fails_as_a_whole_is_run_record_by_record() -> None:
    """The guilty record stands alone, and the innocent ones are done."""
    calls: list[Sequence[str]] = []

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        names = [r.value.ticket_id for r in records]
        calls.append(names)
        if "bad" in names:
            raise ValueError("cannot")
        return [DONE for _ in names]

    first, second, third = await results_of(stage(handler), "a", "bad", "c")
    assert calls == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert first is third is DONE
    assert isinstance(second, ValueError)


async def test_a_single_call_that_fails_is_the_records_result() -> None:
    """It is not called again on the spot: the back-off is the dispatcher's."""
    calls: list[str] = []

    async def handle(record: Record[Ticket]) -> Done:
        calls.append(record.value.ticket_id)
        raise RetryableError("busy")

    (result,) = await results_of(stage(singly(handle)), "a")
    assert calls == ["a"]
    assert isinstance(result, RetryableError)


@pytest.mark.parametrize("returned", [0, 1, 3])
async def test_another_number_of_results_than_records_is_a_bug(returned: int) -> None:
    """Nobody can say whose results these are, so none of them is taken."""

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        return [DONE] * returned

    with pytest.raises(RuntimeError, match=f"returned {returned} results for 2 records"):
        await results_of(stage(handler), "a", "b")


async def test_a_cancellation_passes_through() -> None:
    """A partition that is taken away must not leave paid calls running, nor run its batch record by record."""
    begun = asyncio.Event()
    calls: list[int] = []

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        calls.append(len(records))
        begun.set()
        await asyncio.Event().wait()
        return []

    task = asyncio.create_task(results_of(stage(handler), "a", "b"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == [2]


def test_every_failure_class_ends_as_it_should() -> None:
    """Retryable rests until its attempts are used up, permanent and unknown end at once."""
    assert isinstance(what_follows(RetryableError("busy"), attempt=2), Retry)
    assert what_follows(RetryableError("busy"), attempt=3) == DeadLetter("RetryableError: busy", "RetryableError")
    assert what_follows(PermanentError("rejected")) == DeadLetter("PermanentError: rejected", "PermanentError")
    assert what_follows(KeyError("the customer's words")) == DeadLetter("KeyError: unexpected error", "KeyError")


def test_a_record_that_fails_for_too_long_is_given_up() -> None:
    """Whatever attempts are left: the age counts from its first failure."""
    assert isinstance(what_follows(RetryableError("busy"), age_s=1.0), Retry)
    assert isinstance(what_follows(RetryableError("busy"), age_s=60.0), DeadLetter)


def test_an_unknown_exception_is_loud() -> None:
    """The operator learns its class and the record's place, and none of the customer's words."""
    with structlog.testing.capture_logs() as logs:
        what_follows(KeyError("the customer's words"))
    (entry,) = [e for e in logs if e["event"] == "record_failed"]
    assert (entry["error"], entry["topic"], entry["partition"], entry["offset"]) == ("KeyError", "tickets", 0, 0)
    assert "customer" not in str(logs)


def test_a_stage_may_give_a_record_up_in_its_own_way() -> None:
    """Tier-1 sends it to tier-2, tier-2 to a person: `give_up` gets the record and the last error."""
    given_up: list[tuple[str, str]] = []

    def to_a_person(record: Record[Ticket], error: Exception) -> Done:
        given_up.append((record.value.ticket_id, str(error)))
        return DONE

    of = Stage("tier1", TICKETS, Ticket, singly(never), give_up=to_a_person, retry=LIMITS)
    assert after(of, record("a"), RetryableError("busy"), 3, 0.0, random.Random(0)) is DONE
    assert given_up == [("a", "busy")]
