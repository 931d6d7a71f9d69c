"""`headgate model`: versions of models and policies, into the store and out of it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from streams.command import console
from streams.runtime.clock import utc_now
from streams.settings import load
from workers.store import Kind, ModelStore

app = typer.Typer(help="Models and policies by version, in a folder or a bucket.", no_args_is_help=True)

KindName = Annotated[Kind, typer.Argument(help="What it is.")]


@app.command()
def push(
    kind: KindName,
    source: Annotated[Path, typer.Argument(help="A file, or a folder with all that is in it.")],
    made_from: Annotated[str, typer.Option("--from", help="The data set or the command that it was made of.")] = "",
) -> None:
    """Put a model into the store. Its version is made from its contents; a folder's card.json goes with it."""
    manifest = ModelStore(str(load().store)).push(kind, source, utc_now(), made_from)
    console.print(f"{kind} {manifest.version} is in the store", highlight=False)


@app.command("list")
def list_models(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.")] = None,
) -> None:
    """The versions in the store, the oldest first."""
    table = Table("kind", "version", "made", "files", "MB", "from")
    for each in ModelStore(str(load().store)).list(kind):
        size = sum(file.size_bytes for file in each.files) / 1e6
        made = f"{each.made_at:%Y-%m-%d %H:%M}"
        table.add_row(each.kind, each.version, made, str(len(each.files)), f"{size:.1f}", each.made_from)
    console.print(table)


@app.command()
def pull(
    kind: KindName,
    version: Annotated[str, typer.Argument(help="The start of a version.")],
    out: Annotated[Path, typer.Option("--out", help="A folder that isn't there yet.")],
) -> None:
    """Write a version's files into a folder: all of them, each checked by its hash, or none."""
    manifest = ModelStore(str(load().store)).pull(kind, version, out)
    console.print(f"{kind} {manifest.version} is in {out}", highlight=False)
