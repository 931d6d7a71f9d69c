"""The stages at work: who is there, what waits for them, and what they gave up in the last day."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta

from aiokafka.admin import AIOKafkaAdminClient

from schemas.events import StageName
from schemas.topics import DEAD_LETTERS, INPUTS
from streams.connection import connection
from streams.doctor.cluster import coordinator
from streams.doctor.finding import Finding, Verdict
from streams.letters import ID, REASON, REQUEUED, printable
from streams.read import Received, raw, reader
from streams.runtime.clock import utc_now
from streams.runtime.group import members
from streams.scoreboard.backlog import read_backlog
from streams.scoreboard.views import StageBacklog
from streams.settings import KafkaSettings

STAGES = "stages"

OPTIONAL: frozenset[StageName] = frozenset({"judge"})
"""Tickets are answered without it."""


async def at_work(kafka: KafkaSettings) -> list[Finding]:
    """Each stage's processes, and the tickets that wait for it.

    Raises: TopicsError if a topic is not there; KafkaError, TimeoutError.
    """
    # Else a cluster that is new has no coordinator yet, and an answer none.
    await coordinator(kafka, f"{kafka.topic_prefix}headgate-router", "group")
    backlog = await read_backlog(kafka)
    admin = AIOKafkaAdminClient(**connection(kafka))
    try:
        await admin.start()
        present = {stage: len(await members(admin, f"{kafka.topic_prefix}headgate-{stage}")) for stage in INPUTS}
    finally:
        await admin.close()
    return judged_stages(backlog.stages, present, kafka)


def judged_stages(
    backlog: Iterable[StageBacklog], present: Mapping[StageName, int], kafka: KafkaSettings
) -> list[Finding]:
    """A finding a stage. What waits on the slow lane may wait."""
    live = [row for row in backlog if row.lane != "backfill"]
    return [
        _judged_stage(stage, count, [row for row in live if row.stage == stage], kafka)
        for stage, count in present.items()
    ]


def _judged_stage(stage: StageName, count: int, rows: Iterable[StageBacklog], kafka: KafkaSettings) -> Finding:
    rows = list(rows)
    waiting = sum(row.unfinished for row in rows)
    oldest_s = max((row.oldest_s for row in rows if row.oldest_s is not None), default=0.0)
    said = f"{count or 'no'} process{'es' if count > 1 else ''}, {waiting} unfinished"
    if not count:
        verdict: Verdict = "wrong" if waiting and stage not in OPTIONAL else "warning"
        return Finding(STAGES, stage, verdict, said, f"headgate run {stage}")
    if oldest_s > kafka.live_objective_s:
        said = f"{said}, the oldest for {oldest_s:.0f} s"
        fix = f"more processes of headgate run {stage}, at most kafka.partitions of them; see its log"
        return Finding(STAGES, stage, "warning", said, fix)
    return Finding(STAGES, stage, "ok", said)


async def dead_letters(kafka: KafkaSettings) -> list[Finding]:
    """Those of the last day that nobody has requeued.

    Raises: TopicsError if the topic is not there.
    """
    async with reader(kafka, [raw(DEAD_LETTERS)], since=utc_now() - timedelta(days=1)) as source:
        reasons: dict[str, str] = {}
        requeued = set()
        async for record in source.until_end():
            if (of := requeued_by(record)) is not None:
                requeued.add(of)
            else:
                reasons[f"{record.partition}/{record.offset}"] = reason_of(record)
    return [judged_letters([reason for id_, reason in reasons.items() if id_ not in requeued])]


def requeued_by(record: Received) -> str | None:
    """The id of the dead letter that this marker says was requeued; None for a dead letter."""
    headers = dict(record.headers)
    named = (headers.get(REQUEUED) or b"").decode("utf-8", "replace")
    return named if record.raw is None and REASON not in headers and ID.fullmatch(named) else None


def reason_of(record: Received) -> str:
    """As the runtime wrote it."""
    return (dict(record.headers).get(REASON) or b"").decode("utf-8", "backslashreplace")


def judged_letters(reasons: Iterable[str]) -> Finding:
    """How many, and the commonest reason."""
    counted = Counter(reasons)
    if not counted:
        return Finding(STAGES, "dead letters", "ok", "none in the last day")
    (reason, most), total = counted.most_common(1)[0], sum(counted.values())
    said = f"{total} in the last day; {most} of them: {printable(reason)[:60]}"
    return Finding(STAGES, "dead letters", "warning", said, "headgate dead-letters list --since 1d")
