"""What follows from what happened to one ticket."""

from workers.errors import RetryableError
from workers.tier2.outgoing import Outgoing
from workers.tier2.story import Story
from workers.tier2.wire import BrokenAnswerError, TargetError


def story() -> Story:
    return Story(Outgoing("Why?", {}), "default", ends_s=60.0)


def test_a_target_that_failed_twice_stands_behind_the_others() -> None:
    """One failure is worth another try; each target has its own count."""
    told = story()
    told.failed("a", RetryableError("HTTP 500"))
    told.failed("b", RetryableError("HTTP 502"))
    assert not told.failed_often("a")
    told.failed("a", RetryableError("HTTP 500"))
    assert (told.failed_often("a"), told.failed_often("b"), told.last) == (True, False, "HTTP 500")


def test_a_target_without_a_turn_stands_behind_the_others_at_once() -> None:
    """The wait was the try; the last failure of a call is the reason that counts."""
    told = story()
    told.passed_over("a", "busy")
    assert (told.failed_often("a"), told.last) == (True, "busy")
    told.calls = 1
    told.failed("b", RetryableError("HTTP 500"))
    told.passed_over("a", "busy")
    assert told.last == "HTTP 500"


def test_a_second_broken_answer_ends_it_with_that_target() -> None:
    """Over all targets: each of them may have been paid for."""
    told = story()
    told.failed("a", BrokenAnswerError("half"))
    assert told.given_up == set()
    told.failed("b", BrokenAnswerError("half"))
    assert told.given_up == {"b"}


def test_a_target_at_fault_is_given_up() -> None:
    """No further try of this ticket goes there."""
    told = story()
    told.refused("a", TargetError("HTTP 401"))
    assert (told.given_up, told.last) == ({"a"}, "HTTP 401")


def test_money_is_certain_or_an_exposure() -> None:
    """Never both."""
    told = story()
    told.paid(300, known=True)
    told.paid(9_000, known=False)
    assert (told.spent_micro_usd, told.exposure_micro_usd) == (300, 9_000)
