"""Least-privilege ACLs: what each client may do, written out, and as the tools take it."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from schemas.topics import CHANGELOGS, EVERY_STAGE, TOPICS, Client, all_names
from streams.acls import CLIENTS, Acl, acls, kafka_acls, kafka_user
from streams.cli import app

LANES = ("", ".backfill", ".retry")


def may(client: Client, operation: str) -> set[str]:
    """The topics on which it may do this."""
    return {acl.name for acl in acls(client) if acl.resource == "topic" and operation in acl.operations}


def lanes(name: str, *twins: str) -> set[str]:
    return {name + twin for twin in twins or LANES}


def slow(*names: str) -> set[str]:
    return {name + twin for name in names for twin in ("", ".backfill")}


BOOK = {"spend", "spend-snapshots"}
READS: dict[Client, set[str]] = {
    "router": lanes("tickets") | slow("seen") | {"policy"},
    "tier1": lanes("tier1"),
    "tier2": lanes("tier2") | BOOK | {"batches"},
    "checker": lanes("drafts") | {"policy"},
    "judge": lanes("audits") | BOOK,
    "certify": {"labels", "events", "policy"},
    "helpdesks": {"answers", "handoffs"},
}
WRITES: dict[Client, set[str]] = {
    "router": slow("tier1", "tier2", "seen") | {"tickets.retry"},
    "tier1": slow("drafts", "tier2") | {"tier1.retry"},
    "tier2": slow("drafts") | {"tier2.retry", "handoffs", "batches"} | BOOK,
    "checker": slow("tier2", "audits") | {"drafts.retry", "answers", "handoffs"},
    "judge": {"audits.retry", "labels"} | BOOK,
    "certify": {"policy"},
    "helpdesks": {"tickets", "feedback"},
}


@pytest.mark.parametrize("client", READS)
def test_what_a_client_may_read_and_write(client: Client) -> None:
    """Its input with its lanes, its outputs, and what the runtime keeps beside them; nothing else."""
    always = {"events", "dead-letters"} if client in EVERY_STAGE else set()
    assert may(client, "Read") == READS[client]
    assert may(client, "Write") == WRITES[client] | always
    assert may(client, "Create") | may(client, "Alter") == set()


def test_a_stage_has_its_group_and_its_transactions() -> None:
    """One transactional.id a partition of its input, which all begin alike."""
    beside = [acl for acl in acls("tier1", "p-") if acl.resource != "topic"]
    assert beside == [
        Acl("group", "p-headgate-tier1", ("Read",)),
        Acl("transactional-id", "p-headgate-tier1-", ("Write",), prefixed=True),
    ]


def test_learning_and_the_scoreboard_write_nothing_of_others() -> None:
    """They read much."""
    assert may("learning", "Write") == set()
    assert all(name.startswith("scoreboard-") for name in may("scoreboard", "Write"))


def test_operators_make_the_topics_and_send_records_again() -> None:
    """Dead letters to wherever they may have come from, past tickets to the slow lane; and tombstones, to forget."""
    assert may("operators", "Create") == set(all_names())
    inputs = set().union(*(lanes(name) for name in ("tickets", "tier1", "tier2", "drafts", "audits")))
    memories = lanes("seen") - {"seen.retry"} | {topic.name for topic in CHANGELOGS}
    assert may("operators", "Write") == inputs | memories | {"dead-letters", "labels", "policy", "forgotten"}
    assert may("operators", "Read") == set(all_names())
    assert not may("operators", "Write") & {"answers", "events", "spend"}


def test_every_topic_has_a_reader_and_a_writer() -> None:
    """In the table, by names that there are."""
    for topic in TOPICS:
        assert topic.written_by
        assert topic.read_by
        assert {*topic.written_by, *topic.read_by} <= set(CLIENTS)


def test_every_name_has_the_prefix() -> None:
    """Two deployments on one cluster are kept apart."""
    assert all(acl.name.startswith("p-") for client in CLIENTS for acl in acls(client, "p-"))


def test_the_lines_say_what_the_acls_say() -> None:
    """Read back, Kafka's command lines are the ACLs; resources that are treated alike share one."""
    wanted = acls("checker", "p-")
    lines = kafka_acls(wanted, "User:someone else", "a:9092,b:9092")
    assert len(lines) < 6
    found = set()
    for words in map(shlex.split, lines):
        assert words[:6] == [
            "kafka-acls.sh",
            "--bootstrap-server",
            "a:9092,b:9092",
            "--command-config",
            "admin.properties",
            "--add",
        ]
        pairs = list(zip(words[6::2], words[7::2], strict=True))
        assert ("--allow-principal", "User:someone else") in pairs
        operations = tuple(value for option, value in pairs if option == "--operation")
        prefixed = ("--resource-pattern-type", "prefixed") in pairs
        found |= {
            Acl(option.removeprefix("--"), value, operations, prefixed)  # type: ignore[arg-type]
            for option, value in pairs
            if option in ("--topic", "--group", "--transactional-id")
        }
    assert found == set(wanted)


def test_a_strimzi_user_is_allowed_the_same() -> None:
    """In Strimzi's words."""
    user = kafka_user(acls("router"), "User:headgate-router", "kafka")
    assert user["metadata"] == {"name": "headgate-router", "labels": {"strimzi.io/cluster": "kafka"}}
    allowed = user["spec"]["authorization"]["acls"]
    assert len(allowed) == len(acls("router"))
    assert {
        "resource": {"type": "topic", "name": "policy", "patternType": "literal"},
        "operations": ["Read"],
    } in allowed
    transactions = {"type": "transactionalId", "name": "headgate-router-", "patternType": "prefix"}
    assert {"resource": transactions, "operations": ["Write"]} in allowed


@pytest.mark.parametrize(
    ("arguments", "users"),
    [
        (["--strimzi", "kafka"], [f"headgate-{client}" for client in CLIENTS]),
        (["tier2", "--principal", "User:two", "--strimzi", "kafka"], ["two"]),
    ],
)
def test_the_command_prints_them(arguments: list[str], users: list[str]) -> None:
    """Everybody's, or one client's under the principal that it has."""
    printed = CliRunner().invoke(app, ["topics", "acls", *arguments])
    assert printed.exit_code == 0, printed.output
    assert [user["metadata"]["name"] for user in json.loads(printed.stdout)["items"]] == users


def test_the_command_prints_lines_and_wants_a_client_for_a_principal() -> None:
    """A principal for everybody would undo it all."""
    lines = CliRunner().invoke(app, ["topics", "acls", "judge", "--principal", "User:j"]).stdout.splitlines()
    assert lines == kafka_acls(acls("judge"), "User:j", "127.0.0.1:9092")
    assert CliRunner().invoke(app, ["topics", "acls", "--principal", "User:j"]).exit_code == 2
