"""The subjects of benchmarks/kills.py: the same work in our runtime and in Faust's agent.

    python -m benchmarks.kill_clients NAME SERVERS PREFIX

For each ticket a call, then one answer with the ticket's key. A call takes
20 ms, and one in 151 takes 8 s, as a model's long answer or a busy provider
does. It is noted in FOLDER/NAME.calls the moment it is made: that is what a
provider would bill.

Faust as its documentation says: `async for event in stream.events()`,
`await topic.send(...)`, concurrency 1 (its default) and 50,
processing_guarantee at its default (at_least_once) and exactly_once. Kind to it
are a static group instance id, as ours has, and a session timeout of 10 s
instead of 60: else each restart after a kill would wait for a minute.
Faust sends a record in a transaction only if the app also reads the topic that
it goes to (its consumer's metadata is where the partition is looked up), so
exactly_once is run both ways: as documented, and with an agent that reads the
answers and drops them.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.payload import answered
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, TICKETS

CALL_S, SLOW_CALL_S = 0.02, 8.0
SLOW_EVERY = 151
"""A prime, so that the slow calls fall on every partition."""
IN_FLIGHT = 50


async def call(calls: int, ticket_id: bytes) -> None:
    """A paid call for a ticket, noted in the file of that descriptor."""
    os.write(calls, ticket_id + b"\n")
    await asyncio.sleep(SLOW_CALL_S if int(ticket_id) % SLOW_EVERY == SLOW_EVERY // 2 else CALL_S)


def run_headgate(servers: str, prefix: str, calls: int) -> None:
    """Our runtime, 50 calls in flight."""
    # Here, so that Faust's processes load none of it.
    from streams.run import configure_logs
    from streams.runtime.loop import StageLoop
    from streams.runtime.stage import Done, Record, Stage, singly
    from streams.settings import KafkaSettings

    async def handle(record: Record[Ticket]) -> Done:
        await call(calls, record.value.ticket_id.encode())
        return answered(record.value, record.origin)

    async def run() -> None:
        stage = Stage("router", TICKETS, Ticket, singly(handle), batch_size=1, max_in_flight=IN_FLIGHT)
        loop = StageLoop(
            stage, KafkaSettings(bootstrap_servers=servers, topic_prefix=prefix, group_instance_id=f"{prefix}0")
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, loop.stop)
        await loop.run()

    configure_logs("router", "warning")
    asyncio.run(run())


def run_faust(
    servers: str, prefix: str, calls: int, concurrency: int, guarantee: str, reads_answers: bool = False
) -> None:
    """Faust's worker with one agent."""
    import faust

    app = faust.App(
        f"{prefix}faust",
        broker=f"kafka://{servers}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=8,
        processing_guarantee=guarantee,
        consumer_group_instance_id=f"{prefix}0",
        broker_session_timeout=10,
        broker_heartbeat_interval=1,
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    tickets = app.topic(prefix + TICKETS.name, **raw)
    answers = app.topic(prefix + ANSWERS.name, **raw)

    @app.agent(tickets, concurrency=concurrency)  # type: ignore[untyped-decorator]
    async def answer(stream: Any) -> None:
        async for event in stream.events():
            await call(calls, event.key)
            await answers.send(key=event.key, value=event.value)

    if reads_answers:

        @app.agent(answers)  # type: ignore[untyped-decorator]
        async def ignore(stream: Any) -> None:
            async for _ in stream:
                pass

    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


SUBJECTS: dict[str, Callable[[str, str, int], None]] = {
    "headgate": run_headgate,
    "faust": partial(run_faust, concurrency=1, guarantee="at_least_once"),
    "faust_50": partial(run_faust, concurrency=IN_FLIGHT, guarantee="at_least_once"),
    "faust_exactly_once": partial(run_faust, concurrency=1, guarantee="exactly_once"),
    "faust_50_exactly_once": partial(run_faust, concurrency=IN_FLIGHT, guarantee="exactly_once"),
    "faust_exactly_once_read": partial(run_faust, concurrency=1, guarantee="exactly_once", reads_answers=True),
    "faust_50_exactly_once_read": partial(
        run_faust, concurrency=IN_FLIGHT, guarantee="exactly_once", reads_answers=True
    ),
}


def main() -> None:
    """Run one subject until it is told to stop, or killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SUBJECTS)
    parser.add_argument("servers")
    parser.add_argument("prefix")
    args = parser.parse_args()
    # Faust's worker reads the command line, too.
    sys.argv[1:] = []
    with Path(f"{args.name}.calls").open("ab") as calls:
        SUBJECTS[args.name](args.servers, args.prefix, calls.fileno())


if __name__ == "__main__":
    main()
