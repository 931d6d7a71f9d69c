"""A stage in a process of its own, for tests that kill, stop and restart it.

Every ticket becomes one answer: the ticket itself, as it came; a batch takes
WORK_S seconds on average, each its own time. What HOLD names waits until the
file FOLDER/gate is there, and says in FOLDER/held that it does: `handler` the
work on a batch, `commit` a transaction whose outputs are sent but whose offset
is not.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, TICKETS
from streams import run, settings
from streams.runtime import session
from streams.runtime.stage import Done, Output, Record, Result, Stage

FOLDER = Path(os.environ["FOLDER"])
HOLD = os.environ.get("HOLD", "")
WORK_S = float(os.environ.get("WORK_S", "0"))
LIMIT_S = 90.0


async def held(what: str) -> None:
    """Wait for the gate if this is what is to be held."""
    if what != HOLD:
        return
    (FOLDER / "held").touch()
    deadline = time.monotonic() + LIMIT_S
    # A file is what another process can make; no event of ours is set by it.
    while not (FOLDER / "gate").exists() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


send_offsets_to_transaction = AIOKafkaProducer.send_offsets_to_transaction


async def held_transaction(producer: AIOKafkaProducer, offsets: Any, group_id: str) -> None:
    """Hold a transaction open when told to."""
    await held("commit")
    await send_offsets_to_transaction(producer, offsets, group_id)


def answered(record: Record[Ticket]) -> Done:
    """The ticket as its own answer."""
    key = record.value.ticket_id
    event = Event(
        event_id=f"router/{record.origin}", at=datetime.now(UTC), stage="router", outcome="answered", ticket_id=key
    )
    return Done((Output(ANSWERS, key, record.value),), event)


async def handle(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
    """Answer a batch."""
    await held("handler")
    await asyncio.sleep(random.uniform(0, 2 * WORK_S))
    return [answered(record) for record in records]


if __name__ == "__main__":
    AIOKafkaProducer.send_offsets_to_transaction = held_transaction
    if refresh := os.environ.get("METADATA_REFRESH_S"):
        session.METADATA_REFRESH_S = float(refresh)
    configured = settings.load()
    run.configure_logs("router", "info")
    stage = Stage("router", TICKETS, Ticket, handle, batch_size=int(os.environ.get("BATCH", "8")))
    sys.exit(asyncio.run(run._run(stage, configured)))
