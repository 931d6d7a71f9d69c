"""What the group's coordinator says: where its partitions stand, and who its members are."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.runtime import offset_metadata
from streams.runtime.offsets import CommitPoint

TRIES = 20
RETRY_S = 0.25
"""A coordinator that has just moved loads its groups first: 5 s in all."""
TAKEN_LIMIT, TAKEN_WITHIN_S = 3, 120.0
"""An instance id that is taken over this often, within this time, is used twice."""


async def commit_points(
    admin: AIOKafkaAdminClient, group: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, CommitPoint | None]:
    """Where each partition stands; None where nothing was ever committed. Ask once the former owners are fenced.

    Not the consumer's `committed`: it has no metadata, and may answer with what it had read before the fence.

    Raises: KafkaError if the coordinator doesn't answer for every partition.
    """
    wanted = list(partitions)
    for _ in range(TRIES):
        found = await admin.list_consumer_group_offsets(group, partitions=wanted)
        # A coordinator that is loading answers for no partition at all, and the client takes that for an answer.
        if all(partition in found for partition in wanted):
            return {
                partition: offset_metadata.decode(found[partition].offset, found[partition].metadata or "")
                if found[partition].offset >= 0
                else None
                for partition in wanted
            }
        await asyncio.sleep(RETRY_S)
    raise KafkaError(f"the coordinator of {group} gave no offsets")


async def member_of(admin: AIOKafkaAdminClient, group: str, instance_id: str) -> str | None:
    """The member_id of the group's static member with that instance id; None if there is none.

    Raises: KafkaError if the coordinator doesn't answer.
    """
    for response in await admin.describe_consumer_groups([group]):
        for described in response.groups:
            members: list[tuple[Any, ...]] = described[5]
            for member_id, *_ in members:
                # A broker makes it of the instance id and a UUID, anew at every join. (The client_id beside it stays
                # that of whoever joined first.)
                if member_id[:-37] == instance_id:
                    return str(member_id)
    return None


class InstanceWatch:
    """Whether another process runs under our instance id: it then throws us out of the group, and we it, for ever."""

    def __init__(self) -> None:
        self._ours: str | None = None
        self._taken_s: list[float] = []

    def joined(self, member_id: str | None) -> None:
        """We have just joined, as this member."""
        self._ours = member_id

    def taken(self, member_id: str | None, now: float) -> bool:
        """The group's member under our id is this one. Whether that can't be us any more.

        Once proves nothing: a join whose answer was lost has made us another member, too.
        """
        if self._ours is None or member_id in (None, self._ours):
            return False
        self._taken_s = [*(s for s in self._taken_s if now - s < TAKEN_WITHIN_S), now]
        return len(self._taken_s) >= TAKEN_LIMIT
