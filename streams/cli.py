"""The command line: `headgate --help` teaches the rest."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer
from rich.table import Table

from schemas.events import StageName
from streams import (
    cli_backfill,
    cli_dead_letters,
    cli_doctor,
    cli_learn,
    cli_model,
    cli_policy,
    cli_replay,
    cli_topics,
)
from streams.command import FERNWAY, RUNS, console
from streams.command import failed as _failed
from streams.command import run as _run
from streams.learn import LearnError
from streams.settings import CONFIG, Settings, SettingsError, load

app = typer.Typer(
    help=(
        "Support tickets on Kafka, split between a small model and a frontier model; "
        "every cheap answer is checked before anyone sees it."
    ),
    epilog=(
        "Start with: headgate demo. Settings: headgate.toml (or the file HEADGATE_CONFIG names), "
        "then HEADGATE_* variables, e.g. HEADGATE_KAFKA__BOOTSTRAP_SERVERS."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_topics.app, name="topics")
app.add_typer(cli_dead_letters.app, name="dead-letters")
app.add_typer(cli_policy.app, name="policy")
audit_app = typer.Typer(help="Judge what was drawn for audits, and see how often the judge errs.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")
app.add_typer(cli_model.app, name="model")
app.command()(cli_learn.dataset)
app.command()(cli_learn.learn)
app.command()(cli_backfill.backfill)
app.command()(cli_replay.replay)
app.command()(cli_doctor.doctor)
app.command()(cli_doctor.forget)

Tickets = Annotated[int, typer.Option("--tickets", min=1, help="How many of the example company's test tickets.")]
PerSecond = Annotated[float, typer.Option("--per-second", min=0.01, help="How fast they are published.")]
SpendLimit = Annotated[
    float, typer.Option("--spend-limit", min=0.0, help="Most dollars that a real tier-2 provider may cost.")
]
Broker = Annotated[
    bool,
    typer.Option("--own-broker/--broker-from-settings", help="Start a broker here, or use the one in the settings."),
]


def main() -> None:
    """The console command. Wrong settings and failed steps end with a line, not with a traceback."""
    from aiokafka.errors import KafkaError

    from streams.backfill_plan import BackfillError
    from streams.letters import DeadLettersError
    from streams.local.processes import StepError
    from streams.policy_records import PolicyError
    from streams.publish import BadLineError
    from streams.topics import TopicsError
    from workers.store import StoreError

    try:
        app()
    except SettingsError as exc:
        sys.exit(_failed(str(exc), 2))
    except (StepError, BadLineError, DeadLettersError, BackfillError, LearnError, PolicyError, StoreError) as exc:
        sys.exit(_failed(str(exc), 1))
    except TopicsError as exc:
        sys.exit(_kafka_failed(str(exc)))
    except KafkaError as exc:
        named = "kafka.bootstrap_servers names the broker, kafka.security_protocol how to speak to it"
        sys.exit(_kafka_failed(f"Kafka: {exc} ({named})"))


def _kafka_failed(text: str) -> int:
    """Kafka's clients don't say whether a broker is away or refuses them: if a setting is why, it is named."""
    from streams.connection import check

    try:
        asyncio.run(check(load().kafka))
    except SettingsError as exc:
        return _failed(str(exc), 2)
    return _failed(text, 1)


def _local_settings() -> Settings:
    """Fernway's settings, unless HEADGATE_CONFIG says otherwise."""
    os.environ.setdefault(CONFIG, str(FERNWAY / "headgate.toml"))
    return load()


@app.command()
def demo(
    tickets: Tickets = 80,
    # Four in five go to tier-1, and two cores answer about as many as these.
    per_second: PerSecond = 0.5,
    seed: Annotated[int, typer.Option(help="Which tickets are drawn.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with the figures as one line of JSON.")] = False,
    spend_limit: SpendLimit = 1.0,
    own_broker: Broker = True,
) -> None:
    """The whole chain on this machine, on the example company's tickets: Kafka, both tiers, checker, report."""
    from streams.local.demo import DemoOptions, demo

    options = DemoOptions(FERNWAY, _fresh(RUNS / "demo"), tickets, per_second, seed, spend_limit, own_broker, as_json)
    _run(demo(options, _local_settings(), console))


