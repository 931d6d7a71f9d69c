"""`headgate dataset` on a real broker: from what the stages publish to files that `headgate learn` takes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.answers import Answer, Costs
from schemas.audits import Audit
from schemas.codec import encode
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import RouteReason, Ticket, TicketId
from schemas.topics import BACKFILL
from streams.learn import LearnError
from streams.learn_data import solve_thresholds
from streams.learn_topics import make
from streams.local.embedded_kafka import EmbeddedKafka
from streams.policy_records import put_in_force
from streams.settings import KafkaSettings, load
from tests.fernway import FERNWAY, fernway
from tests.kafka import write
from tests.records import AT, a_decision, a_verdict, an_attempt
from workers.checker.features import NAMES
from workers.learning.company import Example, as_ticket
from workers.learning.provenance import Manifest, Provenance

pytestmark = pytest.mark.integration

POISON = b'{"body": "a customer wrote this"}'
EMAIL = "jo.doe@example.com"


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    """Fernway's, on this broker."""
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Routine training tickets with their right answers, each about a passage of its own."""
    found = {e.intent: e for e in fernway().split("train") if e.kind == "routine" and e.language == "en"}
    return list(found.values())


async def headgate(of: KafkaSettings, *arguments: object) -> tuple[int, str, str]:
    """The command as an operator runs it, to its end: exit code, output, errors."""
    own = {
        "HEADGATE_KAFKA__BOOTSTRAP_SERVERS": of.bootstrap_servers,
        "HEADGATE_KAFKA__TOPIC_PREFIX": of.topic_prefix,
        "COLUMNS": "200",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "streams.cli", *map(str, arguments)),
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def publish(of: KafkaSettings, topic: str, *records: msgspec.Struct | bytes) -> None:
    values = [each if isinstance(each, bytes) else encode(each) for each in records]
    await write(of.bootstrap_servers, of.topic_prefix + topic, [(b"%d" % (n % 3), v) for n, v in enumerate(values)])


def a_ticket(number: int, example: Example, **fields: Any) -> Ticket:
    return msgspec.structs.replace(as_ticket(example), ticket_id=TicketId(f"t{number}"), tenant="default", **fields)


def decided(example: Example, **fields: Any) -> Any:
    usual = {"category": example.category, "passages": (f"{example.category}.{example.intent}",), "p_ok": 0.7}
    return a_decision(**usual | {"model_version": "router-1", "audited": True, "propensity": 0.2} | fields)


def an_audit(number: int, example: Example, draft: str, **fields: Any) -> Audit:
    values: dict[str, Any] = {
        "ticket": a_ticket(number, example),
        "decision": decided(example),
        "draft": an_attempt(text=draft, finish_reason="stop", model="small-1"),
        "other": an_attempt("tier2", example.reference, finish_reason="stop", model="frontier"),
        "at": AT,
    }
    return Audit(**values | fields)


def a_label(number: int, acceptable: bool = True, **fields: Any) -> Label:
    values: dict[str, Any] = {
        "ticket_id": TicketId(f"t{number}"),
        "category": "orders",
        "acceptable": acceptable,
        "source": "judge",
        "propensity": 0.2,
        "at": AT,
        "p_ok": 0.7,
        "score": 0.8,
        "model": "small-1",
        "model_version": "router-1",
    }
    return Label(**values | fields)


def an_answer(number: int, text: str, example: Example, **fields: Any) -> Answer:
    values: dict[str, Any] = {
        "ticket_id": TicketId(f"t{number}"),
        "tenant": "default",
        "customer_id": "",
        "text": text,
        "tier": "tier2",
        "model": "frontier",
        "category": example.category,
        "language": "en",
        "decision": decided(example, tier="tier2", reason=RouteReason.UNCERTAIN, audited=False),
        "verdict": a_verdict(),
        "attempts": (),
        "costs": Costs(router_usd=0.0, tier1_usd=0.0, checker_usd=0.0, tier2_usd=0.001),
        "received_at": AT,
        "answered_at": AT,
    }
    return Answer(**values | fields)


def manifest(folder: Path) -> Manifest:
    return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)


def lines(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def places(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The topics that rows come from."""
    origins = [msgspec.convert(row["provenance"], Provenance) for row in rows]
    return sorted({place.split("/")[0] for origin in origins for place in origin.records})


