"""`headgate doctor` and `headgate forget`: for whoever runs it."""

import logging
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
