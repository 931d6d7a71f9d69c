"""`headgate policy`: what is in force, and another in its place by an operator's word."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from streams.command import console, run
from streams.settings import load

if TYPE_CHECKING:
    from schemas.policy import Policy

app = typer.Typer(help="What is in force, what it promises, and another in its place.", no_args_is_help=True)

Share = Annotated[
    float | None, typer.Option("--share", min=0.0, max=1.0, help="As a candidate, for this share of the tickets only.")
]


@app.command("show")
def show_policy() -> None:
    """What is in force: by category, what is certified, to what bound, until when, and how many labels are missing."""
    from streams.certify import show

    run(show(load(), console))


@app.command("list")
def list_policies() -> None:
    """Every policy that was ever published."""
    from streams.policies import load_policy
    from streams.policy_records import minute, read_shelf

    settings = load()
    shelf = run(read_shelf(settings.kafka, load_policy(settings.policy).scope))
    table = Table("version", "made", "in force", "because")
    for policy in sorted(shelf.versions.values(), key=lambda p: p.made_at.timestamp() if p.made_at else 0.0):
        role = "yes" if shelf.active and policy.version == shelf.active.version else ""
        because = (*policy.because, *(policy.evidence.because if policy.evidence else ()))
        table.add_row(policy.version, minute(policy.made_at) if policy.made_at else "", role, "; ".join(because))
    console.print(table)


@app.command("publish")
def publish_policy(
    file: Annotated[Path, typer.Argument(help="A policy file, as policy.json is one.")], share: Share = None
) -> None:
    """Put a policy file in force for all stages, without a restart; its version is made from its contents."""
    from streams.policies import load_policy
    from streams.policy_records import publish_policy

    settings = load()
    made = run(publish_policy(settings.kafka, load_policy(settings.policy), _policy_file(file), share))
    console.print(f"policy {made.version} is {'in force' if share is None else f'a candidate for {share:.0%}'}")


@app.command("promote")
def promote_policy(
    version: Annotated[str, typer.Argument(help="The start of a version; the candidate by default.")] = "",
    share: Share = None,
) -> None:
    """Give a known policy a share of the tickets, or put it in force for all."""
    from streams.certify import promote

    policy = run(promote(load(), version, share))
    console.print(f"policy {policy.version} is {'in force' if share is None else f'a candidate for {share:.0%}'}")


@app.command("rollback")
def rollback_policy(
    version: Annotated[str, typer.Argument(help="The start of a version; by default the one before.")] = "",
) -> None:
    """End the candidate; or, if there is none or a version is named, put an earlier policy in force again."""
    from streams.policies import load_policy
    from streams.policy_records import rollback

    settings = load()
    policy = run(rollback(settings.kafka, load_policy(settings.policy), version))
    console.print(f"policy {policy.version} is in force")


@app.command("diff")
def diff_policies(
    version: Annotated[str, typer.Argument(help="The start of a version; the candidate by default.")] = "",
) -> None:
    """What another policy would change."""
    from streams.policies import load_policy
    from streams.policy_records import PolicyError, differences, read_shelf

    settings = load()
    start = load_policy(settings.policy)
    shelf = run(read_shelf(settings.kafka, start.scope))
    other = shelf.get(version) if version else shelf.candidate
    if other is None:
        raise PolicyError("there is no candidate: name a version (headgate policy list)")
    for line in differences(shelf.policies(start).active, other) or ["nothing"]:
        console.print(line, highlight=False, markup=False)


def _policy_file(path: Path) -> "Policy":
    from streams.policies import load_policy

    try:
        return load_policy(path)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
