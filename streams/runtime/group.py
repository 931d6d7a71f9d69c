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


async def client_of(admin: AIOKafkaAdminClient, group: str, instance_id: str) -> str | None:
    """The client_id of the group's static member with that instance id; None if there is none.

    Raises: KafkaError if the coordinator doesn't answer.
    """
    for response in await admin.describe_consumer_groups([group]):
        for described in response.groups:
            members: list[tuple[Any, ...]] = described[5]
            # A broker makes a static member's id of its instance id and a UUID.
            for member_id, client_id, *_ in members:
                if member_id[:-37] == instance_id:
                    return str(client_id)
    return None
