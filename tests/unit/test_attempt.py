"""A batch until every record has a final result: who is tried again, who is given up, and what ends it all."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
import structlog

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import TICKETS
from streams.runtime.attempt import Attempted, attempt_batch
from streams.runtime.stage import DeadLetter, Done, Origin, Record, Result, Stage, concurrently
from tests.records import AT, a_ticket
from workers.errors import PermanentError, RetryableError
from workers.retry import RetryLimits

QUICK = RetryLimits(attempts=3, first_delay_s=0.0)
DONE = Done((), Event(event_id="e", at=AT, stage="router", outcome="routed", ticket_id=a_ticket().ticket_id))


def record(name: str, offset: int) -> Record[Ticket]:
    return Record(a_ticket(ticket_id=name), Origin("tickets", 0, offset), 0.0)


def stage(handler: Callable[[Sequence[Record[Ticket]]], Awaitable[Sequence[Result]]]) -> Stage[Ticket]:
    return Stage("router", TICKETS, Ticket, handler, retry=QUICK)


async def attempted(of: Stage[Ticket], *names: str) -> dict[int, Attempted]:
    results = await attempt_batch(of, [record(name, i) for i, name in enumerate(names)], random.Random(0))
    assert len(results) == len(names)
    return {result.origin.offset: result for result in results}


async def test_only_what_failed_is_tried_again() -> None:
    """A record that is done is not worked on twice, whatever its neighbours do."""
    calls: list[list[str]] = []

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        calls.append([r.value.ticket_id for r in records])
        return [RetryableError("busy") if r.value.ticket_id == "b" and len(calls) < 3 else DONE for r in records]

    results = await attempted(stage(handler), "a", "b", "c")
    assert calls == [["a", "b", "c"], ["b"], ["b"]]
    assert [results[i].attempts for i in range(3)] == [1, 3, 1]
    assert all(results[i].result is DONE for i in range(3))


async def test_a_batch_that_fails_as_a_whole_is_run_record_by_record() -> None:
    """The guilty record stands alone, and the innocent ones are done."""
    calls: list[list[str]] = []

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        names = [r.value.ticket_id for r in records]
        calls.append(names)
        if "bad" in names:
            raise ValueError("cannot")
        return [DONE for _ in names]

    results = await attempted(stage(handler), "a", "bad", "c")
    assert calls == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert isinstance(results[1].result, DeadLetter)
    assert results[0].result is results[2].result is DONE


async def test_every_failure_class_ends_as_it_should() -> None:
    """Retryable after its attempts, permanent and unknown at once; an unknown one's text stays out."""

    async def handle(record: Record[Ticket]) -> Done:
        match record.value.ticket_id:
            case "retryable":
                raise RetryableError("busy")
            case "permanent":
                raise PermanentError("rejected")
            case _:
                raise KeyError("the customer's words")

    results = await attempted(stage(concurrently(handle)), "retryable", "permanent", "unknown")
    assert [(results[i].result, results[i].attempts) for i in range(3)] == [
        (DeadLetter("RetryableError: busy", "RetryableError"), 3),
        (DeadLetter("PermanentError: rejected", "PermanentError"), 1),
        (DeadLetter("KeyError: unexpected error", "KeyError"), 1),
    ]


async def test_an_unknown_exception_is_loud() -> None:
    """The operator learns its class and the record's place, and none of the customer's words."""

    async def handle(record: Record[Ticket]) -> Done:
        raise KeyError("the customer's words")

    with structlog.testing.capture_logs() as logs:
        await attempted(stage(concurrently(handle)), "a")
    (entry,) = [e for e in logs if e["event"] == "record_failed"]
    assert (entry["error"], entry["topic"], entry["partition"], entry["offset"]) == ("KeyError", "tickets", 0, 0)
    assert "customer" not in str(logs)


async def test_a_stage_may_give_a_record_up_in_its_own_way() -> None:
    """Tier-1 sends it to tier-2, tier-2 to a person: `give_up` gets the record and the last error."""
    given_up: list[tuple[str, str]] = []

    def to_a_person(record: Record[Ticket], error: Exception) -> Done:
        given_up.append((record.value.ticket_id, str(error)))
        return DONE

    async def handle(record: Record[Ticket]) -> Done:
        raise RetryableError("busy")

    of = Stage("tier1", TICKETS, Ticket, concurrently(handle), give_up=to_a_person, retry=QUICK)
    results = await attempted(of, "a", "b")
    assert Counter(given_up) == Counter([("a", "busy"), ("b", "busy")])
    assert all(r.result is DONE and r.attempts == 3 for r in results.values())


async def test_a_cancellation_passes_through_and_ends_the_handlers() -> None:
    """A partition that is taken away must not leave paid calls running, nor make dead letters."""
    begun, cancelled = asyncio.Event(), []

    async def handle(record: Record[Ticket]) -> Done:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(record.value.ticket_id)
            raise
        return DONE

    task = asyncio.create_task(
        attempt_batch(stage(concurrently(handle)), [record("a", 0), record("b", 1)], random.Random())
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(cancelled) == ["a", "b"]


async def test_an_empty_batch_asks_nobody() -> None:
    """A batch of poison alone leaves nothing for the handler."""

    async def handler(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        raise AssertionError("called")

    assert await attempted(stage(handler)) == {}