async def test_labels_become_thresholds_and_audits_what_a_scorer_learns_from(
    settings: KafkaSettings, examples: Sequence[Example], tmp_path: Path
) -> None:
    """Each audited draft once, under its latest label; what is left out is counted, and the records that are none of
    ours end nothing. What is solved is for the place of the policy in force. Without labels nothing is written."""
    with pytest.raises(LearnError, match="there is no label of an audited tier-1 draft"):
        await make("thresholds", load().model_copy(update={"kafka": settings}), tmp_path / "none", "")
    assert not (tmp_path / "none").exists()

    audits = [an_audit(n, examples[n], examples[n].reference) for n in range(5)]
    repeated = an_audit(4, examples[4], examples[4].reference, at=AT + timedelta(minutes=1))
    refused = an_audit(5, examples[5], "Hello!")
    await publish(settings, "audits", *audits[:4], POISON, repeated, refused)
    await publish(settings, "audits" + BACKFILL, audits[4])
    shadow = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")
    fallen = {"billing": msgspec.structs.replace(shadow, since=AT + timedelta(days=1))}
    usual = {"scope": "default", "default": shadow, "tier2_customers": ("vip",)}
    await put_in_force(settings, Policy(version="v7", categories=fallen, **usual))
    await publish(
        settings,
        "labels",
        *[a_label(n) for n in range(4)],
        a_label(0),
        a_label(1, acceptable=False, source="person", at=AT + timedelta(hours=1)),
        a_label(2, tier="tier2", model="frontier"),
        a_label(3, source="feedback", acceptable=False),
        a_label(4, model_version="router-0", at=AT - timedelta(days=9)),
        a_label(5, score=None),
        a_label(6, category="billing"),
        POISON,
        b"no JSON",
    )
    made = await asyncio.gather(
        *(headgate(settings, "dataset", kind, "--out", tmp_path / kind) for kind in ("thresholds", "checker"))
    )
    assert [code for code, *_ in made] == [0, 0], made
    assert "customer" not in str(made)

    thresholds, said = lines(tmp_path / "thresholds" / "rows.jsonl"), manifest(tmp_path / "thresholds")
    assert [(row["acceptable"], row["score"]) for row in thresholds].count((True, 0.8)) == 3
    assert sorted(row["score"] for row in thresholds if not row["acceptable"] or not row["score"]) == [0.0, 0.8]
    assert said.left_out == {
        "a label of feedback or an escalation: no random sample": 1,
        "a label of tier-2's answer": 1,
        "from before its category's certificate fell": 1,
        "p_ok by another router model": 1,
        "replaced by a later label of the same draft": 2,
    }
    assert (said.unreadable, said.files["rows.jsonl"].rows) == (2, 5)
    assert said.settings == {"router": "router-1", "tier1": "small-1", "policy": "v7"}
    assert "2 can't be read" in made[0][1]

    drafts, said = lines(tmp_path / "checker" / "rows.jsonl"), manifest(tmp_path / "checker")
    assert sorted(row["acceptable"] for row in drafts) == [False, True, True, True]
    assert all(list(row["features"]) == list(NAMES) for row in drafts)
    assert places(drafts) == ["audits", "labels"]
    assert said.left_out == {
        "a label of feedback or an escalation: no random sample": 1,
        "a label of tier-2's answer": 1,
        "a label whose audit is no longer on a topic": 1,
        "an earlier record of the same ticket": 1,
        "p_ok by another router model": 1,
        "refused by a gate": 1,
        "replaced by a later label of the same draft": 2,
    }
    assert said.unreadable == 3

    out = solve_thresholds(tmp_path / "thresholds" / "rows.jsonl", tmp_path / "new.json", load())
    policy = msgspec.json.decode((tmp_path / "new.json").read_bytes(), type=Policy)
    assert (policy.router_model, policy.tier1_model, policy.tier2_customers) == ("router-1", "small-1", ("vip",))
    # Five labels prove nothing, so nothing ships.
    assert (policy.categories["orders"].state, policy.categories["orders"].labels) == ("shadow", 5)
    assert "0 of 1 categories certified" in out


async def test_answers_become_chats_without_anybodys_data(
    settings: KafkaSettings, examples: Sequence[Example], tmp_path: Path
) -> None:
    """Tier-2's accepted answers and good drafts, each question once; nothing of a customer but his words."""
    asked = examples[:8]
    tickets = [a_ticket(n, each, customer_id=f"customer-{n}", metadata={"ref": "x-1"}) for n, each in enumerate(asked)]
    for n in (0, 4):
        tickets[n] = msgspec.structs.replace(tickets[n], body=f"{tickets[n].body} Write to {EMAIL}.")
    twin = msgspec.structs.replace(tickets[1], ticket_id=TicketId("t8"))
    await publish(settings, "tickets", *tickets[:2], tickets[0], POISON, twin, *tickets[3:])
    await publish(settings, "tickets" + BACKFILL, tickets[2])
    answers = [an_answer(n, each.reference, each) for n, each in enumerate(asked[:4])]
    await publish(
        settings,
        "answers",
        *answers,
        answers[0],
        an_answer(4, f"{asked[4].reference} We write to {EMAIL}.", asked[4]),
        an_answer(5, asked[5].reference, asked[5], tier="tier1"),
        an_answer(8, asked[1].reference, asked[1]),
        an_answer(9, asked[1].reference, asked[1]),
        POISON,
    )
    good, bad = an_audit(6, asked[6], asked[6].reference, other=None), an_audit(7, asked[7], "It is $1.", other=None)
    await publish(settings, "audits", good, bad)
    await publish(settings, "labels", a_label(6), a_label(7, acceptable=False), a_label(7, acceptable=False))
    code, out, error = await headgate(settings, "dataset", "tier1", "--out", tmp_path / "set")
    assert code == 0, error

    said = manifest(tmp_path / "set")
    rows = [row for name in ("train.jsonl", "held_out.jsonl") for row in lines(tmp_path / "set" / name)]
    told = [row["messages"][-1]["content"] for row in rows]
    assert sorted(told) == sorted(asked[n].reference for n in (0, 1, 2, 3, 6))
    assert [m["role"] for m in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert rows[0]["messages"][0]["content"] == "You answer customers of Fernway."
    assert places(rows) == ["answers", "audits", "labels"]
    assert said.left_out == {
        "another answer to a ticket that was answered": 1,
        "its ticket is no longer on a topic": 1,
        "judged not acceptable": 1,
        "replaced by a later label of the same draft": 1,
        "the answer holds personal data": 1,
        "the same text as another row": 1,
    }
    assert said.unreadable == 2
    assert sum(each.rows for each in said.files.values()) == len(rows)
    written = "".join(path.read_text() for path in (tmp_path / "set").iterdir())
    assert "[EMAIL_1]" in written
    assert not [data for data in (EMAIL, "customer-", "x-1", '"t1"') if data in written]
    assert EMAIL not in out + error
