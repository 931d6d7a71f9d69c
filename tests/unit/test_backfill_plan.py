"""What a backfill is, which tickets it takes, what they cost, and where it goes on: decided from values."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.events import Event, Outcome
from schemas.tickets import TicketId
from streams.backfill_plan import (
    Asked,
    BackfillError,
    Chooser,
    End,
    Facts,
    Fate,
    Pass,
    Plan,
    Span,
    asked,
    goes_on,
    metadata,
    pass_of,
    passes,
)
from streams.runtime.headers import Replay
from tests.records import AT, a_ticket

REPLAY = Replay("b-1", "tickets/0/7")


def an_asked(*filters: str, again: bool = False, output: str = "answers") -> Asked:
    return asked("2026-11-29", "2026-11-30T09:30+01:00", filters, output, again)


def an_event(outcome: Outcome = "answered", **fields: Any) -> Event:
    values = {"event_id": "e", "at": AT, "stage": "tier2", "ticket_id": TicketId("t1"), "tenant": "default"}
    return Event(**values | {"outcome": outcome, "category": "orders"} | fields)


def facts_of(*events: Event, output: str = "") -> Facts:
    facts = Facts(output)
    for event in events:
        facts.add(event, None)
    return facts


HANDED = an_event("handed_off", reasons=("tier2_unavailable",))


def chooser(facts: Facts, *filters: str, again: bool = False) -> Chooser:
    return Chooser(an_asked(*filters, again=again), facts, facts.on_lane(), set())


def test_moments_without_a_zone_are_utc() -> None:
    """Whatever the machine's zone is."""
    made = an_asked()
    assert made.since == datetime(2026, 11, 29, tzinfo=UTC)
    assert made.until == datetime(2026, 11, 30, 8, 30, tzinfo=UTC)


def test_a_window_may_begin_before_there_was_time() -> None:
    """Kafka's begins in 1970."""
    assert asked("1900-01-01", "2026-11-30", [], "answers", False).since == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "until", "filters", "again"),
    [
        ("2h", "2026-11-30", [], False),
        ("2026-11-30", "2026-11-30", [], False),
        ("2026-11-29", "2026-11-30", ["tenants=a"], False),
        ("2026-11-29", "2026-11-30", ["tenant"], False),
        ("2026-11-29", "2026-11-30", ["metadata.=a"], False),
        ("2026-11-29", "2026-11-30", ["ended=never"], False),
        ("2026-11-29", "2026-11-30", ["ended=answer"], False),
    ],
)
def test_what_means_nothing_is_an_error(since: str, until: str, filters: list[str], again: bool) -> None:
    """Ages, too: the same command would be another backfill a minute later."""
    with pytest.raises(BackfillError):
        asked(since, until, filters, "answers", again)


def test_the_same_command_is_the_same_backfill() -> None:
    """In whichever zone its times and order its filters are written; anything else makes another."""
    made = asked("2026-11-29T01:00+01:00", "2026-11-30T08:30", ["tenant=b", "tenant=a", "tenant=b"], "answers", False)
    assert made.id == an_asked("tenant=a", "tenant=b").id
    others = [an_asked(), an_asked(again=True), an_asked(output="mine"), an_asked("tenant=a"), made]
    assert len({each.id for each in others}) == 5


def test_filters_of_one_name_are_alternatives_and_names_all_hold() -> None:
    """Fields of the ticket, its metadata, its category and its end."""
    ticket, end = a_ticket(tenant="a", channel="mail", metadata={"plan": "x"}), End("spend_limit", "orders")

    def does(*filters: str) -> bool:
        return passes(ticket, end, an_asked(*filters).filters)

    assert does()
    assert does("tenant=b", "tenant=a", "channel=mail", "metadata.plan=x", "category=orders", "ended=handoff")
    assert does("ended=spend_limit")
    assert not does("tenant=a", "channel=chat")
    assert not does("metadata.other=")
    assert not does("ended=none")
    assert not passes(ticket, None, an_asked("category=orders").filters)


def test_only_a_ticket_that_a_person_was_handed_is_due() -> None:
    """One with an answer never, one that has not ended only when it is asked for."""
    assert chooser(facts_of(HANDED)).fate(a_ticket()) is Fate.DUE
    assert chooser(facts_of(HANDED, an_event("answered"))).fate(a_ticket()) is Fate.ANSWERED
    assert chooser(facts_of(an_event("answered"), HANDED)).fate(a_ticket()) is Fate.ANSWERED
    assert chooser(facts_of()).fate(a_ticket()) is Fate.NO_END
    assert chooser(facts_of(), "ended=none").fate(a_ticket()) is Fate.DUE
    assert chooser(facts_of(HANDED)).fate(a_ticket(tenant="other")) is Fate.NO_END


def test_again_takes_what_has_an_answer() -> None:
    """And what is on its way to one."""
    for facts in (facts_of(an_event("answered")), facts_of()):
        assert chooser(facts, again=True).fate(a_ticket()) is Fate.DUE


def test_a_ticket_is_taken_once_in_a_pass() -> None:
    """The first of those that its helpdesk published, with --again, too."""
    one = chooser(facts_of(HANDED), again=True)
    assert [one.fate(a_ticket()) for _ in range(2)] == [Fate.DUE, Fate.REPEATED]


