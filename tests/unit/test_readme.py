"""The documents say what the code says: names, defaults, topics, files, commands, examples."""

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel

from schemas.answers import HandoffReason
from schemas.codec import decode
from schemas.tickets import Ticket
from schemas.topics import DAY_MS, TOPICS, Topic, named
from streams.cli import app
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.headers import dead_letter_headers
from streams.runtime.stage import DeadLetter, Origin
from streams.settings import CONFIG, PREFIX, Settings
from tests.fernway import fernway
from workers.learning.steps import GOAL, STEPS
from workers.retry import RetryLimits

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs/settings.md").read_text("utf-8")
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}
PROSE = " ".join(README.split())
PYTHON_EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def table(heading: str, document: str) -> list[list[str]]:
    """The cells of the table whose first column is headed so."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", document, re.M)
    assert found, f"no table {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def settings(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting's name and its default as the table writes it."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
            continue
        yield prefix + name, written(field.default)


def written(default: object) -> str:
    """A default as TOML and people write it."""
    match default:
        case None | () | {}:
            return "none"
        case "":
            return "empty"
        case bool() | tuple():
            return f"`{json.dumps(default)}`"
        case float():
            return f"`{default:g}`"
        case _:
            return f"`{default}`"


def test_the_table_of_settings_is_the_settings() -> None:
    """Every setting has its row with its default and a meaning, and no row is about anything else."""
    rows = table("Setting", SETTINGS)
    assert dict(settings()) == {name.strip("`"): default for name, default, _ in rows}
    assert len(rows) == len(dict(settings()))
    assert all(meaning for *_, meaning in rows)


def test_the_environments_names_are_right() -> None:
    """The example names a setting, and the prefix is the code's."""
    assert f"`tier2.api_key` is `{PREFIX}TIER2__API_KEY`" in PROSE
    named = set(re.findall(rf"{PREFIX}\w+", "".join(DOCUMENTS.values())))
    assert named <= {CONFIG} | {PREFIX + name.replace(".", "__").upper() for name, _ in settings()}


def kept(topic: Topic) -> str:
    """How long a topic's records stay, as the table writes it."""
    days = f"{topic.retention_ms // DAY_MS} days"
    return {"delete": days, "compact": "compacted", "compact,delete": f"{days}, compacted"}[topic.cleanup]


def test_the_table_of_topics_is_the_topics() -> None:
    """Names, records, writers and how long they are kept."""
    assert table("Topic", README) == [
        [
            f"`{topic.name}`",
            topic.value.__name__ if topic.value else "the original bytes",
            named(topic.written_by),
            kept(topic),
        ]
        for topic in TOPICS
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_is_named_exists(name: str) -> None:
    """A module that moves takes its documents along. What a run writes into .headgate is not looked for."""
    text = DOCUMENTS[name]
    paths = set(re.findall(r"(?:schemas|workers|streams|tests|examples|deploy|requirements)/[\w./-]*\w", text))
    linked = set(re.findall(r"\]\((?!\w+:)([^)#]+)\)", text))
    assert paths | linked
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
    assert sorted(path for path in linked if not ((ROOT / name).parent / path).exists()) == []


def anchors(document: Path) -> set[str]:
    """What its headings are linked by."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_heading_that_is_linked_exists(name: str) -> None:
    """In the same document or in another one."""
    linked = re.findall(r"\]\(([\w./-]*\.md)?#([^)]+)\)", DOCUMENTS[name])
    assert [
        f"{path}#{anchor}"
        for path, anchor in linked
        if anchor not in anchors((ROOT / name).parent / path if path else ROOT / name)
    ] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_and_benchmark_exists(name: str) -> None:
    """`make x` is a target, `NAME=x` a benchmark."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    code = re.findall(r"`([^`\n]+)`|^(?:\$ )?(make .*)$", DOCUMENTS[name], re.M)
    targets = {m[1] for spans in code for span in spans if (m := re.match(r"make (\w+)", span))}
    assert targets or name.startswith("docs/")
    assert sorted(t for t in targets if not re.search(rf"^{t}:", makefile, re.M)) == []
    benchmarks = set(re.findall(r"NAME=([a-z]\w*)", DOCUMENTS[name]))
    assert [b for b in benchmarks if not (ROOT / "benchmarks" / f"{b}.py").is_file()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_headgate_command_exists(name: str) -> None:
    """The first word after `headgate` is one of its commands."""
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    used = set(re.findall(r"(?:`|bin/|\| )headgate ([\w-]+)", DOCUMENTS[name]))
    assert used or name.startswith("docs/")
    assert used <= set(known)


