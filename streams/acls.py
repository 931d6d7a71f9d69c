"""Least-privilege ACLs, from the table of topics: what each client may do on a Kafka with an authoriser, and no more.

Read, Write and Alter imply Describe, and since Kafka 2.8 whoever may write to a topic may be an idempotent producer: so
neither is granted by itself.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

from schemas.topics import (
    CHANGELOGS,
    DEAD_LETTERS,
    EVERY_STAGE,
    INPUTS,
    RETRY,
    SEEN,
    Client,
    Topic,
    all_names,
    writes,
)

Operation = Literal["Read", "Write", "Create", "Alter", "Describe", "DescribeConfigs"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
Resource = Literal["topic", "group", "transactional-id"]
CLIENTS: tuple[Client, ...] = get_args(Client)

HELPDESK = "helpdesk"
"""What the names of helpdesks' consumer groups begin with."""


@dataclass(frozen=True, slots=True)
class Acl:
    """What is allowed on one resource, or on all whose names begin so."""

    resource: Resource
    name: str
    operations: tuple[Operation, ...]
    prefixed: bool = False


def acls(client: Client, prefix: str = "") -> tuple[Acl, ...]:
    """All that a client needs, with names under the topic prefix."""
    topics = (
        Acl("topic", name, tuple(op for op in OPERATIONS if op in allowed))
        for name, topic in all_names(prefix).items()
        if (allowed := _on_topic(client, topic, name.removeprefix(prefix + topic.name)))
    )
    return (*topics, *_besides(client, f"{prefix}headgate-", prefix))


def _on_topic(client: Client, topic: Topic, twin: str) -> set[Operation]:
    allowed: set[Operation] = set()
    is_input = (client, topic) in INPUTS.items()
    # What is parked is read by who parked it, and looked at for the backlog.
    if client in topic.read_by and (twin != RETRY or is_input or client == "scoreboard"):
        allowed.add("Read")
    if writes(client, topic, twin):
        allowed.add("Write")
    if client == "operators":
        # `headgate topics`, `doctor` and `forget` look at everything.
        allowed |= {"Read", "Create", "Alter", "DescribeConfigs"}
        # Dead letters are requeued to where they failed, with a marker beside them; a backfill goes to the slow lane;
        # what is forgotten gets tombstones.
        if topic in INPUTS.values() or topic is DEAD_LETTERS or topic in (SEEN, *CHANGELOGS):
            allowed.add("Write")
    return allowed


def _besides(client: Client, ours: str, prefix: str) -> Iterable[Acl]:
    """Consumer groups and transactional.ids, as streams/runtime, the scoreboard and `requeue` name them."""
    if client in EVERY_STAGE:
        yield Acl("group", ours + client, ("Read",))
        # One a partition of its input.
        yield Acl("transactional-id", f"{ours}{client}-", ("Write",), prefixed=True)
    if client == "scoreboard":
        yield Acl("group", ours + client, ("Read",))
        yield from (Acl("group", ours + stage, ("Describe",)) for stage in EVERY_STAGE)
    if client == "helpdesks":
        yield Acl("group", prefix + HELPDESK, ("Read",), prefixed=True)
    if client == "operators":
        yield Acl("group", f"{ours}backfill-", ("Read",), prefixed=True)
        yield from (Acl("group", ours + stage, ("Describe",)) for stage in EVERY_STAGE)
        yield from (Acl("transactional-id", f"{ours}{name}", ("Write",)) for name in ("requeue", "backfill"))


def kafka_acls(wanted: Iterable[Acl], principal: str, bootstrap_servers: str) -> list[str]:
    """Command lines of Kafka's own tool, one for all resources that have the same operations."""

    def alike(acl: Acl) -> tuple[Resource, bool, tuple[Operation, ...]]:
        return acl.resource, acl.prefixed, acl.operations

    lines = []
    for (resource, prefixed, operations), same in groupby(sorted(wanted, key=alike), alike):
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap_servers, "--command-config", "admin.properties"]
        words += ["--add", "--allow-principal", principal]
        words += [word for operation in operations for word in ("--operation", operation)]
        words += ["--resource-pattern-type", "prefixed"] if prefixed else []
        words += [word for acl in same for word in (f"--{resource}", acl.name)]
        lines.append(shlex.join(words))
    return lines


def kafka_user(wanted: Iterable[Acl], principal: str, cluster: str) -> dict[str, Any]:
    """A Strimzi KafkaUser that logs in with a password (SCRAM-SHA-512), which Strimzi makes."""
    return {
        "apiVersion": "kafka.strimzi.io/v1beta2",
        "kind": "KafkaUser",
        "metadata": {"name": principal.removeprefix("User:"), "labels": {"strimzi.io/cluster": cluster}},
        "spec": {
            "authentication": {"type": "scram-sha-512"},
            "authorization": {
                "type": "simple",
                "acls": [
                    {
                        "resource": {
                            "type": "transactionalId" if acl.resource == "transactional-id" else acl.resource,
                            "name": acl.name,
                            "patternType": "prefix" if acl.prefixed else "literal",
                        },
                        "operations": list(acl.operations),
                    }
                    for acl in wanted
                ],
            },
        },
    }
