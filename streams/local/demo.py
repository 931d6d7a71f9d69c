"""`headgate demo`: the whole chain on the example company's tickets, from an empty machine to a report."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from schemas.answers import Answer, Handoff
from schemas.events import Event
from schemas.tickets import TicketId
from schemas.topics import ANSWERS, DEAD_LETTERS, EVENTS, HANDOFFS
from streams.letters import REASON
from streams.local import baseline
from streams.local.machine import LocalRun, local_run
from streams.local.processes import StepError
from streams.publish import producer, publish
from streams.read import Reader, reader
from streams.reporting import live_view, page, report
from streams.reporting.tally import Tally
from streams.runtime.clock import utc_now
from streams.settings import Settings
from workers.learning.company import Example, as_ticket, load_company

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
        say(f"publishing  {len(chosen)} tickets of the test split, {options.per_s:g} a second")
        say(f"logs        {options.folder}/logs")
        tally = await _watched(run, chosen, options.per_s, console)
        say("baselines   the same tickets through either tier alone")
        compared = await baseline.measure(run, chosen, {**tally.answers, **tally.handoffs})
    result = report.build(
        tally.answers,
        tally.handoffs,
        tally.events.values(),
        tally.dead_letters,
        {TicketId(e.ticket_id): e for e in chosen},
        compared,
        _meta(run, options, time.monotonic() - started),
    )
    _write(result, options, console)
    if result.lost:
        raise StepError(f"{result.lost} tickets are neither answered nor handed off: see {options.folder}/logs")


def sample(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` examples at random, so the mix of routine and complex is the split's own.

    Raises: StepError if there are not so many.
    """
    if count > len(examples):
        raise StepError(f"--tickets {count}: the test split has {len(examples)}")
    return random.Random(seed).sample(list(examples), count)


async def _watched(run: LocalRun, chosen: Sequence[Example], per_s: float, console: Console) -> Tally:
    """Publish, and watch until every ticket has come out.

    Raises: StepError if a process can't be kept running, or nothing comes out any more.
    """
    # Only what comes from now on: a broker that is not ours may hold an earlier run with the same ticket ids.
    tally = Tally(tickets=frozenset(TicketId(e.ticket_id) for e in chosen))
    async with reader(run.kafka, [ANSWERS, HANDOFFS, EVENTS, DEAD_LETTERS], from_start=False) as source:
        work = asyncio.gather(run.processes.watch(), _publish(run, chosen, per_s, tally))
        try:
            with live_view.show(tally, len(chosen), run.processes.states, console) as refresh:
                await _collect(source, tally, len(chosen), work, refresh)
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
    return tally


async def _publish(run: LocalRun, chosen: Sequence[Example], per_s: float, tally: Tally) -> None:
    started = time.monotonic()
    async with producer(run.kafka) as client:
        for number, example in enumerate(chosen):
            await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
            await publish(client, run.kafka, as_ticket(example))
            tally.published += 1


async def _collect(
    source: Reader, tally: Tally, total: int, work: "asyncio.Future[Any]", refresh: Callable[[], None]
) -> None:
    finished, moved_at = 0, time.monotonic()
    while tally.finished < total:
        if work.done():
            work.result()  # raises what went wrong
        for received in await source.poll(0.25):
            if isinstance(received.value, Answer | Handoff | Event):
                tally.add(received.value)
            elif REASON in dict(received.headers):
                tally.dead_letters += 1
        refresh()
        if tally.finished != finished:
            finished, moved_at = tally.finished, time.monotonic()
        elif time.monotonic() - moved_at > SILENCE_LIMIT_S:
            raise StepError(f"{total - finished} tickets did not come out within {SILENCE_LIMIT_S:.0f} s: see the logs")


def _write(result: report.Report, options: DemoOptions, console: Console) -> None:
    figures = orjson.dumps(report.as_json(result))
    (options.folder / "report.json").write_bytes(figures)
    path = options.folder / "report.html"
    path.write_text(page.page(result), "utf-8")
    report.print_report(result, console)
    console.print(f"The same as a page, with charts: {path}", highlight=False, soft_wrap=True)
    if options.as_json:
        print(figures.decode())


def _meta(run: LocalRun, options: DemoOptions, wall_s: float) -> report.RunMeta:
    real = [
        "Kafka 4.3.1, the stages as processes of their own, and every record between them.",
        "Router and checker: an int8 ONNX graph and a learned scorer, trained on the training and validation splits.",
        "Tier-1: SmolLM2-135M with Fernway's LoRA adapter, generating on this machine's CPU; its cost is the measured "
        f"busy time at ${run.settings.tier1.usd_per_hour:g} an hour.",
        "Quality: every answer is checked by its ticket's rubric, by a program.",
    ]
    recorded = ["Fernway and its tickets are made up: written by this project's authors."]
    if run.frontier.recorded:
        recorded.append(
            "Tier-2's answers are a recording, written by this project's authors and no model's: each passes its "
            "rubric, so all-tier-2 reaches 100 % by construction. Protocol, token counts (about 4 characters a token) "
            f"and latency are imitated; the prices are {run.frontier.model}'s list prices."
        )
    else:
        real.append(f"Tier-2: {run.frontier.description}.")
    return report.RunMeta(
        company=run.settings.company,
        command=f"headgate demo --tickets {options.tickets} --per-second {options.per_s:g} --seed {options.seed}",
        at=utc_now(),
        wall_s=wall_s,
        real=tuple(real),
        recorded=tuple(recorded),
    )
