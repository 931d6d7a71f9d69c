"""Run a batch until every record has a final result: done, or given up."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from msgspec import Struct

from streams.runtime.stage import DeadLetter, Done, Origin, Record, Result, Stage
from workers.retry import Retry, after_failure

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Attempted:
    """A record's final result and how many tries it took."""

    origin: Origin
    result: Done | DeadLetter
    attempts: int


async def attempt_batch(stage: Stage[T], records: Sequence[Record[T]], rng: random.Random) -> list[Attempted]:
    """Handle a batch; records that failed and may go better are handled again, in ever smaller batches."""
    finished: list[Attempted] = []
    pending = list(records)
    started = time.monotonic()
    attempt = 0
    while pending:
        attempt += 1
        results = await _handled(stage, pending)
        again: list[Record[T]] = []
        delay_s = 0.0
        for record, result in zip(pending, results, strict=True):
            if not isinstance(result, Exception):
                finished.append(Attempted(record.origin, result, attempt))
                continue
            step = after_failure(result, attempt, time.monotonic() - started, stage.retry, rng)
            if isinstance(step, Retry):
                again.append(record)
                delay_s = max(delay_s, step.delay_s)
            else:
                finished.append(Attempted(record.origin, stage.give_up(record, result), attempt))
            _log_failure(record, result, attempt, step)
        pending = again
        if pending:
            await asyncio.sleep(delay_s)
    return finished


async def _handled(stage: Stage[T], records: Sequence[Record[T]]) -> Sequence[Result]:
    """The handler's results; one that fails as a whole is run record by record, so that the guilty one stands alone."""
    try:
        return await stage.handler(records)
    except Exception as exc:
        if len(records) == 1:
            return [exc]
        log.warning("batch_failed", error=type(exc).__name__, records=len(records), next="each record by itself")
        return [result for record in records for result in await _handled(stage, [record])]


def _log_failure(record: Record[T], error: Exception, attempt: int, step: object) -> None:
    # The text of an unknown exception may hold ticket text: its class is logged, and ours hold only reasons.
    log.warning(
        "record_failed",
        topic=record.origin.topic,
        partition=record.origin.partition,
        offset=record.origin.offset,
        error=type(error).__name__,
        reason=getattr(error, "reason", "unexpected error"),
        attempt=attempt,
        next=repr(step),
    )
