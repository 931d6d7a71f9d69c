"""`headgate demo`: the whole chain on the example company's tickets, from an empty machine to a report."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.live import Live

from schemas.answers import Answer, Handoff
from schemas.events import Event
from schemas.tickets import Routed, TicketId
from schemas.topics import ANSWERS, DEAD_LETTERS, EVENTS, HANDOFFS
from streams import baseline, live_view, report, report_page
from streams.local import LocalRun, local_run
from streams.processes import StepError
from streams.publish import producer, publish
from streams.read import Reader, reader
from streams.settings import Settings
from streams.tally import Tally
from workers.learning.adapter import as_ticket
from workers.learning.company import Example, load_company

SILENCE_LIMIT_S = 90.0
"""No ticket finished for this long: something is broken, and the demo says what it waits for."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for."""

    company: Path
    folder: Path
    tickets: int
    per_s: float
    seed: int
    spend_limit_usd: float
    embedded: bool
    as_json: bool


async def demo(options: DemoOptions, settings: Settings, console: Console) -> None:
    """Run the demo.

    Raises: StepError naming the step that failed and what to do.
    """
    started = time.monotonic()
    chosen = sample(load_company(options.company).split("test"), options.tickets, options.seed)

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s[/]  {text}", highlight=False)

    async with local_run(
        settings, options.company, options.folder, options.embedded, options.spend_limit_usd, say
    ) as run:
        say(
            f"publishing  {len(chosen)} tickets of the test split, {options.per_s:g} a second; logs: {options.folder}/logs"
        )
        tally, received = await _watched(run, chosen, options.per_s, console)
        say("baselines   the same tickets through tier-1 alone and tier-2 alone, to compare with")
        compared = await baseline.measure(run, chosen, received.answers, received.handoffs)
    result = report.build(
        received.answers,
        received.handoffs,
        received.events,
        received.dead_letters,
        {e.ticket_id: e for e in chosen},
        compared,
        _meta(run, options, time.monotonic() - started),
    )
    page = options.folder / "report.html"
    page.write_text(report_page.page(result), "utf-8")
    report.print_report(result, console)
    console.print(f"The same as a page, with charts: {page}")
    if options.as_json:
        print(orjson.dumps(report.as_json(result)).decode())
    if result.lost:
        raise StepError(f"{result.lost} tickets are neither answered nor handed off: see {options.folder}/logs")


def sample(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` examples at random, so the mix of routine and complex is the split's own.

    Raises: StepError if there are not so many.
    """
    if count > len(examples):
        raise StepError(f"--tickets {count}: the test split has {len(examples)}")
    return random.Random(seed).sample(list(examples), count)


@dataclass
class Received:
    """What came out, by ticket."""

    answers: dict[TicketId, Answer]
    handoffs: dict[TicketId, Handoff]
    events: list[Event]
    dead_letters: int = 0


async def _watched(run: LocalRun, chosen: Sequence[Example], per_s: float, console: Console) -> tuple[Tally, Received]:
    """Publish, and watch until every ticket has come out."""
    tally, received = Tally(), Received({}, {}, [])
    watch = asyncio.create_task(run.processes.watch())
    sending = asyncio.create_task(_publish(run, chosen, per_s, tally))
    try:
        async with reader(run.kafka, [ANSWERS, HANDOFFS, EVENTS, DEAD_LETTERS]) as source:
            with live_view.show(tally, len(chosen), run.processes.states, console) as refresh:
                await _collect(source, tally, received, len(chosen), [watch, sending], refresh)
        await sending
    finally:
        for task in (watch, sending):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return tally, received


async def _publish(run: LocalRun, chosen: Sequence[Example], per_s: float, tally: Tally) -> None:
    started = time.monotonic()
    async with producer(run.kafka) as client:
        for number, example in enumerate(chosen):
            await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
            await publish(client, run.kafka, as_ticket(example))
            tally.published += 1
