"""Publish tickets, as any helpdesk would: a plain idempotent producer, ticket_id as the key."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.progress import track

from schemas.codec import PoisonError, decode, encode
from schemas.tickets import Ticket
from schemas.topics import TICKETS
from streams.connection import connection
from streams.settings import KafkaSettings


class BadLineError(Exception):
    """A line that is no ticket: which, and why."""


@asynccontextmanager
async def producer(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer; what it has sent is delivered when the block ends."""
    client = AIOKafkaProducer(**connection(settings), client_id="headgate-publish", enable_idempotence=True)
    try:
        await client.start()
        yield client
    finally:
        await client.stop()


async def publish(client: AIOKafkaProducer, settings: KafkaSettings, ticket: Ticket) -> "asyncio.Future[object]":
    """Send a ticket; the future is done when the broker has it."""
    topic = settings.topic_prefix + TICKETS.name
    future: asyncio.Future[object] = await client.send(topic, encode(ticket), key=ticket.ticket_id.encode())
    return future


def tickets(lines: Iterable[bytes]) -> Iterable[Ticket]:
    """Tickets from JSON lines; empty lines are passed over.

    Raises: BadLineError with the line's number. Tickets before it have been yielded.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield decode(Ticket, line)
            except PoisonError as exc:
                raise BadLineError(f"line {number}: {exc.reason}") from exc


def _lines(file: str) -> list[bytes]:
    return sys.stdin.buffer.readlines() if file == "-" else Path(file).read_bytes().splitlines()


async def publish_file(file: str, settings: KafkaSettings, console: Console) -> int:
    """Publish a file of JSON lines (`-` is standard input); returns how many tickets went out.

    Raises: BadLineError for the first line that is no ticket; those before it are published.
    """
    lines = await asyncio.to_thread(_lines, file)
    sent: list[asyncio.Future[object]] = []
    async with producer(settings) as client:
        for ticket in track(tickets(lines), "publishing", total=len(lines), console=console, transient=True):
            sent.append(await publish(client, settings, ticket))
        await asyncio.gather(*sent)
    return len(sent)
