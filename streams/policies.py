"""The policies in force, as the policy topic has them: a stage takes a new one between two tickets, without a restart.

A policy file is only where a company begins: what the topic says of the same scope wins. Until the topic has been read
to its end a stage takes no tickets, since they would be decided by an older policy.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Gauge

from schemas.codec import PoisonError, decode
from schemas.policy import Policy
from schemas.topics import POLICY
from streams.read import Received, raw, reader
from streams.settings import KafkaSettings
from streams.topics import TopicsError
from workers.policies import CANDIDATE, Policies

POLL_S = 0.5
"""A new policy is in force after so long at most."""

RETRY_S = 2.0
"""Between two attempts to read a topic that can't be read."""

VERSION = Gauge("headgate_policy_info", "1 for the policy in force, and for the candidate.", ["role", "version"])
UNREAD = Gauge("headgate_policy_unread", "1 while the policy topic can't be read and the last known policy goes on.")

log = structlog.get_logger()


class InForce(Protocol):
    """Where a stage gets its policies from."""

    @property
    def current(self) -> Policies: ...

    @property
    def is_known(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Given:
    """One policy, for ever: for benchmarks and tests without Kafka."""

    policy: Policy
    is_known: bool = True

    @property
    def current(self) -> Policies:
        return Policies(self.policy)


class PolicyTopic:
    """The policies of one scope, as they come from the topic."""

    def __init__(self, start: Policy) -> None:
        self.current = Policies(start)
        self.is_known = False
        self._scope = start.scope
        self._start = start

    def take(self, key: str, raw: bytes | None) -> None:
        """Put a record of the topic in force; one that is none of ours leaves all as it is."""
        if key not in (self._scope, self._scope + CANDIDATE):
            return
        try:
            policy = decode(Policy, raw) if raw is not None else None
        except PoisonError as exc:
            log.error("policy_unreadable", key=key, error=exc.reason, consequence="the policy before it goes on")
            return
        before = self.current
        if key == self._scope:
            self.current = Policies(policy or self._start, before.candidate)
        else:
            self.current = Policies(before.active, policy)
        if self.is_known and self.current != before:
            log.info("policy_taken", key=key, version=policy.version if policy else "", because=_because(policy))
        self.show()

    def show(self) -> None:
        """The versions, as metrics."""
        VERSION.clear()
        VERSION.labels("active", self.current.active.version).set(1)
        if self.current.candidate:
            VERSION.labels("candidate", self.current.candidate.version).set(1)


def _because(policy: Policy | None) -> list[str]:
    return list(policy.because) if policy else []


@asynccontextmanager
async def policies_in_force(path: Path, kafka: KafkaSettings) -> AsyncIterator[PolicyTopic]:
    """The policies that begin with a file's, followed on the topic while the block lasts.

    Raises: ValueError for a file that can't be used.
    """
    topic = PolicyTopic(load_policy(path))
    topic.show()
    UNREAD.set(0)
    following = asyncio.create_task(_follow(topic, kafka), name="policies")
    try:
        yield topic
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def _follow(topic: PolicyTopic, kafka: KafkaSettings) -> None:
    while True:
        try:
            async with reader(kafka, [raw(POLICY)]) as source:
                async for received in source.until_end():
                    _take(topic, received)
                topic.is_known = True
                UNREAD.set(0)
                while True:
                    for received in await source.poll(POLL_S):
                        _take(topic, received)
        except (TopicsError, KafkaError, OSError) as exc:
            UNREAD.set(1)
            log.warning("policies_unread", error=str(exc), next=f"trying again in {RETRY_S:g} s")
            await asyncio.sleep(RETRY_S)


def _take(topic: PolicyTopic, received: Received) -> None:
    topic.take((received.key or b"").decode(errors="replace"), received.raw)


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises: ValueError naming the file and what is wrong with it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Policy)
    except (OSError, msgspec.DecodeError) as exc:
        raise ValueError(f"policy {path}: {exc}") from exc
