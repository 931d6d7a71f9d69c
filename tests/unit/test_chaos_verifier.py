"""The chaos verifier finds what a broken stream would leave behind, and nothing in a log that is as it should be."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.events import Event, Outcome, StageName
from schemas.tickets import TicketId
from tests.chaos.verifier import Committed, Entry, Evidence, Rule, verify
from tests.records import AT

OUTPUT: dict[str, tuple[StageName, Outcome]] = {
    "tier2": ("router", "routed"),
    "drafts": ("tier2", "drafted"),
    "answers": ("checker", "answered"),
    "handoffs": ("tier2", "handed_off"),
    "dead-letters": ("router", "dead_lettered"),
}
"""What is done when a record comes to stand on a topic."""


class Log:
    """A log in the making, of one partition a topic."""

    def __init__(self) -> None:
        self.records: list[Entry] = []
        self.events: list[Event] = []
        self.ends: dict[str, int] = {}

    def publish(self, ticket_id: str) -> Entry:
        return self._append("tickets", ticket_id, "")

    def process(self, source: Entry, topic: str) -> Entry:
        """A transaction: one output of the source, and its event."""
        stage, outcome = OUTPUT[topic]
        output = self._append(topic, source.key, f"{stage}/{source.origin}/0")
        self.tell(stage, outcome, source)
        return output

    def tell(self, stage: StageName, outcome: Outcome, source: Entry) -> None:
        event_id = f"{stage}/{source.origin}"
        self._append("events", source.key, f"{event_id}/1")
        self.events.append(
            Event(event_id=event_id, at=AT, stage=stage, outcome=outcome, ticket_id=TicketId(source.key))
        )

    def _append(self, topic: str, key: str, ce_id: str) -> Entry:
        # Past a transaction's records stands its marker: offsets are not consecutive.
        offset = self.ends[topic] = self.ends.get(topic, -2) + 2
        self.records.append(Entry(topic, 0, offset, key, ce_id))
        return self.records[-1]


def a_clean_log(answered: int = 3) -> Evidence:
    """Tickets that were answered, one that went to a person, one that was published twice, and poison."""
    log = Log()
    ids = [f"t{n}" for n in range(answered)]
    for ticket_id in ids:
        log.process(log.process(log.process(log.publish(ticket_id), "tier2"), "drafts"), "answers")
    log.tell("router", "duplicate", log.publish("t0"))
    log.process(log.process(log.publish("strange"), "tier2"), "handoffs")
    log.process(log.publish("poison"), "dead-letters")
    ends = {"router": log.ends["tickets"], "tier2": log.ends["tier2"], "checker": log.ends["drafts"]}
    return Evidence(
        published={**dict.fromkeys(ids, 1), "t0": 2, "strange": 1, "poison": 1},
        poison=frozenset({"poison"}),
        records=log.records,
        events=log.events,
        offsets=[Committed(stage, 0, at) for stage, end in ends.items() for at in (1, 1, end + 1)],
        paid_calls=answered + 1,
        paid_bound=0,
    )


def without(seen: Evidence, topic: str, key: str) -> Evidence:
    """The same log with a record missing; its event, if it is one, too."""
    gone = next(r for r in seen.records if r.topic == topic and r.key == key)
    return replace(
        seen,
        records=[r for r in seen.records if r is not gone],
        events=[e for e in seen.events if topic != "events" or e.event_id != gone.cause],
    )


def and_also(seen: Evidence, entry: Entry) -> Evidence:
    return replace(seen, records=[*seen.records, entry])


def rules(seen: Evidence) -> dict[Rule, tuple[str, ...]]:
    return dict(verify(seen).broken)


def test_a_clean_log_passes() -> None:
    """Nothing is found where nothing is wrong, and nothing is paid twice."""
    verdict = verify(a_clean_log())
    assert verdict.holds
    assert (verdict.broken, verdict.tolerated, verdict.paid_repeats, verdict.tickets) == ({}, {}, 0, 5)


def test_a_lost_ticket_is_named() -> None:
    """Read, its offset committed, and nothing written."""
    seen = a_clean_log()
    lost = [r for r in seen.records if r.key != "t1" or r.topic == "tickets"]
    events = [e for e in seen.events if e.ticket_id != "t1"]
    broken = rules(replace(seen, records=lost, events=events, paid_calls=3))
    assert broken == {Rule.LOST: ("t1",), Rule.NO_EVENT: ("router/tickets/0/2",)}


def test_a_ticket_that_never_reached_the_log_is_lost() -> None:
    """Acknowledged by the broker and gone with it: no stage is to blame, and still it is missing."""
    seen = a_clean_log()
    assert rules(replace(seen, published={**seen.published, "t9": 1})) == {Rule.LOST: ("t9",)}


@pytest.mark.parametrize("ticket_id", ["t0", "t1"])
def test_a_ticket_with_two_answers_is_named(ticket_id: str) -> None:
    """Whether it was published twice or once; each answer is whole in itself, made of a draft of its own."""
    seen = a_clean_log()
    log = Log()
    log.ends = {r.topic: r.offset for r in seen.records}
    again = log.process(log.process(log.publish(ticket_id), "tier2"), "drafts")
    log.process(again, "answers")
    offsets = [Committed(c.stage, 0, 99) for c in seen.offsets]
    twice = replace(seen, records=[*seen.records, *log.records], events=[*seen.events, *log.events], offsets=offsets)
    assert rules(replace(twice, paid_calls=5, paid_bound=1)) == {Rule.DUPLICATE: (ticket_id,)}


def test_an_aborted_record_that_was_read_is_named() -> None:
    """A worker died with its output sent and its transaction open; the work was done again, and both can be read."""
    seen = a_clean_log()
    draft = next(r for r in seen.records if r.topic == "drafts" and r.key == "t2")
    assert rules(and_also(seen, replace(draft, offset=-1)))[Rule.ABORTED] == (draft.ce_id,)


def test_an_output_without_its_event_is_of_an_aborted_transaction() -> None:
    """They were written together: one that is there alone should not be readable."""
    seen = without(a_clean_log(), "events", "strange")
    assert rules(seen) == {
        Rule.ABORTED: ("router/tickets/0/8/0",),
        Rule.NO_EVENT: ("router/tickets/0/8",),
    }


def test_an_event_without_its_answer_is_named() -> None:
    """The events say answered and the helpdesk got nothing."""
    assert rules(without(a_clean_log(), "answers", "t2")) == {
        Rule.LOST: ("t2",),
        Rule.UNMATCHED_EVENT: ("answered checker/drafts/0/4",),
    }


def test_an_event_of_no_record_is_named() -> None:
    """Events tell of what stands in the log, not of what once was tried."""
    seen = a_clean_log()
    stray = replace_event(seen.events[0], event_id="router/tickets/0/777", outcome="duplicate")
    assert rules(replace(seen, events=[*seen.events, stray])) == {
        Rule.UNMATCHED_EVENT: ("duplicate router/tickets/0/777",)
    }


def replace_event(event: Event, *, event_id: str, outcome: Outcome) -> Event:
    return Event(event_id=event_id, at=event.at, stage=event.stage, outcome=outcome, ticket_id=event.ticket_id)


def test_an_offset_that_goes_back_is_named() -> None:
    """A zombie has committed over its successor."""
    seen = a_clean_log()
    last = seen.offsets[-1]
    offsets = [*seen.offsets, replace(last, offset=3), last]
    assert rules(replace(seen, offsets=offsets)) == {Rule.OFFSET_BACK: (f"checker/0: {last.offset} -> 3",)}


@pytest.mark.parametrize("offset", [None, 6])
def test_records_behind_the_last_commit_are_named(offset: int | None) -> None:
    """Committed or not at all: they would be done again after the next start."""
    seen = a_clean_log()
    offsets = [c for c in seen.offsets if c.stage != "tier2"]
    offsets += [Committed("tier2", 0, offset)] if offset else []
    assert rules(replace(seen, offsets=offsets)) == {Rule.OFFSET_BEHIND: (f"tier2/0: {offset or 0} of 7",)}


@pytest.mark.parametrize(("calls", "over"), [(4, 0), (6, 0), (7, 1), (9, 3)])
def test_paid_repeats_are_held_against_the_bound(calls: int, over: int) -> None:
    """Four tickets reached tier-2; two calls more were conceded to the kills, and the third is too many."""
    verdict = verify(replace(a_clean_log(), paid_calls=calls, paid_bound=2))
    assert verdict.paid_repeats == calls - 4
    assert verdict.count(Rule.OVERPAID) == over
    assert verdict.holds == (over == 0)


def test_answers_that_nobody_was_asked_for_are_named() -> None:
    """Fewer calls than tickets: the count itself can't be trusted."""
    assert list(rules(replace(a_clean_log(), paid_calls=3))) == [Rule.UNPAID]


