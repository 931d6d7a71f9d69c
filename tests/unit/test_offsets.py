"""The offset core over whole histories: crashes, repeats, gaps and vanished records, against a model made of sets."""

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.runtime.offset_metadata import MAX_BYTES, decode, encode
from streams.runtime.offsets import MAX_DISTANCE, SLOW_FROM, CommitPoint, Offsets, room


class History(RuleBasedStateMachine):
    """A partition's log and the processes that own it one after the other.

    Effects and commit point are stored together, as a transaction does it. What a process knows beyond them is lost
    with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []
        self.log_end = 0
        self.effects: Counter[int] = Counter()
        self.stored = (0, "")
        self._take_over()

    def _take_over(self) -> None:
        self.offsets = Offsets(decode(*self.stored))
        self.position = self.stored[0]
        self.waiting: deque[int] = deque()
        self.running: set[int] = set()
        self.ended: list[int] = []

    def _poll(self, most: int) -> None:
        for offset in [o for o in self.log if o >= self.position][:most]:
            if self.offsets.arrive(offset):
                self.waiting.append(offset)
            else:
                assert self.effects[offset] == 1, f"{offset} is skipped"
            self.position = offset + 1

    def _begin(self) -> None:
        offset = self.waiting.popleft()
        assert not self.effects[offset], f"{offset} is redone"
        self.offsets.begin(offset)
        self.running.add(offset)

    def _commit(self, taken: list[int]) -> None:
        for offset in taken:
            self.offsets.finish(offset)
            self.ended.remove(offset)
        point = self.offsets.commit_point()
        assert point.offset >= self.stored[0]
        self.effects.update(taken)
        self.stored = (point.offset, encode(point))

    @rule(gaps=st.lists(st.just(0) | st.sampled_from([1, 2, 40]), min_size=1, max_size=16))
    def write(self, gaps: list[int]) -> None:
        """Records with gaps between them: markers, aborted transactions."""
        for gap in gaps:
            self.log.append(self.log_end + gap)
            self.log_end += gap + 1

    @rule(most=st.integers(1, 16))
    def poll(self, most: int) -> None:
        self._poll(most)

    @precondition(lambda self: self.position)
    @rule(data=st.data())
    def poll_again(self, data: st.DataObject) -> None:
        """A fetch that repeats what was polled before brings nothing."""
        for offset in data.draw(st.lists(st.sampled_from(range(self.position)), max_size=5)):
            assert not self.offsets.arrive(offset)

    @precondition(lambda self: self.waiting)
    @rule(most=st.integers(1, 16))
    def begin(self, most: int) -> None:
        for _ in range(min(most, len(self.waiting))):
            self._begin()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        for offset in data.draw(st.sets(st.sampled_from(sorted(self.running)), min_size=1)):
            self.running.remove(offset)
            self.ended.append(offset)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Some of what has ended, and sometimes nothing."""
        self._commit(data.draw(st.permutations(self.ended))[: data.draw(st.integers(0, len(self.ended)))])

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Some records from poll to commit, while their neighbours go on: what the rules one by one seldom reach."""
        self._poll(16)
        while self.waiting:
            self._begin()
        running = sorted(self.running)
        done = [o for o in running if data.draw(st.booleans())]
        self.running.difference_update(done)
        self.ended += done
        self._commit(done)

    @rule()
    def crash(self) -> None:
        """Whoever comes next knows what is stored."""
        self._take_over()

    @rule(data=st.data())
    def crash_in_a_commit(self, data: st.DataObject) -> None:
        """The transaction is aborted: neither effects nor commit point are stored."""
        for offset in self.ended[: data.draw(st.integers(0, len(self.ended)))]:
            self.offsets.finish(offset)
        self.offsets.commit_point()
        self._take_over()

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        """Retention takes the oldest records, compaction any."""
        oldest = data.draw(st.integers(0, min(5, len(self.log))))
        compacted = data.draw(st.sets(st.sampled_from(self.log), max_size=3))
        self.log = [o for o in self.log[oldest:] if o not in compacted]

    @invariant()
    def only_the_finished_are_left_out(self) -> None:
        """Below the commit point and among its marks there is nothing but finished records and gaps."""
        point = decode(*self.stored)
        assert len(self.stored[1]) <= MAX_BYTES
        begun = range(point.offset + point.begun)
        assert not [o for o in self.log if o in begun and point.is_finished(o) and not self.effects[o]]
        assert not [o for o, count in self.effects.items() if count > 1 or o not in begun or not point.is_finished(o)]

    def teardown(self) -> None:
        """Whatever has happened: one more owner works it off, and each record has had its effect once."""
        self.log.append(self.log_end)
        self._take_over()
        self._poll(len(self.log))
        while self.waiting:
            self._begin()
        self.ended = list(self.running)
        self._commit(list(self.running))
        assert not [o for o in self.log if self.effects[o] != 1]
        assert self.stored[0] == self.log_end + 1


TestEveryRecordHasItsEffectExactlyOnce = History.TestCase
TestEveryRecordHasItsEffectExactlyOnce.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)


def begun(*numbers: int, start: CommitPoint | None = None) -> Offsets:
    """A partition where these records have arrived and begun."""
    offsets = Offsets(start or CommitPoint(0))
    for offset in numbers:
        assert offsets.arrive(offset)
        offsets.begin(offset)
    return offsets


@given(st.permutations(range(20)))
def test_any_order_of_completion_commits_a_prefix_and_marks(order: list[int]) -> None:
    """The commit point is the lowest unfinished offset, and the marks are exactly the finished ones above it."""
    offsets = begun(*range(20))
    left = set(range(20))
    for offset in order:
        offsets.finish(offset)
        left.remove(offset)
        point = offsets.commit_point()
        assert point.offset == offsets.lowest == min(left, default=20)
        assert {o for o in range(20) if not point.is_finished(o)} == left
        assert (len(offsets), offsets.distance) == (len(left), 20 - point.offset)


def test_the_commit_point_comes_from_what_finished_and_not_from_the_highest_seen() -> None:
    """Loss on revocation: a record that was fetched, or has begun, is not committed with those that finished."""
    offsets = begun(0, 1, 2)
    assert all(offsets.arrive(offset) for offset in (3, 4))
    offsets.finish(0)
    offsets.finish(2)
    point = offsets.commit_point()
    assert (point.offset, point.begun) == (1, 2)
    successor = Offsets(point)
    assert [o for o in range(5) if successor.arrive(o)] == [1, 3, 4]


def test_a_commit_point_does_not_change_after_it_is_made() -> None:
    """Dirty read at commit: what finishes while a commit is on its way belongs to the next one."""
    offsets = begun(0, 1, 2)
    offsets.finish(1)
    point = offsets.commit_point()
    text = encode(point)
    offsets.finish(0)
    offsets.finish(2)
    assert [point.is_finished(o) for o in range(3)] == [False, True, False]
    assert decode(point.offset, text) == point
    assert offsets.commit_point() == CommitPoint(3)


def test_a_commit_without_progress_keeps_its_base() -> None:
    """Wrong base after a commit without progress: the same lowest offset twice, and once more after a restart, means
    the same records."""
    offsets = begun(5, 6, 7, 8, start=CommitPoint(5))
    offsets.finish(7)
    first = offsets.commit_point()
    assert offsets.commit_point() == first
    successor = Offsets(decode(first.offset, encode(first)))
    assert successor.commit_point() == first
    assert [o for o in range(5, 9) if successor.arrive(o)] == [5, 6, 8]
    successor.begin(5)
    successor.begin(6)
    successor.finish(6)
    assert [o for o in range(5, 9) if Offsets(successor.commit_point()).arrive(o)] == [5, 8]


def test_offsets_without_a_record_do_not_hold_the_commit_point() -> None:
    """Compacted topics: a gap counts as finished as soon as something after it begins."""
    offsets = begun(3, 10)
    offsets.finish(3)
    assert offsets.lowest == 10
    offsets.finish(10)
    assert offsets.commit_point() == CommitPoint(11)


def test_a_record_that_vanished_between_two_owners_does_not_hold_the_commit_point() -> None:
    """Compacted topics, and expired ones: what was owed and is gone is passed over when a later record arrives."""
    offsets = begun(0, 1, 2, 3)
    offsets.finish(1)
    successor = Offsets(offsets.commit_point())
    assert (len(successor), successor.lowest) == (3, 0)
    assert successor.arrive(3)
    assert (len(successor), successor.lowest) == (1, 3)
    successor.begin(3)
    successor.finish(3)
    assert successor.commit_point() == CommitPoint(4)


def test_a_record_that_a_former_owner_had_begun_is_known_as_redone() -> None:
    """Which is what the metric of repeated work counts; one that was only fetched there isn't."""
    offsets = begun(0, 1)
    offsets.arrive(2)
    offsets.finish(1)
    successor = Offsets(offsets.commit_point())
    assert [successor.is_redone(o) for o in (0, 2)] == [True, False]


