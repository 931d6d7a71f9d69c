"""What the group's coordinator says: where its partitions stand, and who its members are."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from streams.runtime import offset_metadata
from streams.runtime.offsets import CommitPoint

log = structlog.get_logger()

TRIES = 20
RETRY_S = 0.25
"""A coordinator that has just moved loads its groups first: 5 s in all."""
STAYS = 3
"""How often a process stays away before it believes that its instance id is used twice."""


async def commit_points(
    admin: AIOKafkaAdminClient, group: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, CommitPoint | None]:
    """Where each partition stands; None where nothing was ever committed. Raises: as `committed`."""
    return {
        partition: offset_metadata.decode(found.offset, found.metadata or "") if found else None
        for partition, found in (await committed(admin, group, partitions)).items()
    }


async def committed(
    admin: AIOKafkaAdminClient, group: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata | None]:
    """What was last committed; None where nothing ever was. Ask once the former owners are fenced.

    Not the consumer's `committed`: it has no metadata, and may answer with what it had read before the fence.

    Raises: KafkaError if the coordinator doesn't answer for every partition.
    """
    wanted = list(partitions)
    for _ in range(TRIES):
        try:
            found = await admin.list_consumer_group_offsets(group, partitions=wanted)
        except GroupCoordinatorNotAvailableError:
            # A new cluster makes the topic of its groups when it is first asked.
            found = {}
        # A coordinator that is loading answers for no partition at all, and the client takes that for an answer.
        if all(partition in found for partition in wanted):
            return {p: found[p] if found[p].offset >= 0 else None for p in wanted}
        await asyncio.sleep(RETRY_S)
    raise KafkaError(f"the coordinator of {group} gave no offsets")


async def starts(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, CommitPoint]:
    """Where work on each partition begins. Raises: as `commit_points`."""
    if not partitions:
        return {}
    committed = await commit_points(admin, group, partitions)
    first = await consumer.beginning_offsets(partitions)
    end = await consumer.end_offsets(partitions)
    points: dict[TopicPartition, CommitPoint] = {}
    for partition, point in committed.items():
        if point is not None and point.offset + point.begun > end[partition]:
            log.warning(
                "offset_past_the_end",
                partition=str(partition),
                committed=point.offset + point.begun,
                end=end[partition],
                consequence="the topic was made anew or cut: records above the commit point are done again",
            )
            # Offsets past the end are given to new records, which nobody has finished.
            point = CommitPoint(point.offset) if point.offset <= end[partition] else None
        points[partition] = point or CommitPoint(first[partition])
    return points


async def member_of(admin: AIOKafkaAdminClient, group: str, instance_id: str) -> str | None:
    """The member_id of the group's static member with that instance id; None if there is none.

    Raises: KafkaError if the coordinator doesn't answer.
    """
    return next((m for m in await members(admin, group) if instance_of(m) == instance_id), None)


def instance_of(member_id: str) -> str:
    """The instance id of a static member: a broker makes its member_id of that and a UUID, anew at every join. (The
    client_id beside it stays that of whoever joined first.)"""
    return member_id[:-37]


async def members(admin: AIOKafkaAdminClient, group: str) -> list[str]:
    """The member_ids of a group; none of one that there isn't. Raises: KafkaError if the coordinator doesn't answer."""
    found: list[str] = []
    for response in await admin.describe_consumer_groups([group]):
        for described in response.groups:
            of_group: list[tuple[Any, ...]] = described[5]
            found += (str(member_id) for member_id, *_ in of_group)
    return found


class InstanceTakenError(Exception):
    """Somebody else is the group's member under our instance id."""


class DuplicateInstanceError(Exception):
    """Another process runs under this one's kafka.group_instance_id."""


class InstanceWatch:
    """Whether another process runs under our instance id. Both would throw each other out of the group for ever.

    A stranger in our place proves nothing: a join whose answer was lost has made a stranger of ourselves. So whoever
    finds one stays away for longer than the group waits for a silent member, and more than once, since a coordinator
    that restarts begins to wait anew. Who is there even then is somebody else, alive; and since that one was left
    alone, only one of the two ends.
    """

    def __init__(self) -> None:
        self._ours: str | None = None
        self._stranger: str | None = None
        self._stays = 0

    def joined(self, member_id: str | None) -> None:
        """We have just joined, as this member."""
        self._ours, self._stranger, self._stays = member_id, None, 0

    def stay_away(self) -> None:
        """We have left our place to the stranger for a while."""
        self._stays += 1

    def check(self, member_id: str | None) -> None:
        """The group's member under our id is this one.

        Raises: InstanceTakenError if it isn't us; DuplicateInstanceError if it outlasted STAYS of our absences.
        """
        if self._ours is None or member_id in (None, self._ours):
            return
        if member_id != self._stranger:
            self._stranger, self._stays = member_id, 0
        if self._stays >= STAYS:
            raise DuplicateInstanceError
        raise InstanceTakenError
