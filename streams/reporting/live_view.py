"""What is seen of a run while it runs: a picture that redraws itself on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.reporting.tally import Tally, is_escalated, latency

REDRAW_S = 0.25
LINE_S = 5.0
"""Where the output is a file or a pipe: often enough to see that it moves, seldom enough to read."""

States = Callable[[], Mapping[str, str]]
"""Each process's state in a word or two."""


@contextmanager
def show(
    tally: Tally, total: int, states: States, console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show a tally until the block ends; yields a function to call whenever it may have changed.

    Drawn only by that function, never from a thread: the tally is not shared. The last state stays on the screen.
    """
    started = clock()
    # Redrawn in place by `Live` on a terminal only; it would print nothing but the last state elsewhere.
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    due = started

    def draw() -> None:
        elapsed_s = clock() - started
        if live:
            live.update(view(tally, total, elapsed_s, states()), refresh=True)
        else:
            console.print(line(tally, total, elapsed_s, states()), markup=False, highlight=False, soft_wrap=True)

    def refresh() -> None:
        nonlocal due
        if (now := clock()) >= due:
            due = now + (REDRAW_S if live else LINE_S)
            draw()

    if live:
        live.start()
    try:
        yield refresh
        draw()
    finally:
        if live:
            live.stop()


def line(tally: Tally, total: int, elapsed_s: float, states: Mapping[str, str]) -> str:
    """The tally in a line of plain text."""
    parts = [
        f"{_clock(elapsed_s)}",
        f"{tally.finished}/{total} finished",
        f"tier-1 {len(tally.answered_by('tier1'))}",
        f"tier-2 {len(tally.answered_by('tier2'))}",
        f"escalated {tally.escalated}",
        f"handed off {len(tally.handoffs)}",
        f"dead letters {tally.dead_letters}",
        f"in progress {tally.in_progress}",
        f"cost ${tally.costs.total_usd:.4f}",
    ]
    troubled = [f"{name} {state}" for name, state in states.items() if state != "up"]
    return "  ".join(parts + troubled)


def view(tally: Tally, total: int, elapsed_s: float, states: Mapping[str, str]) -> RenderableType:
    """The tally as a picture of at most 80 columns."""
    return Group("", _progress(tally, total, elapsed_s), "", _table(tally), "", _cost(tally), _health(states), "")


def _progress(tally: Tally, total: int, elapsed_s: float) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        Text(_clock(elapsed_s), "bold"),
        ProgressBar(total, tally.finished, width=38, complete_style="cyan", finished_style="green"),
        Text(f"{tally.finished} of {total} finished, {tally.published} in"),
    )
    return grid


def _table(tally: Tally) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", min_width=34)
    for title in ("tickets", "share", "p50", "p95"):
        table.add_column(title, justify="right", min_width=7)
    tier2 = tally.answered_by("tier2")
    for title, answers in (
        ("answered by tier-1", tally.answered_by("tier1")),
        ("answered by tier-2", tier2),
        ("  of these after a tier-1 draft", [a for a in tier2 if is_escalated(a)]),
    ):
        measured = latency(answers)
        quantiles = (f"{measured.p50_s:.1f} s", f"{measured.p95_s:.1f} s") if measured else ("", "")
        table.add_row(title, str(len(answers)), _share(len(answers), tally.finished), *quantiles)
    table.add_row("handed to a person", str(len(tally.handoffs)), _share(len(tally.handoffs), tally.finished))
    table.add_row("dead letters", Text(str(tally.dead_letters), "red" if tally.dead_letters else ""))
    table.add_row("in progress", str(tally.in_progress))
    table.add_row("tier-1 drafts refused (escalated)", str(tally.escalated), _share(tally.escalated, tally.finished))
    return table


def _cost(tally: Tally) -> Text:
    estimate = tally.all_tier2_estimate_usd
    text = Text(f"cost so far ${tally.costs.total_usd:.4f}", "bold")
    if estimate is not None:
        text.append(f"   all-tier-2 would be about ${estimate:.4f} (estimate)", "not bold dim")
    return text


def _health(states: Mapping[str, str]) -> Text:
    """One line while all is well; a process in trouble stands out."""
    separate = Text("  ")
    return separate.join(Text(f"{n} {s}", "green" if s == "up" else "yellow") for n, s in states.items())


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
