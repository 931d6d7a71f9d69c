"""What the doctor says of models, providers, stages and the machine; and that no check ends the others."""

import asyncio
import socket
from collections.abc import Sequence
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import msgspec
import orjson
import pytest
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from schemas.policy import CategoryPolicy, Certificate, Policy
from schemas.topics import DEAD_LETTERS
from streams.cli import app
from streams.doctor import examination
from streams.doctor.examination import count, print_json, show
from streams.doctor.finding import Finding, shortened
from streams.doctor.machine import GIB, judged_disk, store
from streams.doctor.models import judged_knowledge, judged_policy
from streams.doctor.providers import judged_date, judged_target, judged_tier1
from streams.doctor.stages import judged_letters, judged_stages, reason_of, requeued_by
from streams.read import Received
from streams.scoreboard.views import StageBacklog
from streams.settings import KafkaSettings, Settings, Tier1Settings
from tests.records import AT
from workers.knowledge import Passage
from workers.tier2.targets import Target

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
KEY = "sk-a-very-secret-key-of-somebody"
TARGET = Target("primary", "anthropic", "https://user:word@api.example/v1", "claude-sonnet-5-5", KEY)
TIER1 = Tier1Settings(base_url="http://small:8081/v1", model="small-1")


def models(*names: str, owner: str = "vllm") -> bytes:
    return orjson.dumps({"data": [{"id": name, "owned_by": owner} for name in names]})


def tier1(body: bytes, status: int = 200) -> Finding:
    return judged_tier1(TIER1, [TIER1.model], status, body)


def test_tier1s_server_must_know_the_model() -> None:
    """vLLM refuses any other name; llama.cpp answers to all, and lists its file."""
    assert tier1(models("base", "small-1")).verdict == "ok"
    assert tier1(models("models/smollm2.gguf", owner="llamacpp")).verdict == "ok"
    other = tier1(models("base"))
    assert (other.verdict, other.fix) == ("wrong", "set tier1.model, or load it")
    assert "has no small-1; it has base" in other.said


def test_what_is_no_openai_server_is_told_from_a_refused_key() -> None:
    """The two have different settings."""
    assert tier1(b"{}", 401).fix == "correct tier1.api_key"
    for status, body in ((200, b"<html>"), (200, b'{"data": 1}'), (404, b"")):
        assert "tier1.base_url" in tier1(body, status).fix


def provider(status: int, error: str = "", message: str = "") -> Finding:
    body = orjson.dumps({"type": "error", "error": {"type": error, "message": message}}) if error else b""
    return judged_target("tier-2", "tier2", TARGET, status, body)


def test_a_provider_tells_a_wrong_key_from_a_wrong_model() -> None:
    """A gateway that has no list of models is neither."""
    assert provider(200).verdict == "ok"
    assert (provider(401, "authentication_error").fix, provider(401).verdict) == ("correct tier2.api_key", "wrong")
    assert (provider(404, "not_found_error", "model: x").fix, provider(404).verdict) == (
        "correct tier2.model",
        "warning",
    )
    assert provider(503).verdict == "warning"


def test_no_finding_shows_a_key_or_a_password() -> None:
    """Not even where a provider quotes it."""
    for status in (200, 401, 403, 404, 500):
        found = provider(status, "some_error", f"your key {KEY} is wrong")
        assert not [secret for secret in (KEY, KEY[:20], "word") if secret in found.said + found.fix]


@pytest.mark.parametrize(
    ("ahead_s", "verdict"), [(0.0, "ok"), (4.0, "ok"), (60.0, "warning"), (-60.0, "warning"), (4000.0, "wrong")]
)
def test_this_machines_clock_is_compared_with_the_providers(ahead_s: float, verdict: str) -> None:
    """Whole seconds, and the time that the answer took, are nobody's error."""
    now_s = AT.timestamp() + ahead_s
    found = judged_date("tier-2", format_datetime(AT), now_s - 0.5, now_s + 0.5)
    assert found is not None
    assert found.verdict == verdict
    assert judged_date("tier-2", "", now_s, now_s) is None


