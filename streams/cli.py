"""The command line: `headgate --help` teaches the rest."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import orjson
import typer
from rich.table import Table

from schemas.events import StageName
from streams import cli_backfill, cli_doctor, cli_learn, cli_model, cli_replay, cli_topics
from streams.command import FERNWAY, RUNS, console
from streams.command import failed as _failed
from streams.command import run as _run
from streams.learn import LearnError
from streams.settings import CONFIG, Settings, SettingsError, load

if TYPE_CHECKING:
    from schemas.policy import Policy
    from streams.letters import Filters

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
dead_letters_app = typer.Typer(help="What the stages gave up: look at it, and send it again.", no_args_is_help=True)
app.add_typer(dead_letters_app, name="dead-letters")
policy_app = typer.Typer(help="What is in force, what it promises, and another in its place.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
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

OfStage = Annotated[StageName | None, typer.Option("--stage", help="Only those of one stage.")]
Reason = Annotated[str, typer.Option("--reason", help="Only those whose reason holds this text.")]
Since = Annotated[str, typer.Option("--since", help="Only later ones: an age (30m, 2h, 7d) or an ISO time.")]


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


@dead_letters_app.command("list")
def list_dead_letters(
    stage: OfStage = None,
    reason: Reason = "",
    since: Since = "",
    requeued: Annotated[bool, typer.Option("--all", help="Those that have been requeued, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
) -> None:
    """The dead letters, without their bodies, and how many there are of which reason."""
    from streams.dead_letters import print_list

    _run(print_list(load().kafka, _filters(stage, reason, since), requeued, as_json, console))


@dead_letters_app.command("show")
def show_dead_letter(
    letter: Annotated[str, typer.Argument(metavar="ID", help="PARTITION/OFFSET, as `list` shows it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the body's bytes, as they came.")] = False,
) -> None:
    """A dead letter's headers and its body. The body is a customer's text."""
    from streams.dead_letters import print_one
    from streams.letters import parse_id

    _run(print_one(load().kafka, parse_id(letter), raw, console))


@dead_letters_app.command()
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
    _run(requeue(load().kafka, ids, _filters(stage, reason, since), dry_run, console))


def _filters(stage: StageName | None, reason: str, since: str) -> "Filters":
    from streams.letters import Filters, parse_since
    from streams.runtime.clock import utc_now

    return Filters(stage, reason, parse_since(since, utc_now()) if since else None)


Share = Annotated[
    float | None, typer.Option("--share", min=0.0, max=1.0, help="As a candidate, for this share of the tickets only.")
]


@policy_app.command("show")
def show_policy() -> None:
    """What is in force: by category, what is certified, to what bound, until when, and how many labels are missing."""
    from streams.certify import show

    _run(show(load(), console))


@policy_app.command("list")
def list_policies() -> None:
    """Every policy that was ever published."""
    from streams.policies import load_policy
    from streams.policy_records import minute, read_shelf

    settings = load()
    shelf = _run(read_shelf(settings.kafka, load_policy(settings.policy).scope))
    table = Table("version", "made", "in force", "because")
    for policy in sorted(shelf.versions.values(), key=lambda p: p.made_at.timestamp() if p.made_at else 0.0):
        role = "yes" if shelf.active and policy.version == shelf.active.version else ""
        because = (*policy.because, *(policy.evidence.because if policy.evidence else ()))
        table.add_row(policy.version, minute(policy.made_at) if policy.made_at else "", role, "; ".join(because))
    console.print(table)


@policy_app.command("publish")
def publish_policy(
    file: Annotated[Path, typer.Argument(help="A policy file, as policy.json is one.")], share: Share = None
) -> None:
    """Put a policy file in force for all stages, without a restart; its version is made from its contents."""
    from streams.policies import load_policy
    from streams.policy_records import publish_policy

    settings = load()
    made = _run(publish_policy(settings.kafka, load_policy(settings.policy), _policy_file(file), share))
    console.print(f"policy {made.version} is {'in force' if share is None else f'a candidate for {share:.0%}'}")


@policy_app.command("promote")
def promote_policy(
    version: Annotated[str, typer.Argument(help="The start of a version; the candidate by default.")] = "",
    share: Share = None,
) -> None:
    """Give a known policy a share of the tickets, or put it in force for all."""
    from streams.certify import promote

    policy = _run(promote(load(), version, share))
    console.print(f"policy {policy.version} is {'in force' if share is None else f'a candidate for {share:.0%}'}")


@policy_app.command("rollback")
def rollback_policy(
    version: Annotated[str, typer.Argument(help="The start of a version; by default the one before.")] = "",
) -> None:
    """End the candidate; or, if there is none or a version is named, put an earlier policy in force again."""
    from streams.policies import load_policy
    from streams.policy_records import rollback

    settings = load()
    policy = _run(rollback(settings.kafka, load_policy(settings.policy), version))
    console.print(f"policy {policy.version} is in force")


@policy_app.command("diff")
def diff_policies(
    version: Annotated[str, typer.Argument(help="The start of a version; the candidate by default.")] = "",
) -> None:
    """What another policy would change."""
    from streams.policies import load_policy
    from streams.policy_records import PolicyError, differences, read_shelf

    settings = load()
    start = load_policy(settings.policy)
    shelf = _run(read_shelf(settings.kafka, start.scope))
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


@app.command()
def certify(
    once: Annotated[bool, typer.Option("--once", help="Look once, publish what follows, and end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look once and publish nothing.")] = False,
) -> None:
    """Watch the labels: withdraw certificates that audits contradict, certify what they prove. Runs until SIGTERM."""
    from streams.certify import run

    _run(run(load(), once or dry_run, dry_run, console))


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
