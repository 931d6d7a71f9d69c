"""Whether a group's member under our instance id is us: what is proof of another process, and what isn't."""

import pytest

from streams.runtime.group import STAYS, DuplicateInstanceError, InstanceTakenError, InstanceWatch


def joined(member_id: str) -> InstanceWatch:
    watch = InstanceWatch()
    watch.joined(member_id)
    return watch


def test_a_process_that_has_not_joined_takes_over_whoever_is_there() -> None:
    """A restart finds its predecessor's place."""
    InstanceWatch().check("predecessor")


@pytest.mark.parametrize("member_id", ["ours", None])
def test_our_own_place_and_an_empty_one_are_no_duplicate(member_id: str | None) -> None:
    """A member that expired has left an empty one."""
    joined("ours").check(member_id)


def test_a_stranger_that_outlasts_our_absences_is_another_process() -> None:
    """And not before."""
    watch = joined("ours")
    for _ in range(STAYS):
        with pytest.raises(InstanceTakenError):
            watch.check("stranger")
        watch.stay_away()
    with pytest.raises(DuplicateInstanceError):
        watch.check("stranger")


def test_another_stranger_starts_the_count_anew() -> None:
    """Our own lost joins are others each time."""
    watch = joined("ours")
    for number in range(2 * STAYS):
        with pytest.raises(InstanceTakenError):
            watch.check(f"stranger{number}")
        watch.stay_away()


def test_a_place_that_is_ours_again_forgets_the_stranger() -> None:
    """It was a lost join, and has expired."""
    watch = joined("ours")
    with pytest.raises(InstanceTakenError):
        watch.check("stranger")
    watch.stay_away()
    watch.joined("ours again")
    watch.check("ours again")
    with pytest.raises(InstanceTakenError):
        watch.check("stranger")
