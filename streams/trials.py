"""The trial of the candidate that there is, as the events topic tells of it."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Self

from schemas.events import Event
from schemas.topics import EVENTS
from streams.read import Reader, raw, reader
from streams.settings import CertifySettings, KafkaSettings
from workers.learning.guards import Comparison, Guards, compare
from workers.learning.trial import Trial
from workers.policies import Policies, placed_at

CLOCKS_S = 60.0
"""Clocks of different machines may differ by so much; what a router did under other policies isn't counted anyway."""


def guards_of(config: CertifySettings) -> Guards:
    """What is asked of a candidate. Raises: ValueError if it could never be promoted."""
    guards = Guards(
        max_latency_ratio=config.max_latency_ratio,
        max_cost_ratio=config.max_cost_ratio,
        delta=config.guard_delta,
        first_look=config.guard_from,
    )
    if (config.promote_after or 0) > guards.most_tickets:
        raise ValueError(
            f"certify.promote_after {config.promote_after} is past the last look, at {guards.most_tickets}"
        )
    return guards


def began_at(policies: Policies) -> datetime:
    """Since when these two stand beside each other, by clocks that may differ; the epoch where nobody knows."""
    known = [at for policy in policies if policy and (at := placed_at(policy))]
    return max(known) - timedelta(seconds=CLOCKS_S) if known else datetime.fromtimestamp(0, UTC)


class Trials:
    """Follows the tickets of one candidate after the other. Another policy in force, or another share, is another
    trial: tickets of different hours are not compared."""

    def __init__(self, kafka: KafkaSettings, guards: Guards) -> None:
        self._kafka = kafka
        self._guards = guards
        self._reading = AsyncExitStack()
        self._trial: tuple[Trial, Reader] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def look(self, policies: Policies, now: datetime) -> Comparison:
        """Read what has come, and compare.

        Raises: TopicsError if the broker can't be reached or the topic is not there.
        """
        if self._trial is None or self._trial[0].policies != policies:
            await self._end()
            if policies.candidate is None:
                return Comparison()
            events = await self._reading.enter_async_context(
                reader(self._kafka, [raw(EVENTS)], since=began_at(policies))
            )
            self._trial = Trial(policies, self._guards.most_tickets), events
        trial, events = self._trial
        async for event, _ in events.decoded(Event):
            trial.add(event)
        return compare(tuple(trial.tried.values()), tuple(trial.beside.values()), self._guards, now)

    async def _end(self) -> None:
        self._trial = None
        await self._reading.aclose()