def a_policy(**fields: object) -> Policy:
    certificate = Certificate(
        method="learn_then_test",
        alpha=0.05,
        delta=0.1,
        labels=500,
        shipped=300,
        bad=3,
        upper_bound=0.04,
        solved_at=AT,
        valid_until=AT + timedelta(days=30),
    )
    ships = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.5, certificate=certificate)
    shadow = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")
    made = Policy(scope="default", version="v7", default=shadow, categories={"orders": ships, "billing": shadow})
    return replace(made, router_model="router-1", scorer="scorer-1", tier1_model="small-1", **fields)


AT_WORK = {"router_model": "router-1", "scorer": "scorer-1", "tier1_model": "small-1"}


def test_a_policy_for_other_models_is_wrong_and_names_the_part() -> None:
    """Nothing of it holds, so nothing ships from tier-1, and no stage says so by itself."""
    assert judged_policy("in force", a_policy(), AT_WORK, AT).verdict == "ok"
    for part in AT_WORK:
        found = judged_policy("in force", a_policy(), {**AT_WORK, part: "another"}, AT)
        assert (found.verdict, part in found.fix) == ("wrong", True)
    # What could not be loaded has a finding of its own.
    assert judged_policy("in force", a_policy(), {**AT_WORK, "scorer": ""}, AT).verdict == "ok"


def test_certificates_that_have_ended_are_a_warning() -> None:
    """Tickets are answered all the same, by tier-2."""
    found = judged_policy("in force", a_policy(), AT_WORK, AT + timedelta(days=31))
    assert (found.verdict, "certificates have ended: orders" in found.said) == ("warning", True)
    assert "headgate certify" in found.fix


def test_a_router_that_knows_passages_which_are_gone_is_wrong() -> None:
    """Tier-1 would be given none; a bare category is no passage."""
    passages = [Passage("orders.late", "orders", "A text.")]
    assert judged_knowledge(["orders.late", "other"], passages).verdict == "ok"
    found = judged_knowledge(["orders.late", "orders.gone"], passages)
    assert (found.verdict, "orders.gone" in found.said) == ("wrong", True)


def a_row(stage: str, unfinished: int, oldest_s: float | None = None, lane: str = "live") -> StageBacklog:
    return msgspec.convert(
        {"stage": stage, "topic": stage, "lane": lane, "unfinished": unfinished, "oldest_s": oldest_s}, StageBacklog
    )


def verdicts(rows: Sequence[StageBacklog], **present: int) -> list[str]:
    return [found.verdict for found in judged_stages(rows, present, KafkaSettings())]  # type: ignore[arg-type]


def test_tickets_that_wait_for_a_stage_without_a_process_are_wrong() -> None:
    """An idle stage without one is a warning, and so is the judge, whom no ticket waits for."""
    assert verdicts([a_row("router", 3)], router=0) == ["wrong"]
    assert verdicts([a_row("router", 0)], router=0) == ["warning"]
    assert verdicts([a_row("judge", 3)], judge=0) == ["warning"]
    assert verdicts([a_row("router", 3, lane="backfill")], router=0) == ["warning"]


def test_a_stage_that_lets_tickets_wait_longer_than_the_objective_is_a_warning() -> None:
    """kafka.live_objective_s says how long."""
    assert verdicts([a_row("tier1", 3, 29.0)], tier1=1) == ["ok"]
    assert verdicts([a_row("tier1", 3, 31.0)], tier1=1) == ["warning"]


def a_letter(offset: int, raw: bytes | None, **headers: bytes) -> Received:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Received(DEAD_LETTERS, None, raw, named, 0, offset, b"k")


def test_a_marker_of_a_requeue_is_no_dead_letter_and_a_dead_tombstone_is_one() -> None:
    """Both have no value."""
    assert requeued_by(a_letter(1, None, headgate_requeued=b"0/7")) == "0/7"
    dead = a_letter(1, None, headgate_requeued=b"0/7", headgate_reason=b"no value")
    assert (requeued_by(dead), reason_of(dead)) == (None, "no value")


