"""One call of a stage's handler, and what follows from a failure."""

import random
from collections.abc import Sequence
from typing import TypeVar

import structlog
from msgspec import Struct

from streams.runtime.stage import DeadLetter, Done, Origin, Record, Result, Stage
from workers.errors import WorkerDiedError
from workers.retry import Retry, after_failure

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()


async def handled(stage: Stage[T], records: Sequence[Record[T]]) -> Sequence[Result]:
    """The handler's results; a batch that fails as a whole is run record by record: the guilty one stands alone."""
    try:
        results = await stage.handler(records)
    except WorkerDiedError:
        # Nobody's failure: the process ends, and the records are done by whoever starts next.
        raise
    except Exception as exc:
        if len(records) == 1:
            return [exc]
        log.warning("batch_failed", error=type(exc).__name__, records=len(records), next="each record by itself")
        return [result for record in records for result in await handled(stage, [record])]
    if len(results) != len(records):
        raise RuntimeError(f"the handler of {stage.name} returned {len(results)} results for {len(records)} records")
    return results


def after(
    stage: Stage[T], record: Record[T], error: Exception, attempt: int, age_s: float, rng: random.Random
) -> Retry | Done | DeadLetter:
    """What becomes of a record whose try number `attempt` failed, `age_s` seconds after the first did."""
    step = after_failure(error, attempt, age_s, stage.retry, rng)
    _log_failure(record.origin, error, attempt, step)
    return step if isinstance(step, Retry) else stage.give_up(record, error)


def _log_failure(origin: Origin, error: Exception, attempt: int, step: object) -> None:
    # The text of an unknown exception may hold ticket text: its class is logged, and ours hold only reasons.
    log.warning(
        "record_failed",
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        error=type(error).__name__,
        reason=getattr(error, "reason", "unexpected error"),
        attempt=attempt,
        next=repr(step),
    )