def test_the_ways_to_end_are_named() -> None:
    """Dead letters' headers, and the reasons of handoffs that are in use."""
    added = dead_letter_headers("router", Origin("tickets", 0, 0), DeadLetter("reason"), 1, 0.0, ())
    assert [header for header, _ in added if f"`{header}`" not in README] == []
    assert [reason for reason in HandoffReason if f"`{reason}`" not in README] == []


def test_the_bounds_that_are_named_are_the_codes() -> None:
    """Retries and the share of bad answers that the thresholds aim for."""
    limits = RetryLimits()
    assert f"up to {limits.attempts} times within {limits.age_s:.0f} seconds" in PROSE
    promise = f"at most {GOAL.alpha:.0%} bad answers, at {1 - GOAL.delta:.0%} confidence".replace("%", " %")
    assert promise in PROSE


def test_the_example_company_is_as_large_as_it_says() -> None:
    """Intents, categories, wordings and complex tickets."""
    examples = fernway().examples
    routine = Counter((e.category, e.intent) for e in examples if e.kind == "routine")
    wordings = set(routine.values())
    assert len(wordings) == 1
    categories = {category for category, _ in routine}
    said = f"{len(routine)} routine intents in {len(categories)} categories with {wordings.pop()} differently worded"
    assert said in PROSE
    assert f"{sum(e.kind == 'complex' for e in examples)} complex tickets" in PROSE


def test_the_steps_of_learning_are_told_in_order() -> None:
    """As `headgate learn` runs them."""
    assert re.findall(r"^\d\. \*\*(\w+)\*\*", README, re.M) == list(STEPS)


def test_the_tickets_in_the_examples_are_tickets() -> None:
    """Every JSON object that is published in an example can be read."""
    published = re.findall(r"""(?:echo '|ticket = )(\{.+\})""", README)
    assert len(published) == 3
    assert [decode(Ticket, text.encode()).ticket_id for text in published] == ["42"] * 3


def test_the_documents_name_no_machine() -> None:
    """No absolute path of anybody's computer."""
    assert [
        m for text in DOCUMENTS.values() for m in re.findall(r"(?:^|[\s(`])/(?:home|root|work|tmp|Users)/", text)
    ] == []


@asynccontextmanager
async def running(example: str, kafka: EmbeddedKafka, topics: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The example as a script on the test's own broker and topics."""
    script = example.replace("127.0.0.1:9092", kafka.bootstrap_servers)
    script = re.sub('"(tickets|answers|handoffs)"', rf'"{topics}\1"', script)
    process = await asyncio.create_subprocess_exec(sys.executable, "-u", "-c", script, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.integration
async def test_the_publishing_example_publishes(kafka: EmbeddedKafka, topics: str) -> None:
    """As it stands in the README it puts a ticket with its key on the tickets topic."""
    async with running(PYTHON_EXAMPLES[0], kafka, topics) as process:
        assert await asyncio.wait_for(process.wait(), 30.0) == 0
    reading = {"bootstrap_servers": kafka.bootstrap_servers, "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(f"{topics}tickets", **reading) as client:
        record = await asyncio.wait_for(client.getone(), 30.0)
    assert (record.key, decode(Ticket, record.value).ticket_id) == (b"42", "42")


@pytest.mark.integration
async def test_the_reading_example_reads(kafka: EmbeddedKafka, topics: str) -> None:
    """As it stands in the README it prints what comes on answers and on handoffs."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as client:
        for topic in ("answers", "handoffs"):
            await client.send_and_wait(topics + topic, json.dumps({"on": topic}).encode())
    async with running(PYTHON_EXAMPLES[1], kafka, topics) as process:
        assert process.stdout
        lines = [await asyncio.wait_for(process.stdout.readline(), 30.0) for _ in range(2)]
    assert sorted(lines) == [f"{topics}{topic} {{'on': '{topic}'}}\n".encode() for topic in ("answers", "handoffs")]
