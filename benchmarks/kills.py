"""The same kill test for our runtime and for Faust's agent: what a crash loses, repeats and bills twice.

    make bench NAME=kills

Tickets are published at an even rate. Again and again, at a random moment
after a subject has begun to answer, its process is killed (SIGKILL; in the
middle round it is asked to stop, SIGTERM) and started anew. In the end
everything is left to finish, and a read_committed reader counts. The moments
are seeded, and the same for every subject; all subjects run at the same time,
each on its own topics. benchmarks/kill_clients.py says how each is set up. The
last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer

from benchmarks.load import Client, Watch, committed_ids, create_topics, start_client, watching
from benchmarks.payload import ticket
from schemas.codec import encode
from schemas.topics import ANSWERS, TICKETS
from streams.local.embedded_kafka import EmbeddedKafka

FOLDER = Path(".headgate/bench/kills").resolve()
CLIENTS = "benchmarks.kill_clients"
TITLES = {
    "headgate": "Headgate, 50 in flight",
    "faust": "Faust, concurrency 1",
    "faust_50": "Faust, concurrency 50",
    "faust_exactly_once": "Faust, concurrency 1, exactly_once",
    "faust_50_exactly_once": "Faust, concurrency 50, exactly_once",
    "faust_exactly_once_read": "Faust, concurrency 1, exactly_once, reads answers",
    "faust_50_exactly_once_read": "Faust, concurrency 50, exactly_once, reads answers",
}
PUBLISHED_PER_S = 25.0
"""Slow enough that one call at a time keeps up between the slow ones, long enough to last through the rounds."""
KILLED_AFTER_S = (0.5, 6.0)
"""From a subject's first answers of a round to its end."""
ROUND_LIMIT_S = 40.0
"""Longer than a start, the end of a dead member's session and a slow call take together."""
STILL_S = 25.0
"""Output that has not grown for this long will not grow any more: longer than a session timeout and a rebalance."""
END_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is there in the end."""

    tickets: int
    kills: int
    lost: int
    """Tickets without an answer."""
    duplicates: int
    """Answers beyond the first to a ticket."""
    calls_repeated: int
    """Calls beyond the first for a ticket."""
    hung_rounds: int
    """Rounds that never came to their share."""
    seconds: float


async def torment(name: str, servers: str, tickets: int, rounds: int, seed: int) -> Outcome:
    """Kill a subject once a round, let it finish, and count."""
    prefix = f"{name.replace('_', '-')}-"
    await create_topics(servers, prefix)
    rng = random.Random(seed)
    started, hung = time.monotonic(), 0
    async with watching(servers, [prefix + ANSWERS.name]) as watch:
        publishing = asyncio.create_task(publish(servers, prefix, range(tickets)))
        client = start_client(CLIENTS, name, [servers, prefix], FOLDER)
        try:
            for number in range(rounds):
                hung += not await _grown(watch, ROUND_LIMIT_S)
                await asyncio.sleep(rng.uniform(*KILLED_AFTER_S))
                client = await _restarted(client, graceful=number == rounds // 2, arguments=[servers, prefix])
            await publishing
            await _finished(watch, servers, prefix, tickets)
        finally:
            publishing.cancel()
            client.stop(signal.SIGKILL)
    ids = await committed_ids(servers, prefix + ANSWERS.name)
    calls = (FOLDER / f"{name}.calls").read_text("ascii").split()
    return Outcome(
        tickets=tickets,
        kills=rounds - 1,
        lost=tickets - len(set(ids)),
        duplicates=len(ids) - len(set(ids)),
        calls_repeated=len(calls) - len(set(calls)),
        hung_rounds=hung,
        seconds=round(time.monotonic() - started, 1),
    )


async def publish(servers: str, prefix: str, numbers: range) -> None:
    """Publish the tickets of these numbers at an even rate."""
    started = time.monotonic()
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for number in numbers:
            await asyncio.sleep(max(0.0, started + number / PUBLISHED_PER_S - time.monotonic()))
            value = ticket(number)
            await producer.send(prefix + TICKETS.name, encode(value), key=value.ticket_id.encode())


async def _restarted(client: Client, graceful: bool, arguments: Sequence[str]) -> Client:
    client.check()
    # In a thread: a graceful stop takes seconds, and the other subjects' rounds go on.
    await asyncio.to_thread(client.stop, signal.SIGTERM if graceful else signal.SIGKILL, 30.0)
    return start_client(CLIENTS, client.name, arguments, FOLDER)


async def _grown(watch: Watch, limit_s: float) -> bool:
    """Whether the output grew in time."""
    deadline = time.monotonic() + limit_s
    before = await watch.look()
    while await watch.look() == before:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def _finished(watch: Watch, servers: str, prefix: str, tickets: int) -> None:
    """Wait until every ticket is answered, or nothing comes any more."""
    deadline = time.monotonic() + END_LIMIT_S
    while time.monotonic() < deadline and await _grown(watch, STILL_S):
        if len(set(await committed_ids(servers, prefix + ANSWERS.name))) == tickets:
            # A repeated answer comes at once: a client reads again from where it last committed.
            deadline = min(deadline, time.monotonic() + 5.0)


def table(outcomes: dict[str, Outcome]) -> str:
    """The outcomes side by side."""
    lines = [f"{'':52} {'tickets':>8} {'kills':>6} {'lost':>6} {'twice':>6} {'calls repeated':>15} {'hung rounds':>12}"]
    lines += [
        f"{TITLES[name]:52} {o.tickets:8} {o.kills:6} {o.lost:6} {o.duplicates:6} {o.calls_repeated:15} "
        f"{o.hung_rounds:12}"
        for name, o in outcomes.items()
    ]
    return "\n".join(lines)


async def main() -> None:
    """Torment every subject and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(TITLES), choices=TITLES, help="these subjects")
    args = parser.parse_args()
    # Its retries are expected here, and it logs each.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with EmbeddedKafka(FOLDER / "kafka", load=True) as kafka:
        servers = kafka.bootstrap_servers
        found = await asyncio.gather(
            *(torment(name, servers, args.tickets, args.rounds, args.seed) for name in args.only)
        )
    outcomes = dict(zip(args.only, found, strict=True))
    print(table(outcomes))
    figures = {f"{name}_{figure}": n for name, o in outcomes.items() for figure, n in asdict(o).items()}
    print(json.dumps({"seed": args.seed, "rounds": args.rounds, **figures}))


if __name__ == "__main__":
    asyncio.run(main())