def test_work_out_of_order_is_refused() -> None:
    """A bug in the caller is told before it becomes a wrong commit."""
    offsets = begun(0, 5)
    for offset in (0, 5):
        offsets.finish(offset)
        with pytest.raises(ValueError, match=f"offset {offset} begins after 5"):
            offsets.begin(offset)
        with pytest.raises(KeyError):
            offsets.finish(offset)
    with pytest.raises(ValueError, match="offset 3 begins"):
        offsets.begin(3)


def test_the_age_of_the_commit_point_is_its_records() -> None:
    """None until the record at the commit point is here."""
    offsets = Offsets(begun(0, 1).commit_point())
    assert offsets.oldest_s is None
    for offset, written_s in ((0, 7.0), (1, 5.0)):
        offsets.arrive(offset)
        offsets.begin(offset, written_s)
    assert offsets.oldest_s == 7.0
    offsets.finish(0)
    assert offsets.oldest_s == 5.0


def test_a_record_behind_a_gap_begins_when_metadata_can_hold_the_gap() -> None:
    """Compacted topics: the last offset within the bound may begin, the one after it waits; with nothing unfinished
    there is nothing to hold."""
    offsets = begun(0)
    assert offsets.may_begin(MAX_DISTANCE - 1, 4)
    assert not offsets.may_begin(MAX_DISTANCE, 4)
    offsets.finish(0)
    assert offsets.may_begin(10 * MAX_DISTANCE, 4)
    offsets.begin(10 * MAX_DISTANCE)
    assert offsets.distance == 1