@app.command()
def up(spend_limit: SpendLimit = 1.0, own_broker: Broker = True) -> None:
    """The whole chain on this machine, staying up for tickets of your own. Ctrl-C stops it."""
    from streams.local.up import up

    _run(up(_local_settings(), FERNWAY, _fresh(RUNS / "up"), own_broker, spend_limit, console))


@app.command()
def run(
    stage: Annotated[
        Literal[StageName, "scoreboard", "tier2-batch"],
        typer.Argument(help="router, tier1, tier2, tier2-batch, checker, judge or scoreboard"),
    ],
) -> None:
    """Run a stage or what runs beside them until SIGTERM. Exit codes: 0 stopped, 1 start it again, 2 wrong settings."""
    from streams.run import run

    raise typer.Exit(asyncio.run(run(stage, load())))


@app.command()
def certify(
    once: Annotated[bool, typer.Option("--once", help="Look once, publish what follows, and end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look once and publish nothing.")] = False,
) -> None:
    """Watch the labels: withdraw certificates that audits contradict, certify what they prove. Runs until SIGTERM."""
    from rich.console import Console

    from streams.certify import run
    from streams.run import configure_logs

    settings = load()
    if once or dry_run:
        _run(run(settings, True, dry_run, console))
    else:
        configure_logs("certify", settings.log_level)
        _run(run(settings, False, False, Console(quiet=True)))


@audit_app.command("next")
def next_audit(
    check: Annotated[
        bool, typer.Option("--check", help="Cases that the judge has judged, so that its errors can be counted.")
    ] = False,
) -> None:
    """Judge audits yourself, one after the other. You see texts, not who wrote them. Ctrl-D ends."""
    from streams.audits import judge_next

    def ask(letter: str) -> str | None:
        try:
            return input(f"Answer {letter}: acceptable? y or n, and why if you like: ")
        except EOFError:
            return None

    console.print(f"\n{_run(judge_next(load().kafka, check, ask, console))} judged", highlight=False)


@audit_app.command("status")
def audit_status() -> None:
    """How many audits there are, who judged them, and how often the judges err."""
    from streams.audits import print_status

    _run(print_status(load().kafka, console))


@app.command()
def feedback(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say who complains about what.")] = False,
) -> None:
    """Join the helpdesks' feedback with the answers that it is about, and publish what follows as labels."""
    from streams.feedback import label_feedback

    _run(label_feedback(load().kafka, dry_run, console))


@app.command()
def publish(
    file: Annotated[str, typer.Argument(help="A file of tickets, one JSON object a line; - is standard input.")],
) -> None:
    """Publish tickets. Only ticket_id and body are required: {"ticket_id": "42", "body": "where is my router?"}"""
    from streams.publish import publish_file

    count = _run(publish_file(file, load().kafka, console))
    console.print(f"{count} tickets published", highlight=False)


@app.command()
def answers(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more; Ctrl-C ends.")] = False,
    handoffs: Annotated[bool, typer.Option(help="Tickets that a person must answer, too.")] = True,
) -> None:
    """Read the answers, one JSON object a line."""
    from streams.answers import print_answers

    _run(print_answers(load().kafka, follow, handoffs))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A demo's folder.")] = RUNS / "demo") -> None:
    """Show the last demo's report again, and where its page is."""
    path = folder / "report.json"
    if not path.is_file():
        raise typer.Exit(_failed(f"no report in {folder}: run `headgate demo` first", 1))
    table = Table("figure", "value")
    for name, value in orjson.loads(path.read_bytes()).items():
        table.add_row(
            name, "not measured" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        )
    console.print(table)
    console.print(f"with charts: {folder / 'report.html'}")


@app.command()
def schemas(out: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("schemas/published")) -> None:
    """Write the JSON Schema of every record and the AsyncAPI document."""
    from schemas.documents import documents

    out.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (out / name).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _fresh(folder: Path) -> Path:
    """An empty folder for a run; what the last one left is removed."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()


if __name__ == "__main__":
    main()