@pytest.mark.parametrize(
    ("mistake", "rule", "key"),
    [
        (lambda seen: replace(seen, poison=frozenset({"poison", "t1"})), Rule.WRONG_END, "t1"),
        (lambda seen: replace(seen, poison=frozenset()), Rule.WRONG_END, "poison"),
        (lambda seen: and_also(seen, Entry("answers", 0, 98, "nobody's")), Rule.UNKNOWN, "nobody's"),
    ],
)
def test_ends_that_are_not_the_tickets_own_are_named(
    mistake: Callable[[Evidence], Evidence], rule: Rule, key: str
) -> None:
    """Poison is buried, a ticket is not, and nobody answers what was not asked."""
    assert rules(mistake(a_clean_log()))[rule] == (key,)


def test_without_deduplication_each_publication_has_its_own_end() -> None:
    """Then a second publication that is dropped is a loss, and two answers to two publications are none too many."""
    assert rules(replace(a_clean_log(), deduplicated=False))[Rule.LOST] == ("t0",)
    log = Log()
    for _ in range(2):
        log.process(log.process(log.process(log.publish("t0"), "tier2"), "drafts"), "answers")
    seen = replace(a_clean_log(), records=log.records, events=log.events, published={"t0": 2}, paid_calls=2)
    assert verify(replace(seen, deduplicated=False)).holds
    # The acknowledgement of the second may have been lost: it stands in the log all the same.
    assert verify(replace(seen, deduplicated=False, published={"t0": 1})).holds


def test_at_least_once_forgives_repeats_but_no_loss() -> None:
    """What is twice is shown and tolerated; what is missing is still broken."""
    seen = a_clean_log()
    answer = next(r for r in seen.records if r.topic == "answers" and r.key == "t2")
    repeated = replace(and_also(seen, replace(answer, offset=98)), paid_calls=9, delivery="at_least_once")
    verdict = verify(repeated)
    assert verdict.holds
    assert verdict.tolerated.keys() == {Rule.DUPLICATE, Rule.ABORTED, Rule.OVERPAID}
    assert verdict.count(Rule.DUPLICATE) == 1
    missing = verify(without(repeated, "answers", "t1"))
    assert missing.broken[Rule.LOST] == ("t1",)
