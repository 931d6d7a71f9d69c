"""Topics: made as schemas/topics.py says, and shown as they are.

`apply` may be run at any time: it creates what is missing and adds partitions,
and never removes or changes what is there; what differs it reports.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from schemas.topics import Topic, all_names
from streams.connection import connection
from streams.runtime.closing import closed
from streams.settings import KafkaSettings

READY_LIMIT_S = 60.0
"""A new partition has a leader within milliseconds; a cluster that is recovering may take most of a minute."""
POLL_S = 0.05

RETENTION, CLEANUP, MAX_BYTES = "retention.ms", "cleanup.policy", "max.message.bytes"
TIME = "message.timestamp.type"
MIN_IN_SYNC = "min.insync.replicas"
KEYS = (RETENTION, CLEANUP, MAX_BYTES, TIME)
INTERNAL = ("__consumer_offsets", "__transaction_state")
"""Kafka's own topics that exactly once rests on."""


class TopicsError(Exception):
    """The cluster can't be reached, or doesn't do what was asked: what, and why."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a topic is split, copied and kept."""

    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did for one topic."""

    topic: str
    action: Literal["created", "grown", "kept"]
    partitions: int
    drift: tuple[str, ...] = ()
    """Differences that were left as they are."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the cluster has it."""

    topic: str
    leaders: tuple[int | None, ...]
    """The leading broker of each partition, in order; none at all where the topic doesn't exist."""
    retention_ms: int | None = None
    cleanup: str = ""
    records: int = 0
    """End minus start offsets: an upper bound, since it counts transaction markers and compacted records."""

    @property
    def partitions(self) -> int:
        return len(self.leaders)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the settings ask for, and what the cluster has."""

    brokers: int
    wanted: Mapping[str, Shape]
    found: Mapping[str, Shape]
    """Of those that exist; the config holds MIN_IN_SYNC, too."""
    leaderless: tuple[str, ...]
    """Partitions, as topic/number; here as below."""
    behind: tuple[str, ...]
    """Those that fewer brokers have in full than should."""
    internal_copies: Mapping[str, int]
    """Of Kafka's own topics."""


def wanted_shapes(settings: KafkaSettings) -> dict[str, Shape]:
    """What the table and the settings ask for, by full names."""
    prefix, partitions, copies = settings.topic_prefix, settings.partitions, settings.replication_factor
    return {
        name: wanted_shape(topic, partitions, copies, twin=name.removeprefix(prefix + topic.name))
        for name, topic in all_names(prefix).items()
    }


def wanted_shape(topic: Topic, partitions: int, replication_factor: int, twin: str = "") -> Shape:
    """The same of one topic."""
    return Shape(
        partitions=topic.partitions or partitions,
        replication_factor=replication_factor,
        config={
            # A compacted topic keeps the last record of every key for ever.
            RETENTION: str(-1 if topic.cleanup == "compact" else topic.retention_ms),
            CLEANUP: topic.cleanup,
            MAX_BYTES: str(topic.limit_bytes(twin)),
            **({TIME: "LogAppendTime"} if topic.broker_time else {}),
        },
    )


def differing(wanted: Shape, found: Shape) -> dict[str, str]:
    """The settings of a topic that are not as wanted, with the values that are."""
    return {key: value for key, value in wanted.config.items() if found.config.get(key) != value}


def decide(name: str, wanted: Shape, found: Shape | None) -> Applied:
    """What to do about one topic. Partitions are only ever added: Kafka can't take one away without its records."""
    if found is None:
        return Applied(name, "created", wanted.partitions)
    drift = [f"{key} is {found.config.get(key)}, wanted {value}" for key, value in differing(wanted, found).items()]
    if found.replication_factor != wanted.replication_factor:
        drift.append(f"replication factor is {found.replication_factor}, wanted {wanted.replication_factor}")
    if found.partitions > wanted.partitions:
        drift.append(f"has {found.partitions} partitions, wanted {wanted.partitions}")
    grows = found.partitions < wanted.partitions
    return Applied(name, "grown" if grows else "kept", max(found.partitions, wanted.partitions), tuple(drift))


