"""All checks side by side, each within a time limit: what one of them meets never ends the others."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.doctor import cluster, machine, models, providers, stages
from streams.doctor.finding import Finding, Verdict
from streams.learn import LearnError, learning
from streams.settings import Settings, SettingsError, config_file
from streams.topics import TopicsError
from workers.learning.company import load_company
from workers.store import StoreError

LIMIT_S = 20.0
"""Of one check. A broker that is away says so at once, one that doesn't answer not at all."""
SLOW_LIMIT_S = 60.0
"""Of loading models, and vLLM's libraries."""

MOST_NAME_CHARS = 22

REACH = "broker"
"""The name of the one finding that there is if no broker answers."""

BROKERS_LOG = "look at the broker's log"
FRONTIER = "correct the settings of [tier2]; a model without a price needs a row in tier2.prices"
STORE = "correct store; for S3 the AWS_* variables"

STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}

Findings = list[Finding]
Check = Callable[[], Awaitable[Findings]]


async def examine(settings: Settings) -> Findings:
    """Look at everything, and change nothing; by subject, in the order in which a ticket travels."""
    kafka = settings.kafka
    there = asyncio.ensure_future(_broker(settings))

    async def with_topics(subject: str, name: str, check: Check) -> Findings:
        """What is read from topics; while some are missing, the broker's findings say what to do."""
        if _is_reached(await there) and not _lacks_topics(await there):
            return await _within(LIMIT_S, subject, name, check, BROKERS_LOG)
        return [Finding(subject, name, "warning", "not looked at: broker or topics are missing")]

    async def transactions() -> Findings:
        if not _is_reached(await there):
            return []
        return await _within(LIMIT_S, cluster.KAFKA, "transactions", lambda: cluster.transactions(kafka), BROKERS_LOG)

    async def of_models() -> Findings:
        loaded = await asyncio.to_thread(models.load, settings)
        found = list(loaded.findings)
        if loaded.router and loaded.knowledge is not None:
            found.append(models.judged_knowledge(loaded.router.classes, loaded.knowledge))
        if loaded.policy:
            found += await with_topics(models.POLICY, "in force", lambda: models.in_force(settings, loaded))
        return found

    waited = await asyncio.gather(
        there,
        transactions(),
        with_topics(cluster.KAFKA, "the broker's clock", lambda: cluster.clock(kafka)),
        _within(SLOW_LIMIT_S, models.MODELS, "models", of_models, "look at router.model and checker.scorer"),
        _within(SLOW_LIMIT_S, models.GPU, "GPU", lambda: models.gpu(settings), "look at the driver (nvidia-smi)"),
        _within(
            LIMIT_S,
            providers.TIER1,
            "server",
            lambda: providers.tier1(settings),
            "look at tier1.base_url and tier1.models",
        ),
        _within(LIMIT_S, providers.TIER2, "models", lambda: providers.frontier(settings, "tier2"), FRONTIER),
        _within(LIMIT_S, providers.JUDGE, "models", lambda: _judge(settings), "correct the settings of [judge]"),
        with_topics(stages.STAGES, "processes", lambda: stages.at_work(kafka)),
        with_topics(stages.STAGES, "dead letters", lambda: stages.dead_letters(kafka)),
        _within(LIMIT_S, machine.MACHINE, "model store", lambda: asyncio.to_thread(machine.store, settings), STORE),
        _within(LIMIT_S, machine.MACHINE, "disk", lambda: asyncio.to_thread(machine.disks, settings), ""),
    )
    return [_settings(), *(finding for findings in waited for finding in findings)]


def _settings() -> Finding:
    """They were read, else nobody would be here."""
    file = config_file()
    said = str(file) if file.is_file() else f"no {file} here: the defaults, and what the environment says"
    return Finding("settings", "read from", "ok", said)


async def _broker(settings: Settings) -> Findings:
    async def look() -> Findings:
        return cluster.judged(await cluster.look(settings.kafka), settings.kafka)

    return await _within(LIMIT_S, cluster.KAFKA, REACH, look, "start the broker, or set kafka.bootstrap_servers")


def _is_reached(findings: Findings) -> bool:
    return not any(finding.name == REACH for finding in findings)


def _lacks_topics(findings: Findings) -> bool:
    return any((finding.name, finding.verdict) == (cluster.TOPICS, "wrong") for finding in findings)


async def _judge(settings: Settings) -> Findings:
    if settings.judge.by == "frontier":
        return await providers.frontier(settings, "judge")
    with learning():
        company = await asyncio.to_thread(load_company, settings.judge.company)
    said = f"by rubric: {len(company.examples)} tickets have one"
    return [Finding(providers.JUDGE, "rubrics", "ok", said)]


async def _within(limit_s: float, subject: str, name: str, check: Check, fix: str) -> Findings:
    """What a check finds; or that it failed, or took too long, with the line on what to do then."""
    try:
        async with asyncio.timeout(limit_s):
            return await check()
    except TimeoutError:
        return [Finding(subject, name, "wrong", f"no answer within {limit_s:.0f} s", fix)]
    except SettingsError as exc:
        return [Finding(subject, name, "wrong", str(exc), "set it in headgate.toml or in the environment")]
    except (ValueError, RuntimeError, OSError, TopicsError, LearnError, StoreError) as exc:
        return [Finding(subject, name, "wrong", str(exc) or type(exc).__name__, fix)]
    except Exception as exc:
        # The others must be heard all the same. Only the type: nobody knows what the text holds.
        return [Finding(subject, name, "wrong", f"the check failed with {type(exc).__name__}", fix)]


def count(findings: Iterable[Finding], verdict: Verdict) -> int:
    """How many have it."""
    return sum(finding.verdict == verdict for finding in findings)


def show(findings: Sequence[Finding], out: Console) -> None:
    """All findings by subject, then what to do: what is wrong last, where it is seen."""
    width = min(max(len(finding.name) for finding in findings), MOST_NAME_CHARS)
    for subject in dict.fromkeys(finding.subject for finding in findings):
        out.print(Text(subject, style="bold"))
        rows = Table.grid(padding=(0, 2, 0, 0))
        for columns in (len("  warning"), width, None):
            rows.add_column(width=columns, overflow="fold")
        for finding in findings:
            if finding.subject == subject:
                mark = Text(f"  {finding.verdict}", style=STYLES[finding.verdict])
                rows.add_row(mark, Text(finding.name), Text(finding.said))
        out.print(rows)
    todo = [f for verdict in ("warning", "wrong") for f in findings if f.verdict == verdict and f.fix]
    if todo:
        out.print(Text("what to do", style="bold"))
        for finding in todo:
            name = Text(f"  {finding.verdict}  ", style=STYLES[finding.verdict])
            out.print(name + Text(f"{finding.subject}, {finding.name}"))
            out.print(Text(f"    {finding.fix}"), soft_wrap=True)
    wrong, warnings = count(findings, "wrong"), count(findings, "warning")
    of_warnings = "1 warning" if warnings == 1 else f"{warnings} warnings"
    out.print(Text(f"{count(findings, 'ok')} ok, {of_warnings}, {wrong} wrong"))


def print_json(findings: Sequence[Finding]) -> None:
    """One line."""
    said = {"wrong": count(findings, "wrong"), "warnings": count(findings, "warning"), "findings": findings}
    sys.stdout.write(orjson.dumps(said).decode() + "\n")
