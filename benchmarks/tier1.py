"""Tier-1's speed: requests fired straight at the engine, the worker, and the whole stage on real Kafka.

    make bench NAME=tier1
    make bench NAME=tier1 ARGS="--requests 48 --in-flight 16 20 24"
    python -m benchmarks.tier1 --engine vllm --model-folder FOLDER     in an environment with vLLM; without the stage

The example company's tickets with the passages that its router picks, on a llama.cpp server with its adapter (or on
vLLM in this process): the same requests for all, with 16 at a time in the engine, in turns, so that a busy machine is
as busy for each. The ratios are medians over the rounds. llama.cpp's prompt cache is off: what an earlier round left in
it would be the next one's advantage. It has all cores but one, which is left to the broker, the stage and the reader.
Occupancy is seen in the server's own metrics, as long as tickets wait that nobody has begun. The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import tier1_stage
from benchmarks.quality import decisions
from benchmarks.tier1_stage import Done
from schemas.tickets import Routed
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.clock import utc_now
from workers.knowledge import load_knowledge
from workers.learning.company import as_ticket, load_company
from workers.learning.serving import served_engine
from workers.router.classifier import Classifier
from workers.router.cores import usable_cores
from workers.tier1.drafting import Tier1, Tier1Config
from workers.tier1.engine import Engine, Request
from workers.tier1.metering import Prices
from workers.tier1.models import Models, load_models
from workers.tier1.openai_engine import OpenAIEngine, parse_completion, request_body

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
FOLDER = Path(".headgate/bench/tier1").resolve()
SLOTS = 16
"""Answers that the server generates at a time, and requests that the engine's own client and the worker keep there."""
MAX_TOKENS = 120
LOOK_S = 0.05
"""Between two looks at the server's metrics."""
DIRECT, WORKER, STAGE = "engine, requests fired directly", "worker", "stage on Kafka"
MODELS_FILE = """
[[model]]
name = "fernway"
[model.extra]
cache_prompt = false
"""

console = Console(width=120, highlight=False)

Subject = Callable[[Sequence[Routed], str], Awaitable[list[Done]]]
"""Has the tickets answered, under a name of its own."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the server was doing."""

    at_s: float
    busy: int
    """Slots."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A subject's way through the tickets."""

    started_s: float
    done: Sequence[Done]
    looks: Sequence[Look]
    in_flight: int

    @property
    def tokens_per_s(self) -> float:
        return sum(d.tokens for d in self.done) / (max(d.at_s for d in self.done) - self.started_s)

    @property
    def with_backlog(self) -> list[int]:
        """Busy slots at each look, from the first answer begun until so few tickets are left that all are in flight."""
        busy_s = [look.at_s for look in self.looks if look.busy]
        left = sorted(d.at_s for d in self.done)[: -self.in_flight]
        if not busy_s or not left:
            return []
        return [look.busy for look in self.looks if busy_s[0] <= look.at_s <= left[-1]]


def load_tickets(count: int) -> list[Routed]:
    """Routine tickets of the test split, drawn once, as the router sends them to tier-1."""
    examples = [example for example in load_company(FERNWAY).split("test") if example.kind == "routine"]
    chosen = random.Random(0).sample(examples, min(count, len(examples)))
    decided = decisions(chosen, Classifier(FERNWAY / "router" / "model.onnx"))
    rows = zip(chosen, decided, strict=True)
    return [Routed(ticket=as_ticket(example), decision=d, received_at=utc_now()) for example, d in rows]


async def _at_a_time(routed: Sequence[Routed], ask: Callable[[Routed], Awaitable[int]]) -> list[Done]:
    """Ask for each, SLOTS at a time; `ask` returns the answer's tokens."""
    slots = asyncio.Semaphore(SLOTS)

    async def one(each: Routed) -> Done:
        async with slots:
            tokens = await ask(each)
            return Done(time.monotonic(), tokens)

    return list(await asyncio.gather(*(one(each) for each in routed)))


def worker_subject(tier1: Tier1) -> Subject:
    """The worker, without Kafka."""

    async def ask(routed: Routed) -> int:
        return (await tier1.answer(routed)).usage.completion_tokens

    return lambda tickets, _: _at_a_time(tickets, ask)


def requests_of(tier1: Tier1, models: Models, tickets: Sequence[Routed]) -> dict[str, Request]:
    """What the worker asks the engine, made beforehand, by ticket id."""

    def request(routed: Routed) -> Request:
        model, prompt = models.pick(routed.ticket.ticket_id), tier1.prompt(routed, 10**6)
        return Request(messages=prompt.messages, model=model, max_tokens=MAX_TOKENS)

    return {routed.ticket.ticket_id: request(routed) for routed in tickets}


