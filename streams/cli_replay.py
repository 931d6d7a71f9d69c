"""`headgate replay`: what another policy would have done with a past window."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from streams.command import RUNS, console, failed, run
from streams.settings import load

EPOCH = datetime.fromtimestamp(0, UTC)


def replay(
    since: Annotated[
        str, typer.Option("--from", help="From an age (30m, 2h, 7d) or an ISO time on, UTC if it names no zone.")
    ],
    policy: Annotated[str, typer.Option("--policy", help="The start of a version, or a policy file.")],
    until: Annotated[str, typer.Option("--to", help="Its end; now by default.")] = "0s",
    out: Annotated[Path, typer.Option("--out", help="The folder for replay.json and replay.html.")] = RUNS / "replay",
) -> None:
    """What another policy would have done with past tickets: shares, costs, bad answers, from the log alone."""
    # Here: it loads what the router's model needs.
    from streams import replay as replaying
    from streams.letters import parse_since
    from streams.reporting.replay_page import rows
    from streams.runtime.clock import utc_now

    now = utc_now()
    start, end = max(EPOCH, parse_since(since, now, "--from")), parse_since(until, now, "--to")
    try:
        found = run(replaying.run(load(), start, end, policy, out))
    except replaying.ReplayError as exc:
        raise typer.Exit(failed(str(exc), 1)) from None
    table = Table("", "happened", f"policy {found.policy}")
    for row in rows(found.everything):
        table.add_row(*row)
    console.print(f"{found.everything.tickets} tickets", highlight=False)
    console.print(table)
    if found.check:
        same, of = found.check.tickets - found.check.ends_differ, found.check.tickets
        console.print(f"the log itself: {same} of {of} tickets end in the replay as they did", highlight=False)
    for note in found.notes:
        console.print(f"- {note}", highlight=False, markup=False)
    console.print(f"with charts, by category: {out / 'replay.html'}", highlight=False)
