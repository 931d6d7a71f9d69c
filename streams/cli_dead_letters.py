"""`headgate dead-letters`: what the stages gave up, listed, shown, and sent back."""

from typing import TYPE_CHECKING, Annotated

import typer

from schemas.events import StageName
from streams.command import console, run
from streams.settings import load

if TYPE_CHECKING:
    from streams.letters import Filters

app = typer.Typer(help="What the stages gave up: look at it, and send it again.", no_args_is_help=True)

OfStage = Annotated[StageName | None, typer.Option("--stage", help="Only those of one stage.")]
Reason = Annotated[str, typer.Option("--reason", help="Only those whose reason holds this text.")]
Since = Annotated[str, typer.Option("--since", help="Only later ones: an age (30m, 2h, 7d) or an ISO time.")]


@app.command("list")
def list_dead_letters(
    stage: OfStage = None,
    reason: Reason = "",
    since: Since = "",
    requeued: Annotated[bool, typer.Option("--all", help="Those that have been requeued, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
) -> None:
    """The dead letters, without their bodies, and how many there are of which reason."""
    from streams.dead_letters import print_list

    run(print_list(load().kafka, _filters(stage, reason, since), requeued, as_json, console))


@app.command("show")
def show_dead_letter(
    letter: Annotated[str, typer.Argument(metavar="ID", help="PARTITION/OFFSET, as `list` shows it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the body's bytes, as they came.")] = False,
) -> None:
    """A dead letter's headers and its body. The body is a customer's text."""
    from streams.dead_letters import print_one
    from streams.letters import parse_id

    run(print_one(load().kafka, parse_id(letter), raw, console))


@app.command()
def requeue(
    letters: Annotated[list[str] | None, typer.Argument(metavar="ID", help="PARTITION/OFFSET each.")] = None,
    all_matching: Annotated[
        bool, typer.Option("--all-matching", help="All that match --stage, --reason and --since.")
    ] = False,
    stage: OfStage = None,
    reason: Reason = "",
    since: Since = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
) -> None:
    """Send dead letters again to where they came from: as they came, and each once however often this is run."""
    from streams.letters import parse_id
    from streams.requeue import requeue

    if bool(letters) == all_matching:
        raise typer.BadParameter("name dead letters, or say --all-matching: one of both")
    if letters and (stage or reason or since):
        raise typer.BadParameter("--stage, --reason and --since go with --all-matching")
    ids = [parse_id(text) for text in letters or []]
    run(requeue(load().kafka, ids, _filters(stage, reason, since), dry_run, console))


def _filters(stage: StageName | None, reason: str, since: str) -> "Filters":
    from streams.letters import Filters, parse_since
    from streams.runtime.clock import utc_now

    return Filters(stage, reason, parse_since(since, utc_now()) if since else None)