def test_a_ticket_on_the_slow_lane_waits_for_its_end() -> None:
    """Put there by whichever backfill; an end of another pass is not this one's."""
    facts = facts_of(HANDED)
    facts.add_published(a_ticket(), REPLAY)
    assert chooser(facts).fate(a_ticket()) is Fate.ON_LANE
    facts.add(HANDED, Replay("b-2", REPLAY.of))
    assert facts.outstanding[REPLAY.id] == 1
    facts.add(HANDED, REPLAY)
    facts.add(HANDED, REPLAY)
    assert facts.outstanding[REPLAY.id] == 0
    assert facts.outcomes(REPLAY.id) == {"handed_off": 1}
    assert chooser(facts).fate(a_ticket()) is Fate.DUE


def test_an_end_that_was_read_before_its_ticket_counts() -> None:
    """Events and the slow lane are read one after the other."""
    facts = facts_of()
    facts.add(an_event("dead_lettered", tenant=""), REPLAY)
    facts.add_published(a_ticket(), REPLAY)
    assert facts.outstanding[REPLAY.id] == 0


def test_a_dead_letter_from_the_slow_lane_is_left_to_its_requeue() -> None:
    """Nobody waits for it, and nobody takes its ticket a second time."""
    facts = facts_of(HANDED)
    facts.add_published(a_ticket(), REPLAY)
    facts.add(an_event("dead_lettered", tenant=""), REPLAY)
    assert facts.outstanding[REPLAY.id] == 0
    assert chooser(facts).fate(a_ticket()) is Fate.ON_LANE
    facts.add(an_event("answered"), REPLAY)
    assert chooser(facts).fate(a_ticket()) is Fate.ANSWERED


def test_an_answer_on_another_topic_is_none_here() -> None:
    """And one on `answers` is one everywhere: nobody is to pay twice for it unasked."""
    elsewhere = Replay("b-1", "tickets/0/7", "mine")
    for output, fate in (("", Fate.DUE), ("mine", Fate.ANSWERED), ("yours", Fate.DUE)):
        facts = facts_of(HANDED, output=output)
        facts.add(an_event("answered"), elsewhere)
        assert chooser(facts).fate(a_ticket()) is fate
    assert chooser(facts_of(an_event("answered"), output="mine")).fate(a_ticket()) is Fate.ANSWERED


def test_a_checkers_refusal_is_a_handoff_with_its_reason() -> None:
    """Its event names gates."""
    facts = facts_of(an_event("handed_off", stage="checker", reasons=("empty",)))
    assert facts.ends["default", "t1"].as_ == "tier2_refused_by_checker"


def test_an_answer_costs_what_its_category_has_cost() -> None:
    """Failed tries included, the judge's work not; a category without answers costs what all do."""
    facts = facts_of(
        an_event("drafted", cost_usd=0.3),
        an_event("answered", cost_usd=0.1, stage="checker"),
        an_event("judged", cost_usd=9.0, stage="judge"),
        an_event("answered", cost_usd=1.6, category="bills"),
    )
    assert facts.usd_of("orders") == pytest.approx(0.4)
    assert facts.usd_of("bills") == pytest.approx(1.6)
    assert facts.usd_of("plans") == facts.usd_of(None) == pytest.approx(1.0)
    assert facts_of(HANDED).usd_of("orders") is None


def test_a_plan_tells_what_it_leaves_out_and_what_it_may_cost() -> None:
    """Nothing is made up where no answer is known."""
    plan = Plan()
    plan.add(Fate.DUE, 0.5)
    plan.add(Fate.DUE, 0.25)
    plan.add(Fate.ANSWERED, 7.0)
    told = dict(plan.lines(AT, 1200))
    assert (told["tickets in the window"], told["  answered already"], told["to do"]) == ("3", "1", "2")
    assert told["estimated cost"].startswith("$0.7500: by category, what 1,200 answers since 2026-11-24 12:00 UTC")
    assert dict(plan.lines(AT, 0))["estimated cost"].startswith("unknown")


def test_a_pass_survives_as_offsets_and_metadata() -> None:
    """What was committed for each partition is all that there is of it."""
    made = Pass(3, {0: Span(5, 9, 12), 4: Span(0, 0, 0)})
    commits = {number: (span.position, metadata(3, span)) for number, span in made.spans.items()}
    assert pass_of(commits) == made
    assert pass_of({}) is None
    for text in ("", "h1:3:5:12", "b1:3:5", "b1:3:5:x"):
        with pytest.raises(BackfillError):
            pass_of({0: (9, text)})


def test_what_is_unfinished_goes_on_and_what_is_finished_looks_again() -> None:
    """With --again a finished one does nothing: whoever isn't sure must not pay twice by asking."""
    begun, published = Pass(2, {0: Span(5, 9, 12)}), Pass(2, {0: Span(5, 12, 12), 1: Span(0, 0, 0)})
    assert goes_on(None, 0, again=True) == 1
    for again in (False, True):
        assert goes_on(begun, 0, again) is None
        assert goes_on(published, 1, again) is None
    assert goes_on(published, 0, again=False) == 3
    with pytest.raises(BackfillError, match="finished"):
        goes_on(published, 0, again=True)
    assert begun.moved({0: 12}).published
