"""`headgate backfill`: past tickets once more, on the slow lane."""

from typing import Annotated, Literal

import typer

from streams.command import console, run
from streams.settings import load

FILTER_HELP = (
    "Only tickets of this value: tenant, customer_id, channel, language, category, metadata.KEY, or ended: answer, "
    "handoff, a handoff's reason like tier2_unavailable, none. Several of one name: any of the values."
)


def backfill(
    since: Annotated[
        str, typer.Option("--from", metavar="T", help="Tickets written since: an ISO time, UTC if it names no zone.")
    ],
    until: Annotated[str, typer.Option("--to", metavar="T", help="And before this time; at most until now.")],
    filters: Annotated[list[str] | None, typer.Option("--filter", metavar="NAME=VALUE", help=FILTER_HELP)] = None,
    lane: Annotated[
        Literal["backfill"], typer.Option("--lane", help="The slow lane, which gets what live tickets leave over.")
    ] = "backfill",
    output: Annotated[
        str,
        typer.Option("--output", metavar="TOPIC", help="A topic of yours for the answers and the handoffs of this."),
    ] = "answers",
    again: Annotated[
        bool, typer.Option("--again", help="Also tickets that have an answer, or are on their way to one.")
    ] = False,
    outstanding: Annotated[
        int, typer.Option("--outstanding", min=1, help="Most tickets on the slow lane that have not ended.")
    ] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many, and what they may cost.")] = False,
) -> None:
    """Take past tickets that were handed to a person through the slow lane once more. What has an answer is left out.

    The same --from, --to, --filter, --output and --again are the same backfill: interrupted or killed, it goes on where
    it was. Once finished it looks again, and takes what has been handed off since; with --again it does nothing more.
    """
    from streams.backfill import backfill as work
    from streams.backfill_plan import asked

    run(work(load().kafka, asked(since, until, filters or [], output, again), outstanding, dry_run, console))
