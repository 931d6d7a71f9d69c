"""What the doctor says of brokers and topics, judged from a survey."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from schemas.topics import ANSWERS, DAY_MS, POLICY, SEEN, TICKETS
from streams.doctor.cluster import brokers, copies, in_step, judged_clock, topics
from streams.doctor.finding import Finding
from streams.settings import KafkaSettings
from streams.topics import Shape, Survey, wanted_shapes
from tests.records import AT

SERVERS = "kafka:9092"


def a_survey(copies_: int = 3, brokers_: int = 3, min_in_sync: int = 2, **changes: Shape | None) -> Survey:
    """A cluster that is as it should be, but for some topics; None for one that is not there."""
    wanted = wanted_shapes(KafkaSettings(partitions=8, replication_factor=copies_))
    found = {n: replace(s, config={**s.config, "min.insync.replicas": str(min_in_sync)}) for n, s in wanted.items()}
    found |= {name: shape for name, shape in changes.items() if shape}
    for name in [name for name, shape in changes.items() if shape is None]:
        del found[name]
    return Survey(brokers_, wanted, found, (), (), {"__consumer_offsets": copies_})


def shaped(name: str, partitions: int = 8, **config: str) -> Shape:
    """A topic as wanted, but for this."""
    found = a_survey().found[name]
    return replace(found, partitions=partitions, config={**found.config, **config})


def said(findings: list[Finding]) -> Mapping[str, tuple[str, str]]:
    """Verdict and fix of what is not well, by name."""
    return {f.name: (f.verdict, f.fix) for f in findings if f.verdict != "ok"}


def test_a_cluster_as_it_should_be_has_nothing_to_fix() -> None:
    """Three brokers, three copies, two of them in sync."""
    survey = a_survey()
    assert said([brokers(survey, 3), *topics(survey, SERVERS), in_step(survey, ""), *copies(survey)]) == {}


def test_missing_topics_are_wrong_and_named_with_the_command() -> None:
    """Some of them: a line must not grow with what is missing."""
    (found,) = topics(a_survey(**dict.fromkeys(("tickets", "answers", "policy", "seen", "spend"))), SERVERS)
    assert (found.verdict, found.fix) == ("wrong", "headgate topics apply")
    assert found.said == f"5 of {len(a_survey().wanted)} missing: tickets, answers, policy, seen and 1 more"


def test_a_shorter_retention_is_a_warning_and_another_cleanup_is_wrong() -> None:
    """An operator may want records gone sooner; a policy topic that forgets its policy is nobody's wish."""
    answers, policy = (
        shaped(ANSWERS.name, **{"retention.ms": "1000"}),
        shaped(POLICY.name, **{"cleanup.policy": "delete"}),
    )
    found = said(topics(a_survey(answers=answers, policy=policy), SERVERS))
    alter = f"kafka-configs.sh --bootstrap-server {SERVERS} --alter --entity-type topics --entity-name"
    assert found["answers"] == (
        "warning",
        f"unless it is meant: {alter} answers --add-config retention.ms={30 * DAY_MS}",
    )
    assert found["policy"] == ("wrong", f"{alter} policy --add-config cleanup.policy=compact")


def test_a_list_as_a_value_keeps_its_comma() -> None:
    """kafka-configs.sh takes it in brackets."""
    seen = shaped(SEEN.name, **{"cleanup.policy": "compact"})
    assert said(topics(a_survey(seen=seen), SERVERS))["seen"][1].endswith("cleanup.policy=[compact,delete]")


def test_a_lower_limit_of_messages_is_wrong_and_a_higher_one_may_be_meant() -> None:
    """What doesn't fit would be a dead letter."""
    for limit, verdict in (("1000", "wrong"), ("99999999", "warning")):
        found = said(topics(a_survey(answers=shaped("answers", **{"max.message.bytes": limit})), SERVERS))
        assert found["answers"][0] == verdict


def test_other_numbers_of_partitions_are_warnings() -> None:
    """Fewer can be mended by `apply`, more by the setting."""
    assert said(topics(a_survey(answers=shaped("answers", 4)), SERVERS)) == {
        "partitions": ("warning", "headgate topics apply")
    }
    (_, fix) = said(topics(a_survey(answers=shaped("answers", 12)), SERVERS))["partitions"]
    assert fix.startswith("kafka.partitions = 12")


def test_a_memory_with_other_partitions_than_what_it_remembers_is_wrong() -> None:
    """The router remembers the tickets of a partition in the same partition of `seen`."""
    survey = a_survey(tickets=shaped(TICKETS.name, 12))
    assert said([in_step(survey, "")]) == {
        "partitions match": ("wrong", "kafka.partitions = 12, then headgate topics apply")
    }


@pytest.mark.parametrize(
    ("copies_", "min_in_sync", "verdict"),
    [
        (3, 2, None),
        (1, 1, None),
        (2, 1, None),
        (3, 1, "warning"),
        (3, 3, "warning"),
        (2, 2, "warning"),
        (1, 2, "wrong"),
    ],
)
def test_writes_wait_for_copies_enough_and_not_for_all(copies_: int, min_in_sync: int, verdict: str | None) -> None:
    """Two of three: one broker may be down, and no record is on one alone."""
    found = said(copies(a_survey(copies_, min_in_sync=min_in_sync)))
    assert found.get("min.insync.replicas", (None,))[0] == verdict


def test_partitions_that_nobody_leads_or_that_lack_copies_are_named() -> None:
    """The first is wrong, the second heals when a broker comes back."""
    found = copies(replace(a_survey(), leaderless=("tickets/1",), behind=("answers/0",)))
    assert {f.name: f.verdict for f in found if f.verdict != "ok"} == {"leaders": "wrong", "copies": "warning"}
    assert "tickets/1" in found[0].said


def test_kafkas_own_topics_with_one_copy_are_a_warning_where_there_are_brokers_for_more() -> None:
    """Their defaults are the brokers', and with the one copy every commit is gone."""
    assert "Kafka's own topics" in said(copies(replace(a_survey(), internal_copies={"__transaction_state": 1})))
    alone = replace(a_survey(1, 1, 1), internal_copies={"__transaction_state": 1})
    assert said(copies(alone)) == {}


@pytest.mark.parametrize(("brokers_", "copies_", "verdict"), [(3, 3, "ok"), (1, 1, "warning"), (1, 3, "wrong")])
def test_copies_need_brokers(brokers_: int, copies_: int, verdict: str) -> None:
    """One copy is for trials; three can't be had of one broker."""
    assert brokers(a_survey(copies_, brokers_), copies_).verdict == verdict


def test_a_record_from_the_future_tells_that_the_brokers_clock_is_ahead() -> None:
    """Without one nothing is claimed of a clock that is behind."""
    ahead = judged_clock(AT.timestamp() + 90.4, AT)
    assert (ahead.verdict, "90 s ahead" in ahead.said) == ("warning", True)
    assert "can't be seen" in judged_clock(None, AT).said
