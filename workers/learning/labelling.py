"""Labels for router and checker: tier-1 really answers the tickets, and the rubric says which answers are acceptable."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from workers.learning.company import Example, as_ticket
from workers.learning.rubric import grade
from workers.tier1.engine import Engine, Generation
from workers.tier1.prompts import chat

IN_FLIGHT = 16


class Outcome(Struct, frozen=True):
    """What tier-1 made of one example ticket."""

    ticket_id: str
    generation: Generation
    acceptable: bool


async def outcomes(examples: Sequence[Example], engine: Engine, company: str, max_tokens: int) -> list[Outcome]:
    """Run tier-1 on every example and grade what it says."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def outcome(example: Example) -> Outcome:
        async with slots:
            made = await engine.generate(chat(as_ticket(example), company), max_tokens)
        return Outcome(example.ticket_id, made, grade(made.text, example.rubric).acceptable)

    return list(await asyncio.gather(*(outcome(e) for e in examples)))


def save(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write outcomes as JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(o) + b"\n" for o in outcomes))


def load(path: Path) -> list[Outcome]:
    """Read outcomes from JSON lines."""
    return [msgspec.json.decode(line, type=Outcome) for line in path.read_bytes().splitlines()]
