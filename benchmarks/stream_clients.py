"""The subjects of benchmarks/stream.py that are ours: two raw aiokafka loops, and the runtime.

    python -m benchmarks.stream_clients NAME SERVERS PREFIX

One subject a process, so that its processor time is its own. The raw loops
take the settings that measured best for them and send record by record, as
aiokafka's documentation does; all decode each ticket and send the same bytes
(benchmarks/payload.py).
"""

import argparse
import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord

from benchmarks.payload import BATCH_BYTES, CALLS_IN_FLIGHT, POLL_RECORDS, answered, origin_of, outputs
from schemas.tickets import Ticket
from schemas.topics import TICKETS
from streams.run import configure_logs
from streams.runtime.loop import StageLoop, tune_interpreter
from streams.runtime.stage import Done, Record, Result, Stage, singly
from streams.settings import KafkaSettings


async def plain(servers: str, prefix: str) -> None:
    """The raw loop without transactions: poll up to 500, send, wait for the broker, commit. A crash repeats records."""
    consumer = AIOKafkaConsumer(
        prefix + TICKETS.name,
        bootstrap_servers=servers,
        group_id=f"{prefix}plain",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=BATCH_BYTES)
    async with producer, consumer:
        while True:
            polled = await consumer.getmany(timeout_ms=500, max_records=POLL_RECORDS)
            records = [record for of_partition in polled.values() for record in of_partition]
            if records:
                await send(producer, prefix, records)
                await consumer.commit()


async def send(producer: AIOKafkaProducer, prefix: str, records: Sequence[ConsumerRecord]) -> None:
    """Send what the records become; return once the broker has it."""
    now = time.time()
    sent = [
        await producer.send(prefix + out.topic, out.value, key=out.key, headers=list(out.headers))
        for record in records
        for out in outputs(record.value, origin_of(record), tuple(record.headers), now)
    ]
    await asyncio.gather(*sent)


async def transactional(servers: str, prefix: str) -> None:
    """The best simple exactly-once loop: each partition has its producer, and every poll of up to 500 is a
    transaction. It waits for whole batches, keeps no order of its own, retries nothing and survives no rebalance."""
    group = f"{prefix}transactional"
    consumer = AIOKafkaConsumer(
        prefix + TICKETS.name,
        bootstrap_servers=servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    async with consumer, asyncio.TaskGroup() as lanes:
        # aiokafka sets no event for it.
        while not consumer.assignment():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for partition in consumer.assignment():
            lanes.create_task(transactional_lane(consumer, partition, servers, prefix, group))


async def transactional_lane(
    consumer: AIOKafkaConsumer, partition: TopicPartition, servers: str, prefix: str, group: str
) -> None:
    """One partition of the transactional loop."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, transactional_id=f"{group}-{partition.partition}", max_batch_size=BATCH_BYTES
    )
    async with producer:
        while True:
            polled = await consumer.getmany(partition, timeout_ms=500, max_records=POLL_RECORDS)
            if records := polled.get(partition):
                async with producer.transaction():
                    await send(producer, prefix, records)
                    await producer.send_offsets_to_transaction({partition: records[-1].offset + 1}, group)


async def answer_batch(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
    """A batch handler that only answers."""
    return [answered(record.value, record.origin) for record in records]


def answer_after(call_s: float) -> Callable[[Record[Ticket]], Awaitable[Done]]:
    """A handler of one record that waits as a model call would, then answers."""

    async def handle(record: Record[Ticket]) -> Done:
        if call_s:
            await asyncio.sleep(call_s)
        return answered(record.value, record.origin)

    return handle


def calls(call_s: float, in_flight: int) -> Stage[Ticket]:
    """A stage of single calls of that length."""
    handler = singly(answer_after(call_s))
    return Stage("router", TICKETS, Ticket, handler, batch_size=1, max_in_flight=in_flight)


async def runtime(stage: Stage[Ticket], servers: str, prefix: str, log_level: str = "warning") -> None:
    """Run a stage of ours as `headgate run` does, until SIGTERM."""
    configure_logs(stage.name, log_level)
    tune_interpreter()
    loop = StageLoop(stage, KafkaSettings(bootstrap_servers=servers, topic_prefix=prefix))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, loop.stop)
    await loop.run()


def batches() -> Stage[Ticket]:
    """A stage like the router and the checker: batches of 64."""
    return Stage("router", TICKETS, Ticket, answer_batch, batch_size=64, max_in_flight=8_000)


SUBJECTS: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "plain": plain,
    "transactional": transactional,
    "batch": lambda servers, prefix: runtime(batches(), servers, prefix),
    "batch_logged": lambda servers, prefix: runtime(batches(), servers, prefix, "info"),
    "single": lambda servers, prefix: runtime(calls(0.0, 8_000), servers, prefix),
    "calls_50ms": lambda servers, prefix: runtime(calls(0.05, CALLS_IN_FLIGHT), servers, prefix),
    "calls_2s": lambda servers, prefix: runtime(calls(2.0, CALLS_IN_FLIGHT), servers, prefix),
}


async def main() -> None:
    """Run one subject until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SUBJECTS)
    parser.add_argument("servers")
    parser.add_argument("prefix")
    args = parser.parse_args()
    await SUBJECTS[args.name](args.servers, args.prefix)


if __name__ == "__main__":
    asyncio.run(main())
