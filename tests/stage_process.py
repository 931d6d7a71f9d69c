"""A stage in a process of its own, for tests that kill, stop and restart it.

Every ticket becomes one answer: the ticket itself, as it came. What HOLD names
waits until the file GATE is there, and says in FOLDER/held that it does:
`handler` the work on a batch, `commit` a transaction whose outputs are sent
but whose offset is not.
"""

import asyncio
import os
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
from streams.runtime import loop
from streams.runtime.stage import Done, Output, Record, Result, Stage

FOLDER = Path(os.environ["FOLDER"])
HOLD = os.environ.get("HOLD", "")
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


class HeldProducer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer that holds its transactions open when told to."""

    async def send_offsets_to_transaction(self, offsets: Any, group_id: str) -> None:
        await held("commit")
        await super().send_offsets_to_transaction(offsets, group_id)


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
    return [answered(record) for record in records]


if __name__ == "__main__":
    loop.AIOKafkaProducer = HeldProducer
    configured = settings.load()
    run.configure_logs("router", "info")
    stage = Stage("router", TICKETS, Ticket, handle, batch_size=int(os.environ.get("BATCH", "8")))
    sys.exit(asyncio.run(run._run(stage, configured)))
