"""Every topic as one table: what it carries, how it is keyed, kept and split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from msgspec import Struct

from schemas.answers import Answer, Handoff
from schemas.audits import Audit
from schemas.batches import Batch
from schemas.drafts import Draft
from schemas.events import Event, StageName
from schemas.forgotten import Forgotten
from schemas.labels import Feedback, Label
from schemas.policy import Policy
from schemas.seen import Seen
from schemas.spend import SpendEntry, SpendSnapshot
from schemas.tickets import Routed, Ticket

DAY_MS = 24 * 3600 * 1000
MIB = 1024 * 1024

BACKFILL = ".backfill"
"""The slow lane: past tickets, for which spare capacity will do."""
RETRY = ".retry"
"""Records that a stage has parked until they are due."""

Client = Literal[StageName, "scoreboard", "certify", "learning", "helpdesks", "operators"]
"""Who reads and writes topics, each under a principal of its own where Kafka asks for one. `certify` is `headgate
certify`; `learning` makes data sets and models; operators are people with the other commands."""
EVERY_STAGE: tuple[Client, ...] = get_args(StageName)


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `value` is None where the bytes travel as they came."""

    name: str
    value: type[Struct] | None
    key: str
    written_by: tuple[Client, ...]
    read_by: tuple[Client, ...]
    retention_ms: int = 7 * DAY_MS
    cleanup: Literal["delete", "compact", "compact,delete"] = "delete"
    twins: tuple[str, ...] = ()
    """What is added to its name for the topics of the same shape beside it."""
    partitions: int | None = None
    """None means the configured number."""
    max_message_bytes: int = 4 * MIB
    """Four times a ticket's limit by default: later records carry the ticket and what was added to it."""
    broker_time: bool = False
    """Whether a record's time is the broker's when it takes the record, and not the producer's."""

    def limit_bytes(self, twin: str = "") -> int:
        """Largest message of the topic or of a twin: a parked record is the record and its life so far."""
        return self.max_message_bytes + (MIB // 64 if twin == RETRY else 0)


TICKETS = Topic(
    "tickets",
    Ticket,
    "ticket_id",
    ("helpdesks",),
    ("router", "scoreboard", "learning"),
    twins=(BACKFILL, RETRY),
    max_message_bytes=MIB,
)
TIER1 = Topic("tier1", Routed, "ticket_id", ("router",), ("tier1", "scoreboard"), twins=(BACKFILL, RETRY))
TIER2 = Topic(
    "tier2", Routed, "ticket_id", ("router", "tier1", "checker"), ("tier2", "scoreboard"), twins=(BACKFILL, RETRY)
)
DRAFTS = Topic("drafts", Draft, "ticket_id", ("tier1", "tier2"), ("checker", "scoreboard"), twins=(BACKFILL, RETRY))
ANSWERS = Topic(
    "answers", Answer, "ticket_id", ("checker",), ("learning", "helpdesks", "operators"), retention_ms=30 * DAY_MS
)
HANDOFFS = Topic(
    "handoffs", Handoff, "ticket_id", ("tier2", "checker"), ("helpdesks", "operators"), retention_ms=30 * DAY_MS
)
EVENTS = Topic(
    "events", Event, "ticket_id", EVERY_STAGE, ("scoreboard", "certify", "operators"), retention_ms=90 * DAY_MS
)
AUDITS = Topic(
    "audits",
    Audit,
    "ticket_id",
    ("checker",),
    ("judge", "scoreboard", "learning", "operators"),
    retention_ms=90 * DAY_MS,
    twins=(BACKFILL, RETRY),
)
FEEDBACK = Topic("feedback", Feedback, "ticket_id", ("helpdesks",), ("operators",), retention_ms=90 * DAY_MS)
LABELS = Topic(
    "labels",
    Label,
    "ticket_id",
    ("judge", "operators"),
    ("scoreboard", "certify", "learning", "operators"),
    retention_ms=365 * DAY_MS,
)
POLICY = Topic(
    "policy",
    Policy,
    "scope",
    ("certify", "operators"),
    ("router", "checker", "scoreboard", "certify", "learning", "operators"),
    cleanup="compact",
    partitions=1,
)
SEEN = Topic(
    "seen",
    Seen,
    "tenant and ticket_id",
    ("router",),
    ("router",),
    retention_ms=2 * DAY_MS,
    cleanup="compact,delete",
    twins=(BACKFILL,),
)
"""Which tickets were taken in lately, partition by partition as they stand in `tickets`."""
SPEND = Topic(
    "spend",
    SpendEntry,
    "none",
    ("tier2", "judge"),
    ("tier2", "judge", "scoreboard"),
    # A month and the one before it, so that the whole of a month can be read again.
    retention_ms=62 * DAY_MS,
    # One order of all steps.
    partitions=1,
    max_message_bytes=MIB,
    # The limits' periods must not depend on any process's clock.
    broker_time=True,
)
SPEND_SNAPSHOTS = Topic(
    "spend-snapshots",
    SpendSnapshot,
    "book",
    ("tier2", "judge"),
    ("tier2", "judge", "scoreboard"),
    cleanup="compact",
    partitions=1,
)
"""Where a process that starts begins to read `spend`."""
FORGOTTEN = Topic(
    "forgotten",
    Forgotten,
    "a customer's digest",
    ("operators",),
    ("learning", "operators"),
    cleanup="compact",
    partitions=1,
)
"""Whose tickets nothing may be learned from: data sets and models outlive every other topic."""
BATCHES = Topic("batches", Batch, "batch", ("tier2",), ("tier2",), cleanup="compact", partitions=1)
"""Tickets of the slow lane that are at a provider's batch interface."""
DEAD_LETTERS = Topic(
    "dead-letters",
    None,
    "as it came",
    EVERY_STAGE,
    ("operators",),
    retention_ms=30 * DAY_MS,
    # The largest record of any topic, and the headers that say why it is here.
    max_message_bytes=4 * MIB + MIB // 16,
)

TOPICS: tuple[Topic, ...] = (
    TICKETS,
    TIER1,
    TIER2,
    DRAFTS,
    ANSWERS,
    HANDOFFS,
    EVENTS,
    AUDITS,
    FEEDBACK,
    LABELS,
    POLICY,
    SEEN,
    SPEND,
    SPEND_SNAPSHOTS,
    FORGOTTEN,
    BATCHES,
    DEAD_LETTERS,
)

SCOREBOARD_CELLS = Topic(
    "scoreboard-cells", None, "partition and window", ("scoreboard",), ("scoreboard",), cleanup="compact"
)
SCOREBOARD_JOURNEYS = Topic(
    "scoreboard-journeys", None, "partition and ticket_id", ("scoreboard",), ("scoreboard",), cleanup="compact"
)
SCOREBOARD_LABELS = Topic(
    "scoreboard-labels", None, "partition and draft", ("scoreboard",), ("scoreboard",), cleanup="compact"
)
SCOREBOARD_AUDITS = Topic(
    "scoreboard-audits", None, "partition and ticket", ("scoreboard",), ("scoreboard",), cleanup="compact"
)

CHANGELOGS: tuple[Topic, ...] = (SCOREBOARD_CELLS, SCOREBOARD_JOURNEYS, SCOREBOARD_LABELS, SCOREBOARD_AUDITS)
"""A stage's own memory: what is in them is nobody else's business, and may change with any version."""

INPUTS: Mapping[StageName, Topic] = {
    "router": TICKETS,
    "tier1": TIER1,
    "tier2": TIER2,
    "checker": DRAFTS,
    "judge": AUDITS,
}
"""What each stage reads and commits, in the order in which a ticket travels."""


def named(clients: tuple[Client, ...]) -> str:
    """In words."""
    return "every stage" if clients == EVERY_STAGE else ", ".join(clients)


def writes(client: Client, topic: Topic, twin: str) -> bool:
    """Whether a client's work writes to a topic or to a twin of it: what comes of a slow record goes on in the slow
    lane, and a stage parks records of its own input."""
    if twin == RETRY:
        return (client, topic) in INPUTS.items()
    return client in topic.written_by and (twin == "" or client in EVERY_STAGE)


def outputs(client: Client, prefix: str = "") -> list[str]:
    """Full names of the topics that a client writes to; the twins included."""
    return [
        name
        for name, topic in all_names(prefix).items()
        if writes(client, topic, name.removeprefix(prefix + topic.name))
    ]


def all_names(prefix: str = "") -> dict[str, Topic]:
    """Every topic to create, by its full name; the twins included."""
    return {prefix + topic.name + twin: topic for topic in (*TOPICS, *CHANGELOGS) for twin in ("", *topic.twins)}