def direct_to_server(client: httpx.AsyncClient, requests: Mapping[str, Request]) -> Subject:
    """Nothing but the requests, encoded beforehand."""
    bodies = {name: msgspec.json.encode(request_body(request)) for name, request in requests.items()}
    headers = {"content-type": "application/json"}

    async def ask(routed: Routed) -> int:
        response = await client.post("chat/completions", content=bodies[routed.ticket.ticket_id], headers=headers)
        return parse_completion(response.raise_for_status().content).usage.completion_tokens

    return lambda tickets, _: _at_a_time(tickets, ask)


@asynccontextmanager
async def looking(url: str | None) -> AsyncIterator[list[Look]]:
    """What is seen in the server's metrics meanwhile; nothing where there is no server."""
    looks: list[Look] = []

    async def look(client: httpx.AsyncClient, url: str) -> None:
        while True:
            lines = (await client.get(url)).text.splitlines()
            busy = next(float(line.split()[1]) for line in lines if line.startswith("llamacpp:requests_processing"))
            looks.append(Look(time.monotonic(), int(busy)))
            await asyncio.sleep(LOOK_S)

    async with httpx.AsyncClient(timeout=60.0) as client:
        task = asyncio.create_task(look(client, url)) if url else None
        try:
            yield looks
        finally:
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def in_turns(
    subjects: Mapping[str, tuple[Subject, int]], tickets: Sequence[Routed], rounds: int, metrics_url: str | None
) -> dict[str, list[Pass]]:
    """Every subject over the tickets, `rounds` times, each time another one first. A subject comes with the number of
    tickets that it has in flight."""
    for name, (subject, _) in subjects.items():
        await subject(tickets[:SLOTS], f"warm-{name}")
    passes: dict[str, list[Pass]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            subject, in_flight = subjects[name]
            async with looking(metrics_url) as looks:
                started_s = time.monotonic()
                done = await subject(tickets, f"round-{number}")
            passes[name].append(Pass(started_s, done, looks, in_flight))
            console.print(f"round {number + 1}: {name:32} {passes[name][-1].tokens_per_s:7.1f} tokens/s")
    return passes


async def on_server(kafka: EmbeddedKafka, args: argparse.Namespace) -> dict[str, list[Pass]]:
    """All three on a llama.cpp server."""
    (FOLDER / "models.toml").write_text(MODELS_FILE)
    models, tickets = load_models(FOLDER / "models.toml"), load_tickets(args.requests)
    threads = args.threads or max(1, usable_cores() - 1)
    async with AsyncExitStack() as stack:
        engine: OpenAIEngine = await stack.enter_async_context(
            served_engine(FERNWAY / "tier1" / "adapter.gguf", threads)
        )
        base_url = engine.config.base_url
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=base_url + "/", timeout=600.0))
        tier1 = worker(engine, models)
        subjects = {
            DIRECT: (direct_to_server(client, requests_of(tier1, models, tickets)), SLOTS),
            WORKER: (worker_subject(tier1), SLOTS),
        }
        setup = tier1_stage.Setup(
            kafka.bootstrap_servers, FERNWAY / "headgate.toml", base_url, FOLDER / "models.toml", FOLDER
        )
        for in_flight in args.in_flight:
            stage = await stack.enter_async_context(tier1_stage.running(setup, in_flight))
            subjects[f"{STAGE}, {in_flight} in flight"] = (stage.draft, in_flight)
        return await in_turns(subjects, tickets, args.rounds, base_url.removesuffix("v1") + "metrics")