def test_near_the_bound_fewer_records_begin_and_those_of_a_former_owner_all() -> None:
    """What runs already counts against what may; only what was begun before needs no room."""
    offsets = begun(*range(5), SLOW_FROM)
    assert offsets.distance > SLOW_FROM
    assert not offsets.may_begin(SLOW_FROM + 1, 4)
    assert offsets.may_begin(SLOW_FROM + 1, 40)
    successor = Offsets(offsets.commit_point())
    assert [o for o in (0, 4, SLOW_FROM, SLOW_FROM + 1) if successor.may_begin(o, 4)] == [0, 4, SLOW_FROM]


@given(st.integers(0, MAX_DISTANCE), st.integers(0, 5000), st.integers(1, 5000))
def test_room_never_lets_the_distance_pass_its_bound(distance: int, unfinished: int, max_in_flight: int) -> None:
    """However much may run at a time; and below three quarters nothing but the distance counts."""
    free = room(distance, unfinished, max_in_flight)
    assert 0 <= free <= MAX_DISTANCE - distance
    if distance < SLOW_FROM:
        assert free == SLOW_FROM - distance
    else:
        assert free <= max(0, max_in_flight + 1 - unfinished)


@given(st.integers(SLOW_FROM, MAX_DISTANCE - 1), st.integers(0, 500), st.integers(1, 500))
def test_room_shrinks_with_the_distance(distance: int, unfinished: int, max_in_flight: int) -> None:
    """The nearer to the bound, the fewer records begin."""
    assert room(distance, unfinished, max_in_flight) >= room(distance + 1, unfinished, max_in_flight)