async def apply(settings: KafkaSettings, limit_s: float = READY_LIMIT_S) -> list[Applied]:
    """Create missing topics and partitions, then wait until every partition has a leader. Idempotent.

    Raises: TopicsError if no broker answers, one refuses, or a partition (named) has no leader within `limit_s`.
    """
    wanted = wanted_shapes(settings)
    async with _admin(settings) as admin:
        found = await _shapes(admin, wanted)
        applied = [decide(name, shape, found.get(name)) for name, shape in wanted.items()]
        await _create(admin, {a.topic: wanted[a.topic] for a in applied if a.action == "created"})
        await _grow(admin, {a.topic: a.partitions for a in applied if a.action == "grown"})
        # Else the first records sent would meet partitions that nobody leads yet.
        await _wait_for_leaders(admin, {a.topic: a.partitions for a in applied}, limit_s)
    return applied


async def show(settings: KafkaSettings) -> list[TopicState]:
    """The state of every topic of the table, the missing ones (no partitions) included.

    Raises: TopicsError if no broker answers or one refuses.
    """
    names = all_names(settings.topic_prefix)
    async with _admin(settings) as admin:
        leaders = await _leaders(admin, names)
        configs = await _configs(admin, leaders)
    records = await _records(settings, leaders)
    return [
        TopicState(name, leaders[name], int(configs[name][RETENTION]), configs[name][CLEANUP], records[name])
        if name in leaders
        else TopicState(name, ())
        for name in names
    ]


async def shape_of(settings: KafkaSettings, name: str) -> Shape | None:
    """A topic as the cluster has it, by its full name; None if it is not there. Raises: TopicsError if no broker
    answers."""
    async with _admin(settings) as admin:
        return (await _shapes(admin, [name])).get(name)


async def survey(settings: KafkaSettings) -> Survey:
    """Look at the cluster and change nothing.

    Raises: TopicsError if no broker answers or one refuses.
    """
    wanted = wanted_shapes(settings)
    async with _admin(settings) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        described = await _described(admin, (*wanted, *INTERNAL))
        ours = {name: described[name] for name in wanted if name in described}
        configs = await _configs(admin, ours, (*KEYS, MIN_IN_SYNC))
    each = [(f"{name}/{p['partition']}", p) for name, parts in ours.items() for p in parts]
    return Survey(
        brokers,
        wanted,
        {name: _shape(parts, configs[name]) for name, parts in ours.items()},
        leaderless=tuple(place for place, p in each if p["leader"] < 0),
        behind=tuple(place for place, p in each if p["leader"] >= 0 and len(p["isr"]) < len(p["replicas"])),
        internal_copies={name: len(described[name][0]["replicas"]) for name in INTERNAL if name in described},
    )