async def on_vllm(args: argparse.Namespace) -> dict[str, list[Pass]]:
    """The engine's own client and the worker on vLLM in this process."""
    from vllm.inputs import tokens_input

    from workers.tier1 import vllm_engine
    from workers.tier1.vllm_engine import VllmConfig, VllmEngine

    (FOLDER / "models.toml").write_text(MODELS_FILE)
    models, tickets = load_models(FOLDER / "models.toml"), load_tickets(args.requests)
    config = VllmConfig(
        model=args.model_folder,
        context_tokens=768,
        max_num_seqs=SLOTS,
        max_num_queued_reqs=2 * SLOTS,
        timeout_s=600.0,
        device=args.device,
    )
    async with VllmEngine(config) as engine:
        await engine.load(models.served)
        tier1 = worker(engine, models)
        requests = requests_of(tier1, models, tickets)
        prompts = {name: engine._tokens(request.messages) for name, request in requests.items()}
        params = vllm_engine._params(MAX_TOKENS, None)

        async def ask(routed: Routed) -> int:
            name = routed.ticket.ticket_id
            outputs = engine._llm.generate(tokens_input(prompts[name]), params, f"{name}-{time.monotonic_ns()}")
            return len([output async for output in outputs][-1].outputs[0].token_ids)

        subjects: dict[str, tuple[Subject, int]] = {
            DIRECT: (lambda tickets, _: _at_a_time(tickets, ask), SLOTS),
            WORKER: (worker_subject(tier1), SLOTS),
        }
        # Unlike the server's, vLLM's prompt cache is always on: the first round fills it for both, and doesn't count.
        passes = await in_turns(subjects, tickets, args.rounds + 1, None)
    return {name: each[1:] for name, each in passes.items()}


def worker(engine: Engine, models: Models) -> Tier1:
    """The worker as the stage has it."""
    config = Tier1Config(
        company="Fernway",
        passages={passage.id: passage.text for passage in load_knowledge(FERNWAY / "knowledge.toml")},
        context_tokens=768,
        max_tokens=MAX_TOKENS,
        prices=Prices(usd_per_hour=0.08),
    )
    return Tier1(config, engine, lambda: models)


def versus_engine(passes: Mapping[str, Sequence[Pass]], name: str) -> float:
    """A subject's tokens a second against the engine's, round by round."""
    return median(a.tokens_per_s / b.tokens_per_s for a, b in zip(passes[name], passes[DIRECT], strict=True))


def occupancy(passes: Sequence[Pass]) -> float:
    """Mean share of the slots that are busy while tickets wait; NaN if it wasn't seen."""
    busy = [slots for each in passes for slots in each.with_backlog]
    return mean(busy) / SLOTS if busy else float("nan")


def idle(passes: Sequence[Pass]) -> int:
    """Looks at an idle engine while tickets wait."""
    return sum(slots == 0 for each in passes for slots in each.with_backlog)


def table(passes: Mapping[str, Sequence[Pass]]) -> Table:
    """What is compared, for a reader."""
    made = Table("subject", "tokens/s", "lowest", "highest", "of the engine", "occupancy", "idle looks", "looks")
    for name, each in passes.items():
        rates = [one.tokens_per_s for one in each]
        numbers = (f"{value:.1f}" for value in (median(rates), min(rates), max(rates)))
        seen = sum(len(one.with_backlog) for one in each)
        made.add_row(
            name, *numbers, f"{versus_engine(passes, name):.3f}", f"{occupancy(each):.3f}", str(idle(each)), str(seen)
        )
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("openai", "vllm"), default="openai")
    parser.add_argument("--requests", type=int, default=96, help="of one pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16], help="of the stage; the first counts")
    parser.add_argument("--threads", type=int, help="of the llama.cpp server; by default all cores but one")
    parser.add_argument("--model-folder", type=Path, help="vLLM: the model's Hugging Face folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="vLLM: where it runs")
    args = parser.parse_args()
    if args.engine == "vllm" and not args.model_folder:
        sys.exit("tier1: --engine vllm needs --model-folder")
    # Its retries are expected here (a new partition's first leader), and it logs each.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    busy, started = os.getloadavg()[0], time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    if args.engine == "vllm":
        passes = asyncio.run(on_vllm(args))
    else:
        with EmbeddedKafka(FOLDER / "kafka", load=True) as kafka:
            passes = asyncio.run(on_server(kafka, args))
        shutil.rmtree(FOLDER / "kafka")
    console.print(table(passes))
    console.print(f"{time.monotonic() - started:.0f} s; the load average before it began was {busy:.1f}")
    stages = {name: versus_engine(passes, name) for name in passes if name.startswith(STAGE)}
    counts = next(iter(stages), WORKER)
    figures = {
        "worker_vs_engine": round(versus_engine(passes, WORKER), 3),
        "stage_vs_engine": round(stages[counts], 3) if stages else None,
        "occupancy": round(occupancy(passes[counts]), 3) if stages else None,
        "idle_with_backlog": idle(passes[counts]) if stages else None,
        "tokens_per_s": {name: round(median(one.tokens_per_s for one in each), 1) for name, each in passes.items()},
        "stages_vs_engine": {name: round(value, 3) for name, value in stages.items()},
        "requests": len(passes[DIRECT][0].done),
        "rounds": len(passes[DIRECT]),
        "load_before": round(busy, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
