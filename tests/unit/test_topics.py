"""What is done about a topic, decided from how it is and how it should be."""

from dataclasses import replace

from schemas.topics import ANSWERS, DAY_MS, MIB, POLICY, SPEND, TICKETS
from streams.topics import Applied, decide, leaderless_partitions, wanted_shape

WANTED = wanted_shape(ANSWERS, partitions=8, replication_factor=3)


def test_a_topic_is_shaped_by_the_table_and_the_settings() -> None:
    """Retention, clean-up and size come from the table, the numbers from the settings."""
    assert WANTED.partitions == 8
    assert WANTED.replication_factor == 3
    assert WANTED.config == {
        "retention.ms": str(30 * DAY_MS),
        "cleanup.policy": "delete",
        "max.message.bytes": str(4 * MIB),
    }


def test_a_ticket_is_limited_to_a_quarter_of_what_later_records_may_have() -> None:
    """A ticket that is just accepted still fits after the stages have added to it."""
    assert wanted_shape(TICKETS, 8, 1).config["max.message.bytes"] == str(MIB)


def test_the_policy_topic_keeps_one_partition_and_every_key() -> None:
    """A policy is read whole and in order, and its last word never expires."""
    shape = wanted_shape(POLICY, partitions=8, replication_factor=1)
    assert shape.partitions == 1
    assert shape.config["cleanup.policy"] == "compact"
    assert shape.config["retention.ms"] == "-1"


def test_the_spend_topic_has_the_brokers_time_and_one_order() -> None:
    """Limits end by one clock, and every step stands before or after every other."""
    shape = wanted_shape(SPEND, partitions=8, replication_factor=1)
    assert shape.partitions == 1
    assert shape.config["message.timestamp.type"] == "LogAppendTime"
    assert decide("spend", shape, replace(shape, config={**shape.config, "message.timestamp.type": "CreateTime"})).drift


def test_a_missing_topic_is_created() -> None:
    """With the wanted number of partitions."""
    assert decide("answers", WANTED, None) == Applied("answers", "created", 8)


def test_a_topic_as_wanted_is_kept_without_drift() -> None:
    """Nothing to do, nothing to report."""
    assert decide("answers", WANTED, WANTED) == Applied("answers", "kept", 8)


def test_a_topic_with_too_few_partitions_grows() -> None:
    """Up to the wanted number."""
    assert decide("answers", WANTED, replace(WANTED, partitions=2)) == Applied("answers", "grown", 8)


def test_a_topic_with_more_partitions_keeps_them_and_is_reported() -> None:
    """Partitions can't be taken away without their records."""
    applied = decide("answers", WANTED, replace(WANTED, partitions=12))
    assert applied == Applied("answers", "kept", 12, ("has 12 partitions, wanted 8",))


def test_other_settings_and_copies_are_reported() -> None:
    """An operator may have had reasons: say so, change nothing."""
    found = replace(WANTED, replication_factor=1, config={**WANTED.config, "retention.ms": "1000"})
    assert decide("answers", WANTED, found).drift == (
        f"retention.ms is 1000, wanted {30 * DAY_MS}",
        "replication factor is 1, wanted 3",
    )


def test_partitions_without_a_leader_are_named() -> None:
    """Missing topics, missing partitions and partitions that nobody leads all count."""
    leaders = {"led": (1, 2), "half": (1, None), "short": (1,)}
    totals = {"led": 2, "half": 2, "short": 2, "missing": 1}
    assert leaderless_partitions(totals, leaders) == ["half/1", "short/1", "missing/0"]
