"""What a process has begun: records that hold a slot until their commit is through, and those set aside meanwhile."""

from collections import Counter
from typing import Any

from streams.runtime.lanes import Lane
from streams.runtime.partition import Work


class Slots:
    """Counts of records, by lane; no decisions."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.held = self.held_by_backfill = self.held_bytes = 0
        self.aside: Counter[Lane] = Counter()
        """Records that have begun and hold no slot: in a back-off, behind their identity, or about to go on."""

    @property
    def free(self) -> int:
        return self.limit - self.held

    def may_hold(self, end: int) -> bool:
        """Whether one more record may have a slot, where `end` are to be in use at most."""
        return self.held < end and self.held_bytes < self.limit_bytes

    def may_begin(self, lane: Lane) -> bool:
        """Whether new records of a lane may begin: not while as many as there are slots are set aside."""
        return self.aside[lane] < self.limit

    def hold(self, work: Work[Any]) -> None:
        """A record takes a slot."""
        self.held += 1
        self.held_by_backfill += work.partition.lane is Lane.BACKFILL
        self.held_bytes += work.size_bytes

    def release(self, work: Work[Any]) -> None:
        """A record gives its slot back."""
        self.held -= 1
        self.held_by_backfill -= work.partition.lane is Lane.BACKFILL
        self.held_bytes -= work.size_bytes

    def set_aside(self, work: Work[Any]) -> None:
        """A record has begun and waits without a slot."""
        work.aside = True
        self.aside[work.partition.lane] += 1

    def take_up(self, work: Work[Any]) -> None:
        """A record no longer waits; one that did not is left as it is."""
        if work.aside:
            work.aside = False
            self.aside[work.partition.lane] -= 1
