"""Which offsets of a partition are finished: plain bookkeeping, no I/O and no clock.

Work on a partition begins in the order of its offsets and ends in any order.
`CommitPoint` is what may be committed at any moment: the lowest unfinished
offset, and which of those above it are finished all the same.

Invariants:
- Everything below a commit point's offset is finished; nothing unfinished is ever marked.
- Commit points of one partition never go back.
- An offset that no record has (a transaction's marker, a compacted record) counts as finished once a later one begins.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

MAX_DISTANCE = 25_600
"""Most offsets between the lowest unfinished one and the newest begun: as many bits as a commit's metadata holds."""
SLOW_FROM = MAX_DISTANCE * 3 // 4
"""From here on fewer records begin, so that the partition slows down instead of standing still."""


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """Where a partition stands: start at `offset`, and leave out the finished ones above it."""

    offset: int
    """The lowest unfinished offset; what a plain consumer would resume from."""
    begun: int = 0
    """How many offsets, from `offset` on, had begun or were passed over."""
    finished: bytes = b""
    """Bit i (lowest first in each byte) says that offset + i is finished; bits past the end are 0."""

    def is_finished(self, offset: int) -> bool:
        """Whether the record at `offset` must not be done again."""
        index = offset - self.offset
        if index < 0:
            return True
        return index >> 3 < len(self.finished) and bool(self.finished[index >> 3] >> (index & 7) & 1)


class Offsets:
    """The unfinished offsets of one partition, from the moment that this process took it over."""

    def __init__(self, start: CommitPoint) -> None:
        owed = [o for o in range(start.offset, start.offset + start.begun) if not start.is_finished(o)]
        # In the order of their offsets, since they begin in that order. An OrderedDict finds its first in constant
        # time however many were removed before it; a dict doesn't.
        self._unfinished: OrderedDict[int, float | None] = OrderedDict.fromkeys(owed)
        self._owed = deque(owed)
        """What a former owner had begun and not finished, and has not arrived here yet."""
        self._next = start.offset + start.begun
        self._arrived = start.offset - 1

    def __len__(self) -> int:
        return len(self._unfinished)

    @property
    def lowest(self) -> int:
        """The lowest unfinished offset: the commit point."""
        return next(iter(self._unfinished), self._next)

    @property
    def distance(self) -> int:
        """From the lowest unfinished offset to the newest begun."""
        return self._next - self.lowest

    @property
    def oldest_s(self) -> float | None:
        """When the record at the commit point was written, seconds since the epoch; None if there is none here."""
        return next(iter(self._unfinished.values()), None)

    @property
    def arrived_to(self) -> int:
        """The offset after the last that arrived."""
        return self._arrived + 1

    def arrive(self, offset: int) -> bool:
        """A record was polled. Whether it is to be worked on: not if it was finished, or has arrived before."""
        if offset <= self._arrived:
            return False
        self._arrived = offset
        # Polls are in order, so what is owed below this offset is gone: expired, compacted or deleted.
        while self._owed and self._owed[0] < offset:
            del self._unfinished[self._owed.popleft()]
        if self._owed and self._owed[0] == offset:
            self._owed.popleft()
            return True
        return offset >= self._next

    def is_redone(self, offset: int) -> bool:
        """Whether a former owner had begun the record at `offset`; ask before it begins here."""
        return offset < self._next

    def may_begin(self, offset: int, max_in_flight: int) -> bool:
        """Whether the next waiting record, at `offset`, may begin. One that a former owner had begun needs no room."""
        if offset < self._next or not self._unfinished:
            return True
        # The offset itself counts, too: it may stand behind a gap longer than all of the room.
        reach = offset - self.lowest
        if reach < SLOW_FROM:
            return True
        return reach < MAX_DISTANCE and room(self.distance, len(self), max_in_flight) > 0

    def begin(self, offset: int, written_s: float = 0.0) -> None:
        """Work on a record begins.

        Raises: ValueError for one below those that have begun, unless it is still unfinished.
        """
        if offset < self._next and offset not in self._unfinished:
            raise ValueError(f"offset {offset} begins after {self._next - 1}")
        self._next = max(self._next, offset + 1)
        self._unfinished[offset] = written_s

    def finish(self, offset: int) -> None:
        """A record's outputs are about to be committed.

        Raises: KeyError if it has not begun, or was finished before.
        """
        del self._unfinished[offset]

    def commit_point(self) -> CommitPoint:
        """What may be committed now."""
        lowest, begun = self.lowest, self.distance
        bits = bytearray(b"\xff" * (begun >> 3))
        if begun & 7:
            bits.append((1 << (begun & 7)) - 1)
        for offset in self._unfinished:
            index = offset - lowest
            bits[index >> 3] &= ~(1 << (index & 7))
        return CommitPoint(lowest, begun, bytes(bits).rstrip(b"\0"))


def room(distance: int, unfinished: int, max_in_flight: int) -> int:
    """How many more records of a partition may begin now, as far as its offsets are concerned.

    The bound shrinks from 75 % of the distance on and is 0 at its end, so that a commit's metadata always fits.
    """
    if distance < SLOW_FROM:
        return SLOW_FROM - distance
    share = (MAX_DISTANCE - distance) / (MAX_DISTANCE - SLOW_FROM)
    return max(0, min(MAX_DISTANCE - distance, 1 + int(share * max_in_flight) - unfinished))
