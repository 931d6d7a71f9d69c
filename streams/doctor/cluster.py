"""The broker and the topics: are they there, as the table wants them, with copies enough, and with transactions?"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.topics import (
    AUDITS,
    BACKFILL,
    EVENTS,
    LABELS,
    SCOREBOARD_AUDITS,
    SCOREBOARD_CELLS,
    SCOREBOARD_JOURNEYS,
    SCOREBOARD_LABELS,
    SEEN,
    SPEND,
    TICKETS,
)
from streams.connection import connection
from streams.doctor.finding import Finding, shortened
from streams.read import raw, reader
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings
from streams.topics import CLEANUP, MAX_BYTES, MIN_IN_SYNC, RETENTION, Shape, Survey, differing, survey

KAFKA, TOPICS = "Kafka", "topics"

APPLY = "headgate topics apply"

FOLLOWS: Mapping[str, tuple[str, ...]] = {
    SEEN.name: (TICKETS.name,),
    SEEN.name + BACKFILL: (TICKETS.name + BACKFILL,),
    SCOREBOARD_CELLS.name: (EVENTS.name,),
    SCOREBOARD_JOURNEYS.name: (EVENTS.name,),
    SCOREBOARD_LABELS.name: (LABELS.name,),
    SCOREBOARD_AUDITS.name: (AUDITS.name, AUDITS.name + BACKFILL),
}
"""Topics that are written partition by partition beside others."""

AHEAD = timedelta(seconds=5)
"""So far may clocks be apart: ages and spend limits' periods are off by as much."""

ASK_AGAIN_S = 0.25
COORDINATOR_LIMIT_S = 10.0
"""A cluster on which nobody ever had a group or a transaction first makes itself a place to keep them in."""


async def look(kafka: KafkaSettings) -> Survey:
    """Raises: TopicsError if no broker answers."""
    return await survey(kafka)


def judged(found: Survey, kafka: KafkaSettings) -> list[Finding]:
    """All that the survey says."""
    findings = [brokers(found, kafka.replication_factor), *topics(found, kafka.bootstrap_servers)]
    if found.found:
        findings += [in_step(found, kafka.topic_prefix), *copies(found)]
    return findings


def brokers(found: Survey, replication_factor: int) -> Finding:
    """Enough of them for the copies that are asked for?"""
    said = f"{found.brokers} reachable, kafka.replication_factor is {replication_factor}"
    if replication_factor > found.brokers:
        fix = f"start the missing brokers, or set kafka.replication_factor to {found.brokers} at most"
        return Finding(KAFKA, "brokers", "wrong", said, fix)
    if replication_factor == 1:
        fix = "unless this is a trial: 3 brokers and kafka.replication_factor = 3"
        return Finding(KAFKA, "brokers", "warning", f"{said}: a lost disk loses tickets", fix)
    return Finding(KAFKA, "brokers", "ok", said)


def topics(found: Survey, servers: str) -> list[Finding]:
    """Missing topics and partitions, and settings that are not as wanted: a finding each, or one that all is well."""
    findings = []
    if missing := [name for name in found.wanted if name not in found.found]:
        said = f"{len(missing)} of {len(found.wanted)} missing: {shortened(missing)}"
        findings.append(Finding(KAFKA, TOPICS, "wrong", said, APPLY))
    few = [n for n, shape in found.found.items() if shape.partitions < found.wanted[n].partitions]
    many = {n: s.partitions for n, s in found.found.items() if s.partitions > found.wanted[n].partitions}
    if few:
        said = f"fewer than kafka.partitions: {shortened(few)}"
        findings.append(Finding(KAFKA, "partitions", "warning", said, APPLY))
    if many:
        said = f"more than kafka.partitions: {shortened(list(many))}"
        fix = f"kafka.partitions = {max(many.values())}, so that new topics get as many"
        findings.append(Finding(KAFKA, "partitions", "warning", said, fix))
    for name, shape in found.found.items():
        findings += _settings(name, found.wanted[name], shape, servers)
    return findings or [Finding(KAFKA, TOPICS, "ok", f"all {len(found.wanted)}, as the table and the settings say")]


def _settings(name: str, wanted: Shape, found: Shape, servers: str) -> list[Finding]:
    different = differing(wanted, found)
    if not different:
        return []
    said = ", ".join(f"{key} is {found.config.get(key)}, wanted {value}" for key, value in different.items())
    # A shorter retention or a higher limit may be meant.
    harmless = different.keys() <= {RETENTION, MAX_BYTES} and int(found.config.get(MAX_BYTES, 0)) >= int(
        wanted.config[MAX_BYTES]
    )
    # Brackets keep the commas inside of cleanup.policy together.
    values = ",".join(f"{k}=[{v}]" if k == CLEANUP and "," in v else f"{k}={v}" for k, v in different.items())
    fix = (
        f"{'unless it is meant: ' if harmless else ''}kafka-configs.sh --bootstrap-server {servers} --alter "
        f"--entity-type topics --entity-name {name} --add-config {values}"
    )
    return [Finding(KAFKA, name, "warning" if harmless else "wrong", said, fix)]


