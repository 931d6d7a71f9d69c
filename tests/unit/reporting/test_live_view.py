"""streams/live_view.py: readable on a terminal of 80 columns, and in a file."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from streams.reporting.live_view import LINE_S, line, show, view
from streams.reporting.tally import Tally

UP = dict.fromkeys(("router", "tier1", "tier2", "checker", "tier1-server", "recorded-frontier"), "up")


@pytest.fixture
def tally(make):
    """Three tickets in, two out."""
    tally = Tally(published=3)
    tally.add(make.answer("t1", seconds=1.25))
    tally.add(make.answer("t2", "tier2", attempts=[make.attempt()], seconds=4.0))
    return tally


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def drawn(tally, states=UP, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view(tally, 120, 65.0, states))
    return console.file.getvalue()


def test_the_view_fits_80_columns(tally):
    """Nothing is cut or wrapped away, however large the numbers."""
    text = drawn(tally)
    assert all(cell_len(row) <= 80 for row in text.splitlines())
    for words in ("1:05", "2 of 120 finished", "answered by tier-1", "1.2 s", "handed to a person", "in progress"):
        assert words in text
    assert "…" not in text


def test_the_estimate_is_called_one(tally, make):
    """And isn't shown before there is a price to go by."""
    assert "all-tier-2 would be about $0.0080 (estimate)" in drawn(tally)
    assert "estimate" not in drawn(Tally(published=3))


def test_a_restarted_process_is_named(tally):
    """A process in trouble must be seen on either kind of screen."""
    states = UP | {"tier2": "up, restarted 1x"}
    assert "tier2 up, restarted 1x" in drawn(tally, states)
    assert line(tally, 3, 1.0, states).endswith("tier2 up, restarted 1x")
    assert "tier2" not in line(tally, 3, 1.0, UP)


def test_a_file_gets_a_plain_line_now_and_then(tally):
    """However often the view is refreshed; and the last state at the end."""
    clock, console = Clock(), Console(file=io.StringIO(), width=80, force_terminal=False)
    with show(tally, 3, lambda: UP, console, clock) as refresh:
        for _ in range(100):
            refresh()
            clock.now_s += LINE_S / 50
        tally.published = 7
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("0:00  2/3 finished  tier-1 1  tier-2 1  escalated 1")
    assert "in progress 5" in lines[-1]
    assert not any("\x1b" in row for row in lines)


def test_a_terminal_is_redrawn_and_left_in_order(tally):
    """The cursor comes back even when the run fails."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True)

    def failing_run() -> None:
        with show(tally, 3, lambda: UP, console, Clock()) as refresh:
            refresh()
            raise RuntimeError("a stage failed")

    with pytest.raises(RuntimeError, match="a stage failed"):
        failing_run()
    written = console.file.getvalue()
    assert "\x1b[?25l" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
