"""The subjects of benchmarks/stream.py that others built: Faust and FastStream, set up as their documentation says.

    python -m benchmarks.stream_peers NAME SERVERS PREFIX

Faust: an agent over `stream.take_events(500, within=1)` that sends each
record's outputs with `topic.send`; at-least-once, its default; topics declared
raw, since faust.Record would write its own format. FastStream: a batch
subscriber of up to 500 with `publish_batch`, and a subscriber of single records
with `publish`, both acknowledged after the handler; no transactions, its
normal mode. A FastStream batch shares its headers, so that there the outputs
carry none of ours: less work than everybody else's. Both have the producer's
batch size of the raw loops.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import faust
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage, KafkaPublishMessage

from benchmarks.payload import BATCH_BYTES, POLL_RECORDS, origin_of, outputs
from schemas.topics import ANSWERS, EVENTS, TICKETS
from streams.runtime.stage import Origin


def run_faust(servers: str, prefix: str) -> None:
    """Faust's worker with one agent."""
    app = faust.App(
        f"{prefix}faust",
        broker=f"kafka://{servers}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=8,
        producer_max_batch_size=BATCH_BYTES,
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    tickets = app.topic(prefix + TICKETS.name, **raw)
    answers_and_events = {name: app.topic(prefix + name, **raw) for name in (ANSWERS.name, EVENTS.name)}

    @app.agent(tickets)  # type: ignore[untyped-decorator]
    async def answer(stream: Any) -> None:
        async for events in stream.take_events(POLL_RECORDS, within=1):
            now = time.time()
            for event in events:
                message = event.message
                origin = Origin(message.topic, message.partition, message.offset)
                for out in outputs(event.value, origin, tuple(message.headers or ()), now):
                    await answers_and_events[out.topic].send(key=out.key, value=out.value, headers=list(out.headers))

    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


def faststream_broker(servers: str) -> KafkaBroker:
    """A broker client that logs no line a record: the other subjects don't, either."""
    # A batch is one request: at the default of 16 KiB publish_batch would refuse most of them.
    return KafkaBroker(
        servers, max_batch_size=8 * BATCH_BYTES, max_request_size=8 * BATCH_BYTES, decoder=undecoded, logger=None
    )


async def undecoded(message: KafkaMessage) -> Any:
    """The bytes: FastStream would decode JSON by itself, and every subject decodes with our codec."""
    return message.body


def run_faststream(servers: str, prefix: str) -> None:
    """A batch subscriber that publishes a batch to each topic."""
    broker = faststream_broker(servers)

    @broker.subscriber(
        prefix + TICKETS.name,
        group_id=f"{prefix}faststream",
        batch=True,
        max_records=POLL_RECORDS,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.ACK,
    )
    async def answer(values: list[bytes], message: KafkaMessage) -> None:
        by_topic = defaultdict(list)
        now = time.time()
        for record in message.raw_message:
            for out in outputs(record.value, origin_of(record), tuple(record.headers), now):
                by_topic[out.topic].append(KafkaPublishMessage(out.value, key=out.key))
        await asyncio.gather(*(broker.publish_batch(*sent, topic=prefix + name) for name, sent in by_topic.items()))

    asyncio.run(FastStream(broker, logger=None).run())


def run_faststream_single(servers: str, prefix: str) -> None:
    """A subscriber of single records that publishes each output."""
    broker = faststream_broker(servers)

    @broker.subscriber(
        prefix + TICKETS.name,
        group_id=f"{prefix}faststream",
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.ACK,
    )
    async def answer(value: bytes, message: KafkaMessage) -> None:
        record: Any = message.raw_message
        for out in outputs(record.value, origin_of(record), tuple(record.headers), time.time()):
            headers = {name: value.decode() for name, value in out.headers}
            await broker.publish(out.value, prefix + out.topic, key=out.key, headers=headers)

    asyncio.run(FastStream(broker, logger=None).run())


SUBJECTS: dict[str, Callable[[str, str], None]] = {
    "faust": run_faust,
    "faststream": run_faststream,
    "faststream_single": run_faststream_single,
}


def main() -> None:
    """Run one subject until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SUBJECTS)
    parser.add_argument("servers")
    parser.add_argument("prefix")
    args = parser.parse_args()
    # Faust's worker reads the command line, too.
    sys.argv[1:] = []
    SUBJECTS[args.name](args.servers, args.prefix)


if __name__ == "__main__":
    main()