def in_step(found: Survey, prefix: str) -> Finding:
    """Topics that are written partition by partition beside others have as many partitions as these."""
    counts = {name: shape.partitions for name, shape in found.found.items()}
    pairs = [(prefix + one, prefix + other) for one, others in FOLLOWS.items() for other in others]
    apart = [
        f"{one} {counts[one]}, {other} {counts[other]}"
        for one, other in pairs
        if one in counts and other in counts and counts[one] != counts[other]
    ]
    if apart:
        most = max(counts[name] for pair in pairs for name in pair if name in counts)
        fix = f"kafka.partitions = {most}, then {APPLY}"
        return Finding(KAFKA, "partitions match", "wrong", f"differ: {shortened(apart, 2)}", fix)
    return Finding(KAFKA, "partitions match", "ok", "as many of a memory as of what it remembers")


def copies(found: Survey) -> list[Finding]:
    """Leaders, copies, and how many of them a write waits for."""
    findings = []
    if found.leaderless:
        said = f"nobody leads {shortened(found.leaderless)}"
        findings.append(Finding(KAFKA, "leaders", "wrong", said, "start the brokers that have these partitions"))
    if found.behind:
        said = f"{len(found.behind)} partitions lack copies: {shortened(found.behind)}"
        findings.append(Finding(KAFKA, "copies", "warning", said, "look for brokers that are down or behind"))
    wanted = {n: found.wanted[n].replication_factor for n in found.found}
    if other := [n for n, shape in found.found.items() if shape.replication_factor != wanted[n]]:
        said = f"not kafka.replication_factor: {shortened(other)}"
        fix = "kafka-reassign-partitions.sh, or set kafka.replication_factor as it is"
        findings.append(Finding(KAFKA, "copies", "warning", said, fix))
    findings.append(_in_sync(found))
    if single := [n for n, count in found.internal_copies.items() if count == 1 and found.brokers > 1]:
        said = f"one copy alone of {', '.join(single)}: with that broker commits end"
        findings.append(Finding(KAFKA, "Kafka's own topics", "warning", said, "kafka-reassign-partitions.sh: 3 copies"))
    return findings


def _in_sync(found: Survey) -> Finding:
    name, alter = MIN_IN_SYNC, f"kafka-configs.sh --alter --entity-type topics --add-config {MIN_IN_SYNC}"
    least = {n: (int(shape.config.get(name, 1)), shape.replication_factor) for n, shape in found.found.items()}
    if never := [n for n, (needed, copies_) in least.items() if needed > copies_]:
        said = f"more than there are copies: nothing can be written to {shortened(never)}"
        return Finding(KAFKA, name, "wrong", said, f"{alter}=1, or more copies")
    if tight := [n for n, (needed, copies_) in least.items() if needed == copies_ > 1]:
        said = f"as many as there are copies: one broker down stops {shortened(tight)}"
        return Finding(KAFKA, name, "warning", said, f"{alter}={least[tight[0]][1] - 1}")
    if loose := [n for n, (needed, copies_) in least.items() if needed == 1 and copies_ > 2]:
        said = f"1: an acknowledged record may be on one broker alone, of {shortened(loose)}"
        return Finding(KAFKA, name, "warning", said, f"{alter}=2")
    return Finding(KAFKA, name, "ok", "fits the number of copies")


async def transactions(kafka: KafkaSettings) -> list[Finding]:
    """Whether somebody coordinates transactions; asking begins none."""
    if kafka.delivery != "exactly_once":
        return [Finding(KAFKA, "transactions", "ok", "not asked for: kafka.delivery is at_least_once")]
    try:
        node = await coordinator(kafka, f"{kafka.topic_prefix}headgate-doctor", "transaction")
    except KafkaError as exc:
        fix = "on the brokers: transaction.state.log.replication.factor and .min.isr, at most their number"
        return [Finding(KAFKA, "transactions", "wrong", f"no coordinator: {type(exc).__name__}", fix)]
    return [Finding(KAFKA, "transactions", "ok", f"coordinated by broker {node}")]


async def coordinator(kafka: KafkaSettings, name: str, kind: Literal["group", "transaction"]) -> int:
    """The broker that coordinates a group or a transactional id, of which none need be there.

    Raises: KafkaError if there is none within COORDINATOR_LIMIT_S.
    """
    admin = AIOKafkaAdminClient(**connection(kafka))
    deadline_s = time.monotonic() + COORDINATOR_LIMIT_S
    try:
        await admin.start()
        while True:
            try:
                return int(await admin.find_coordinator(name, int(kind == "transaction")))
            except KafkaError:
                if time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(ASK_AGAIN_S)
    finally:
        await admin.close()


async def clock(kafka: KafkaSettings) -> list[Finding]:
    """The protocol tells no time, and nothing is written here to get one: only what the broker stamped before is seen.

    Raises: TopicsError if the topic is not there.
    """
    now = utc_now()
    async with reader(kafka, [raw(SPEND)], since=now + AHEAD) as source:
        later = [record.written_s async for record in source.until_end()]
    return [judged_clock(max(later, default=None), now)]


def judged_clock(latest_s: float | None, now: datetime) -> Finding:
    """By the latest record of `spend`, which has the broker's time, if it is from the future."""
    if latest_s is None:
        said = "not ahead of this machine's, as far as spend shows; behind can't be seen without a write"
        return Finding(KAFKA, "the broker's clock", "ok", said)
    said = f"was at least {latest_s - now.timestamp():.0f} s ahead of this machine's"
    fix = "let NTP set both clocks: spend limits' periods go by the broker's"
    return Finding(KAFKA, "the broker's clock", "warning", said, fix)
