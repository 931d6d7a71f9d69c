"""Labels for router and checker: tier-1 really answers the tickets, and the rubric says which drafts are acceptable."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.drafts import Draft
from schemas.tickets import Decision, Routed
from workers.learning.company import Example, as_ticket
from workers.learning.rubric import grade
from workers.learning.serving import MODEL
from workers.tier1.engine import Engine, Generation, Request
from workers.tier1.prompts import chat

IN_FLIGHT = 16


class Outcome(Struct, frozen=True):
    """What tier-1 made of one example ticket, with the passages it was given."""

    ticket_id: str
    passages: tuple[str, ...]
    """Ids, likeliest first."""
    generation: Generation
    acceptable: bool


async def outcomes(
    examples: Sequence[Example],
    passages: Sequence[tuple[str, ...]],
    texts: dict[str, str],
    engine: Engine,
    company: str,
    max_tokens: int,
) -> list[Outcome]:
    """Run tier-1 on every example, each with its own picked passages (ids, looked up in `texts`), and grade it."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def outcome(example: Example, picked: tuple[str, ...]) -> Outcome:
        prompt = chat(as_ticket(example), company, [texts[passage] for passage in picked])
        async with slots:
            made = await engine.generate(Request(messages=prompt, model=MODEL, max_tokens=max_tokens))
        return Outcome(example.ticket_id, picked, made, grade(made.text, example.rubric).acceptable)

    return list(await asyncio.gather(*(outcome(e, p) for e, p in zip(examples, passages, strict=True))))


def as_draft(example: Example, decision: Decision, outcome: Outcome) -> Draft:
    """An outcome as the checker would get it."""
    made = outcome.generation
    return Draft(
        routed=Routed(ticket=as_ticket(example), decision=decision, received_at=datetime.now(UTC)),
        tier="tier1",
        text=made.text,
        finish_reason=made.finish_reason,
        model=made.model,
        provider="tier1",
        usage=made.usage,
        logprobs=made.logprobs,
        cost_usd=0.0,
        duration_s=0.0,
    )


def save(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write outcomes as JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(o) + b"\n" for o in outcomes))


def load(path: Path) -> list[Outcome]:
    """Read outcomes from JSON lines.

    Raises: FileNotFoundError if that step has not been run.
    """
    return [msgspec.json.decode(line, type=Outcome) for line in path.read_bytes().splitlines()]
