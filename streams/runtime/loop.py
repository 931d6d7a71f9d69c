"""One process's run of one stage: sessions one after the other, until it is told to stop."""

import asyncio
import gc
import sys
import time
import uuid
from contextlib import suppress
from typing import Generic, TypeVar

import structlog
from aiokafka.errors import KafkaError
from msgspec import Struct

from streams.runtime import metrics
from streams.runtime.group import InstanceTakenError, InstanceWatch
from streams.runtime.session import Session
from streams.runtime.stage import Stage
from streams.settings import KafkaSettings

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

RECONNECT_S = (1.0, 15.0)
"""First and longest pause before the stage builds its clients anew after a Kafka error."""


SWITCH_S = 0.0002
"""A thread that comes back from a model waits at most this long for the interpreter while the loop works. With Python's
5 ms the router's graph stood still for a tenth of its time (stage over bare session: 0.75 before, 0.83 after, medians
of 4 runs in turns on a busy two-core machine; 0.05 ms gave no more)."""


def tune_interpreter() -> None:
    """Set Python up for a stage: quick turns between its threads, and a cycle collector that runs more rarely.

    Each time that goes through everything in flight, which has no cycles, and that took a third of the processor
    (single records: 58 us each before, 34 after, measured).
    """
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class StageLoop(Generic[T]):
    """One process's run of one stage, over all partitions that the group assigns to it."""

    def __init__(self, stage: Stage[T], settings: KafkaSettings) -> None:
        self.stage = stage
        self.settings = settings
        self.topic = settings.topic_prefix + stage.topic.name
        self.group = f"{settings.topic_prefix}headgate-{stage.name}"
        self.instance = InstanceWatch()
        self.client_id = f"headgate-{stage.name}-{uuid.uuid4().hex[:8]}"
        self.stopping = asyncio.Event()
        self._session: Session[T] | None = None
        self._beat = time.monotonic()
        metrics.begin(stage.name)

    @property
    def joined(self) -> bool:
        """Whether the group has given this process its partitions (possibly none)."""
        return self._session is not None and self._session.joined

    @property
    def beat(self) -> float:
        """When the loop last moved, by time.monotonic: an old beat means that it hangs."""
        return max(self._beat, self._session.beat if self._session else 0.0)

    def stop(self) -> None:
        """Finish what is in flight, commit it, and leave."""
        self.stopping.set()

    async def run(self) -> None:
        """Run until `stop`. A Kafka error ends the session, not the process: clients are built anew.

        Raises: DuplicateInstanceError; whatever a worker's bug raises: the process then exits and its supervisor
        restarts it.
        """
        pause_s = RECONNECT_S[0]
        while not self.stopping.is_set():
            started = time.monotonic()
            self._session = Session(self.stage, self.settings, self.group, self.client_id, self.instance)
            try:
                await self._session.run(self.stopping)
            except InstanceTakenError:
                log.warning(
                    "group_instance_id_taken",
                    setting=f"kafka.group_instance_id {self.settings.group_instance_id}",
                    next="staying away to see whether somebody else uses it",
                )
                await self._pause(self.settings.session_timeout_s + 2.0)
                self.instance.stay_away()
            except KafkaError as exc:
                if time.monotonic() - started > RECONNECT_S[1]:
                    pause_s = RECONNECT_S[0]
                metrics.RECONNECTS.labels(self.stage.name).inc()
                log.warning(
                    "kafka_session_ended",
                    error=f"{type(exc).__name__}: {exc}",
                    consequence="uncommitted work of this process will be done again",
                    reconnect_in_s=pause_s,
                )
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_S[1])

    async def _pause(self, seconds: float) -> None:
        """Wait between two sessions, or until told to stop."""
        if self._session:
            self._session.joined = False
        deadline = time.monotonic() + seconds
        while not self.stopping.is_set() and (left_s := deadline - time.monotonic()) > 0:
            self._beat = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), min(left_s, 1.0))