async def configs_of(settings: KafkaSettings, names: Iterable[str], keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Settings in effect of those of the topics that exist.

    Raises: TopicsError if no broker answers or one refuses.
    """
    async with _admin(settings) as admin:
        return await _configs(admin, await _described(admin, names), keys)


async def partition_counts(settings: KafkaSettings, names: Iterable[str]) -> dict[str, int]:
    """How many partitions topics have, by their full names.

    Raises: TopicsError if no broker answers, or a topic is not there.
    """
    names = list(names)
    async with _admin(settings) as admin:
        found = await _described(admin, names)
    if missing := [name for name in names if not found.get(name)]:
        raise TopicsError(f"no topic {', '.join(missing)}: create them with `headgate topics apply`")
    return {name: len(found[name]) for name in names}


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        yield admin
    except (KafkaError, TimeoutError, OSError) as exc:
        raise TopicsError(f"Kafka at {settings.bootstrap_servers}: {exc or type(exc).__name__}") from exc
    finally:
        await admin.close()


async def _described(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The partitions of those of `names` that exist, as the metadata lists them, in order."""
    # Asked for all topics, not for these: where a cluster creates topics by itself, naming one would create it.
    described = {t["topic"]: t for t in await admin.describe_topics() if not t["error_code"]}
    return {
        name: sorted(described[name]["partitions"], key=lambda p: int(p["partition"]))
        for name in names
        if name in described
    }


async def _leaders(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, tuple[int | None, ...]]:
    described = await _described(admin, names)
    return {
        name: tuple(None if p["leader"] < 0 else int(p["leader"]) for p in partitions)
        for name, partitions in described.items()
    }


async def _shapes(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Shape]:
    described = await _described(admin, names)
    configs = await _configs(admin, described)
    return {name: _shape(partitions, configs[name]) for name, partitions in described.items()}


def _shape(partitions: Sequence[Mapping[str, Any]], config: Mapping[str, str]) -> Shape:
    return Shape(len(partitions), len(partitions[0]["replicas"]), config)


async def _configs(
    admin: AIOKafkaAdminClient, names: Iterable[str], keys: Iterable[str] = KEYS
) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(keys)) for name in names]
    configs: dict[str, dict[str, str]] = {}
    if not resources:
        return configs
    for response in await admin.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            _check(code, message, f"could not read the settings of {name}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _create(admin: AIOKafkaAdminClient, shapes: Mapping[str, Shape]) -> None:
    if not shapes:
        return
    new = [
        NewTopic(name, shape.partitions, shape.replication_factor, topic_configs=shape.config)
        for name, shape in shapes.items()
    ]
    for name, code, message in (await admin.create_topics(new)).topic_errors:
        # Somebody else created it in between: as good.
        if code != TopicAlreadyExistsError.errno:
            _check(code, message, f"could not create {name}")


async def _grow(admin: AIOKafkaAdminClient, totals: Mapping[str, int]) -> None:
    # Keys move between partitions by this. Harmless here: every ticket is one record, and none waits for another.
    if totals:
        await admin.create_partitions({name: NewPartitions(total) for name, total in totals.items()})


async def _wait_for_leaders(admin: AIOKafkaAdminClient, totals: Mapping[str, int], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while leaderless := leaderless_partitions(totals, await _leaders(admin, totals)):
        if time.monotonic() > deadline:
            shown = ", ".join(leaderless[:5]) + (f" and {len(leaderless) - 5} more" if len(leaderless) > 5 else "")
            raise TopicsError(f"after {limit_s:.0f} s still without a leader: {shown}. Are all brokers up?")
        await asyncio.sleep(POLL_S)


def leaderless_partitions(totals: Mapping[str, int], leaders: Mapping[str, tuple[int | None, ...]]) -> list[str]:
    """The partitions, as topic/number, that are missing or that nobody leads."""
    return [
        f"{name}/{number}"
        for name, total in totals.items()
        for number in range(total)
        if number >= len(leaders.get(name, ())) or leaders[name][number] is None
    ]


async def _records(settings: KafkaSettings, leaders: Mapping[str, tuple[int | None, ...]]) -> dict[str, int]:
    partitions = [TopicPartition(name, number) for name, of_topic in leaders.items() for number in range(len(of_topic))]
    records = dict.fromkeys(leaders, 0)
    if not partitions:
        return records
    consumer = AIOKafkaConsumer(**connection(settings))
    try:
        await consumer.start()
        # Assigned, the topics' metadata comes in one request; else in one a topic, 0.1 s apart. Paused, no record does.
        consumer.assign(partitions)
        consumer.pause(*partitions)
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
    except (KafkaError, TimeoutError, OSError) as exc:
        raise TopicsError(
            f"could not read offsets at {settings.bootstrap_servers}: {exc or type(exc).__name__}"
        ) from exc
    finally:
        await closed(consumer.stop)
    for partition in partitions:
        records[partition.topic] += ends[partition] - starts[partition]
    return records


def _check(code: int, message: str | None, what: str) -> None:
    if code:
        raise TopicsError(f"{what}: {message or for_code(code).__name__}")
