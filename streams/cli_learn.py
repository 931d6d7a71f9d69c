"""`headgate dataset` and `headgate learn`: from the topics to data sets, and from these to models and thresholds."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from streams.command import FERNWAY, RUNS, console, run
from streams.learn import Level
from streams.settings import load

Step = Literal["adapter", "labels", "router", "checker", "thresholds", "tier1", "all"]

FromData = partial(typer.Option, rich_help_panel="With `checker`, `thresholds` or `tier1`: from `headgate dataset`")
OwnData = partial(typer.Option, rich_help_panel="With `router`: from data of your own")


def dataset(
    kind: Annotated[
        Literal["thresholds", "checker", "tier1"], typer.Argument(help="What `headgate learn` is to learn from it.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for its rows and its manifest.")],
) -> None:
    """Make a data set from what is on the topics: no ticket twice, no personal data, and a count of what was left
    out, and why."""
    from streams.learn_topics import make

    manifest = run(make(kind, load(), out, _command()))
    for name, file in manifest.files.items():
        console.print(f"{file.rows} rows in {out / name}", highlight=False)
    for reason, count in (manifest.left_out | {"can't be read": manifest.unreadable}).items():
        console.print(f"left out: {count} {reason}", highlight=False)


def learn(
    step: Annotated[Step, typer.Argument(help="Of the example company: `all`, or adapter, labels, router, checker.")],
    company: Annotated[Path, typer.Option(help="The company's folder; what is learned is written into it.")] = FERNWAY,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder for what is learned from data; a file for `thresholds`.")
    ] = None,
    data: Annotated[Path | None, FromData("--data", help="A data set's file of rows.")] = None,
    base: Annotated[
        Path | None, FromData("--base", help="`tier1`: the small model's Hugging Face folder, if not the example's.")
    ] = None,
    labels: Annotated[str, OwnData("--labels", help="Labelled outcomes: a file of JSON lines, or `topic`.")] = "",
    tickets: Annotated[str, OwnData("--tickets", help="Past tickets without outcomes: a file, or `topic`.")] = "",
    level: Annotated[Level, OwnData("--level", help="Heads on the encoder as it is, or all of it tuned.")] = "heads",
    knowledge: Annotated[
        Path | None, OwnData("--knowledge", help="The knowledge that the tickets' passages name.")
    ] = None,
    validation_share: Annotated[
        float, OwnData("--validation-share", min=0.05, max=0.5, help="Held out, to measure.")
    ] = 0.2,
    seed: Annotated[int, OwnData("--seed", help="Of the split and of the training.")] = 7,
) -> None:
    """Train a company's models from its example tickets; or a router, a scorer, thresholds or tier-1 from data of your
    own (needs the `learn` extra; `make learn` has it)."""
    if base and step != "tier1":
        raise typer.BadParameter("--base goes with learn tier1 --data")
    if data or step in ("thresholds", "tier1"):
        if data is None or out is None or labels or tickets or knowledge:
            raise typer.BadParameter("learn checker|thresholds|tier1 --data FILE --out FOLDER")
        _from_data(step, data, out, base)
        return
    if not labels and not tickets:
        if out or knowledge:
            raise typer.BadParameter("--out goes with --data, --labels or --tickets, and --knowledge with the last two")
        from workers.learning import steps

        run(steps.learn(step, company, RUNS / "learn"))
        return
    if step != "router" or (labels and tickets) or out is None:
        raise typer.BadParameter("learn router --labels SOURCE --out FOLDER, or --tickets instead of --labels")
    from streams import learn

    rows, said = run(learn.past_tickets(tickets, seed) if tickets else learn.labelled(labels))
    console.print(said, highlight=False)
    card = learn.train(rows, learn.Recipe(out, level, knowledge, validation_share, seed, _command()), bool(tickets))
    console.print(f"router model {card.training.version} is in {out}: how good it is, says {out / 'card.md'}")


def _from_data(step: Step, data: Path, out: Path, base: Path | None) -> None:
    from streams import learn_data

    match step:
        case "checker":
            said = learn_data.train_checker(data, out)
        case "thresholds":
            said = learn_data.solve_thresholds(data, out, load())
        case "tier1":
            said = learn_data.train_tier1(data, out, base, RUNS / "learn")
        case _:
            raise typer.BadParameter("--data goes with checker, thresholds or tier1")
    console.print(f"{said}; it is in {out}", highlight=False)


def _command() -> str:
    return f"headgate {shlex.join(sys.argv[1:])}"