def test_dead_letters_are_counted_with_the_commonest_reason() -> None:
    """One that steers a terminal is escaped."""
    assert judged_letters([]).verdict == "ok"
    found = judged_letters(["a bug\x1b[2J", "a bug\x1b[2J", "poison"])
    assert (found.verdict, found.said) == ("warning", "3 in the last day; 2 of them: a bug\\x1b[2J")


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    """The doctor changes nothing."""
    (found,) = store(Settings().model_copy(update={"store": tmp_path / "models"}))
    assert (found.verdict, list(tmp_path.iterdir())) == ("ok", [])


def test_little_space_is_told_before_there_is_none() -> None:
    """By gibibytes."""
    assert [judged_disk("here", free).verdict for free in (9 * GIB, GIB // 2, 0)] == ["ok", "warning", "wrong"]


async def test_a_check_that_fails_or_hangs_is_a_finding_like_any_other() -> None:
    """Of an error that nobody foresaw only the type is shown: its text may hold anything."""

    async def hangs() -> list[Finding]:
        await asyncio.sleep(60)
        return []

    async def fails() -> list[Finding]:
        raise ZeroDivisionError(KEY)

    (late,) = await examination._within(0.01, "Kafka", "x", hangs, "do this")
    (failed,) = await examination._within(5.0, "Kafka", "x", fails, "do this")
    assert (late.verdict, late.fix, "no answer within" in late.said) == ("wrong", "do this", True)
    assert (failed.verdict, failed.said) == ("wrong", "the check failed with ZeroDivisionError")


FINDINGS = [
    Finding("Kafka", "brokers", "wrong", "a " * 60, "start them: kafka-configs.sh " + "x" * 90),
    Finding("Kafka", "topics", "ok", "all there [red]"),
    Finding("stages", "judge", "warning", "no process", "headgate run judge"),
]


def test_the_report_fits_80_columns_and_ends_with_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """A command to copy is one line, however long."""
    show(FINDINGS, Console(width=80, soft_wrap=False))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == [f"    {FINDINGS[0].fix}"]
    assert lines[-3:] == ["  wrong  Kafka, brokers", f"    {FINDINGS[0].fix}", "1 ok, 1 warning, 1 wrong"]
    assert any("all there [red]" in line for line in lines)


def test_json_is_one_line_with_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts."""
    print_json(FINDINGS)
    (line,) = capsys.readouterr().out.splitlines()
    said = orjson.loads(line)
    assert (said["wrong"], said["warnings"], count(FINDINGS, "ok")) == (1, 1, 1)
    assert said["findings"][1] == {
        "subject": "Kafka",
        "name": "topics",
        "verdict": "ok",
        "said": "all there [red]",
        "fix": "",
    }


def test_a_list_is_cut_to_a_line() -> None:
    """And says how much is missing."""
    assert shortened(list("abcd")) == "a, b, c, d"
    assert shortened(list("abcdef")) == "a, b, c, d and 2 more"


def test_without_a_broker_the_rest_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of it is wrong, no check ends with a traceback, and the exit code says that something is."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
        monkeypatch.setenv("HEADGATE_KAFKA__BOOTSTRAP_SERVERS", address)
        monkeypatch.setenv("HEADGATE_TIER1__BASE_URL", f"http://{address}/v1")
        done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1, done.output
    findings = {(f["subject"], f["name"]): f for f in orjson.loads(done.stdout)["findings"]}
    broker = findings["Kafka", "broker"]
    assert (broker["verdict"], broker["fix"]) == ("wrong", "start the broker, or set kafka.bootstrap_servers")
    assert findings["stages", "processes"]["said"] == "not looked at: broker or topics are missing"
    assert findings["models", "router"]["verdict"] == "ok"
    # Without a key nothing is asked of the provider.
    assert "HEADGATE_TIER2__API_KEY" in findings["tier-2", "models"]["said"]
