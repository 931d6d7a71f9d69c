"""`headgate doctor` and `headgate forget`: for whoever runs it."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from streams.command import console, run
from streams.settings import load

AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")]


def doctor(as_json: AsJson = False) -> None:
    """Look at broker, topics, models, keys, clocks and GPU, and say what to fix. Changes nothing. Exit codes: 0 nothing
    is wrong, 1 something is, 2 wrong settings."""
    from streams.doctor import examination

    # What its clients say of a broker that is away is said by the findings.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = load()
    findings = run(examination.examine(settings))
    if as_json:
        examination.print_json(findings)
    else:
        examination.show(findings, console)
    raise typer.Exit(1 if examination.count(findings, "wrong") else 0)


def forget(
    customer: Annotated[str, typer.Option("--customer", help="The customer_id, as the helpdesk's tickets have it.")],
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant that the id belongs to.")] = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="A data set's folder, to look for the customer's rows in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Leave a customer out of all learning from now on, write tombstones, and say what remains and until when."""
    from streams.forget import forget, print_json, show

    if not customer:
        # Tickets without an id are nobody's, and many.
        raise typer.BadParameter("--customer is empty")
    report = run(forget(load(), tenant, customer, dry_run, data or []))
    if as_json:
        print_json(report)
    else:
        show(report, console)
