"""Transactions that a broker ended without telling their partitions: found, and aborted when a partition is opened.

A broker that ends a transaction while a partition of it has no leader takes the partition for deleted: it writes no
marker there and calls the transaction complete (Kafka 4.3.1). With one copy of each partition that may happen to what
is just ending whenever the broker stops or starts; with several, when all brokers of a partition are away at once.
What was written stays open, the commit of the place with it, unseen by readers, until the next transaction of the same
transactional.id ends it as its own: then records that were done again would be there twice.

Invariants:
- Looked for after the fence, when nothing open will ever be ended in order; and by an owner once some seconds after its
  last commit, which ends the session if so: nobody else would end it while no ticket comes.
- Always aborted: a commit, though it was acknowledged, is taken back as a whole, and its records are done again.
- Seen by the place that was to be committed: so what a crash left of a transaction that hadn't come to its place, and
  that the broker aborts in the same moment, is not found. It takes both at once.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from streams.runtime.delivery import Delivery, ExactlyOnce
from streams.runtime.group import RETRY_S, TRIES

if TYPE_CHECKING:
    from streams.runtime.partition import Partition

log = structlog.get_logger()

UNSTABLE_OFFSET_COMMIT = 88
MARKERS_S = 5.0
"""After so long a commit's markers are written, which takes milliseconds (a guess)."""


class HangingError(KafkaError):  # type: ignore[misc]
    """A commit that was acknowledged is still open."""


async def watch(admin: AIOKafkaAdminClient, group: str, partitions: Mapping[TopicPartition, "Partition[Any]"]) -> None:
    """Look at each of the partitions once after its last commit; for ever.

    Raises: HangingError.
    """
    looked_at: dict[TopicPartition, float | None] = {}
    while True:
        await asyncio.sleep(MARKERS_S)
        settled_s = time.monotonic() - MARKERS_S
        quiet = {
            at: p.committed_s
            for at, p in partitions.items()
            if p.committed_s and p.committed_s < settled_s and isinstance(p.delivery, ExactlyOnce)
        }
        due = [at for at, committed_s in quiet.items() if looked_at.get(at) != committed_s]
        try:
            found = await hanging(admin, group, due)
        except KafkaError:
            # A broker that is away is asked again.
            continue
        for at in found:
            # What has begun meanwhile is open by right, and ends the earlier one.
            if at in partitions and partitions[at].committed_s == quiet[at]:
                raise HangingError(f"the last transaction of {at.topic}/{at.partition} has not ended")
        looked_at |= {at: quiet[at] for at in due}


async def abort_hanging(
    admin: AIOKafkaAdminClient, group: str, deliveries: Mapping[TopicPartition, Delivery], outputs: Sequence[str]
) -> None:
    """End what earlier transactions on these partitions left open in `outputs`, topics by their full names. The
    deliveries are started.

    Raises: KafkaError.
    """
    ours = {at: delivery for at, delivery in deliveries.items() if isinstance(delivery, ExactlyOnce)}
    left = await hanging(admin, group, list(ours))
    for partition in left:
        log.warning(
            "transaction_hanging",
            partition=str(partition),
            cause="the broker has ended it without its markers",
            consequence="it is aborted, and its records are done again",
        )
        await ours[partition].abort_hanging(outputs)
    for _ in range(TRIES):
        if not left:
            return
        # An abort is acknowledged before its markers are written.
        await asyncio.sleep(RETRY_S)
        left = await hanging(admin, group, left)
    if left:
        log.error("place_unstable", partitions=[str(p) for p in left], cause="a transaction of another producer")


async def hanging(admin: AIOKafkaAdminClient, group: str, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """Those of the partitions for which a transaction has written a place that is neither committed nor aborted.

    Raises: KafkaError if the coordinator doesn't answer for every partition.
    """
    if not partitions:
        return []
    for _ in range(TRIES):
        try:
            response = await admin._send_request(_OffsetFetch(group, partitions), await admin.find_coordinator(group))
        except GroupCoordinatorNotAvailableError:
            # A new cluster makes the topic of its groups when it is first asked.
            response = None
        # A coordinator that has just moved is loading its groups.
        if response and not response.error_code:
            return _unstable(group, response)
        await asyncio.sleep(RETRY_S)
    raise KafkaError(f"the coordinator of {group} gave no offsets")


def _unstable(group: str, response: Any) -> list[TopicPartition]:
    found = []
    for topic, of_topic, _ in response.topics:
        for number, _, _, _, error_code, _ in of_topic:
            if error_code == UNSTABLE_OFFSET_COMMIT:
                found.append(TopicPartition(topic, number))
            elif error_code:
                raise for_code(error_code)(f"the coordinator of {group} gave no offset of {topic}/{number}")
    return found


class _OffsetFetchResponseV7(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequestV7(RequestStruct):  # type: ignore[misc]
    """The first version that can ask for what is stable (KIP-447); aiokafka has versions up to 3."""

    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partition_indexes", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _OffsetFetch(Request[_OffsetFetchRequestV7]):  # type: ignore[misc]
    API_KEY = 9

    def __init__(self, group: str, partitions: Sequence[TopicPartition]) -> None:
        self._group = group
        self._numbers: dict[str, list[int]] = {}
        for partition in partitions:
            self._numbers.setdefault(partition.topic, []).append(partition.partition)

    def build(self, request_struct_class: type[_OffsetFetchRequestV7]) -> Any:
        topics: list[Any] = [(name, numbers, {}) for name, numbers in self._numbers.items()]
        return request_struct_class(self._group, topics, True, {})
