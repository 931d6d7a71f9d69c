"""streams/report.py and streams/cases.py: figures that can be checked by hand."""

import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from schemas.answers import GateReason
from schemas.tickets import TicketId
from streams.reporting.cases import interval, percent, usd
from streams.reporting.report import Baseline, Made, as_json, print_report


@pytest.fixture
def four(fernway):
    """Four routine tickets."""
    return [e for e in fernway if e.kind == "routine"][:4]


@pytest.fixture
def mixed(four, make, report_of):
    """One good and one bad from tier-1, one escalated whose draft was good, one for a person."""
    kept, bad, up, person = four
    answers = [
        make.answer(kept.ticket_id, "tier1", kept.reference, seconds=1.0),
        make.answer(bad.ticket_id, "tier1", bad.wrong[0], seconds=2.0),
        make.answer(up.ticket_id, "tier2", up.reference, [make.attempt(text=up.reference)], seconds=6.0),
    ]
    handoffs = [make.handoff(person.ticket_id, [make.attempt("tier2", person.wrong[0], "refusal")])]
    baseline = Baseline(
        {TicketId(e.ticket_id): Made(e.wrong[0], 0.00002) for e in four},
        {TicketId(e.ticket_id): Made(e.reference, 0.004) for e in four},
    )
    return report_of(four, answers, handoffs=handoffs, baseline=baseline)


def test_the_figures_of_a_small_run(mixed):
    """Each can be worked out by hand from four tickets."""
    figures = as_json(mixed)
    expected = {
        "tickets": 4,
        "answered": 3,
        "handoffs": 1,
        "dead_letters": 0,
        "lost": 0,
        "escalated": 1,
        "tier1_share": 0.5,
        "quality": 0.5,
        "quality_all_tier2": 1.0,
        "quality_tier1_alone": 0.0,
        "quality_ratio": 0.5,
        "cost_per_1000_all_tier2_usd": pytest.approx(4.0),
        "tier1_p50_s": 1.0,
        "tier1_p95_s": 2.0,
        "tier2_p50_s": 6.0,
        "escalated_p95_s": 6.0,
        "bad_shipped_tier1": 1,
        "shipped_tier1": 2,
        "good_refused_tier1": 1,
        "quality_shipped_tier1": 0.5,
        "quality_shipped_tier2": 1.0,
        "wall_s": 83.4,
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["cost_ratio"] == pytest.approx(figures["cost_per_1000_usd"] / 4.0)


def test_the_parts_of_the_cost_add_up_to_the_whole(mixed):
    """Nothing is paid that no part shows; a refused draft is waste and not shipped."""
    figures = as_json(mixed)
    parts = ("router", "tier1_shipped", "tier1_wasted", "checker", "tier2")
    assert sum(figures[f"{p}_per_1000_usd"] for p in parts) == pytest.approx(figures["cost_per_1000_usd"])
    assert figures["tier1_shipped_per_1000_usd"] == pytest.approx(2 * 0.00002 / 4 * 1000)
    assert figures["tier1_wasted_per_1000_usd"] == pytest.approx(1 * 0.00002 / 4 * 1000)


def test_the_figures_are_flat_json(mixed):
    """One line, numbers or null."""
    assert all(v is None or isinstance(v, int | float) for v in json.loads(json.dumps(as_json(mixed))).values())


def test_bad_answers_and_wrong_refusals_are_named(mixed, four):
    """An operator wants to read them."""
    assert [c.example.ticket_id for c in mixed.bad_shipped] == [four[1].ticket_id]
    assert [c.example.ticket_id for c in mixed.good_refused] == [four[2].ticket_id]


def test_a_missing_comparison_is_not_measured_at_all(four, make, report_of):
    """Over part of the tickets it would mislead: the hard ones reach tier-2."""
    answers = [make.answer(e.ticket_id, text=e.reference) for e in four]
    part = {TicketId(e.ticket_id): Made(e.reference, 0.004) for e in four[:3]}
    figures = as_json(report_of(four, answers, baseline=Baseline({}, part)))
    names = ("quality_all_tier2", "quality_tier1_alone", "quality_ratio", "cost_per_1000_all_tier2_usd", "cost_ratio")
    assert [figures[name] for name in names] == [None] * 5
    assert figures["quality"] == 1.0


def test_a_comparison_without_an_answer_is_not_acceptable(four, make, report_of):
    """Silence has no wrong numbers in it, and is no answer either."""
    baseline = Baseline({}, {TicketId(e.ticket_id): Made("", 0.0) for e in four})
    assert as_json(report_of(four, baseline=baseline))["quality_all_tier2"] == 0.0


def test_a_ticket_without_any_ending_is_lost(four, make, report_of):
    """A record among the dead letters excuses only the ticket that it was."""
    answers = [make.answer(four[0].ticket_id)]
    events = [make.event("e1", four[1].ticket_id, "dead_lettered"), make.event("e2", "poison", "dead_lettered")]
    report = report_of(four, answers, events=events, dead_letters=2)
    assert (report.lost, report.dead_letters) == (2, 2)
    assert [c.example.ticket_id for c in report.cases if c.lost] == [e.ticket_id for e in four[2:]]


def test_records_of_other_tickets_are_left_out(four, make, report_of):
    """A broker may hold an earlier run's answers."""
    report = report_of(four[:1], [make.answer(four[0].ticket_id), make.answer("another run's")])
    assert (report.tickets, len(report.answers), report.lost) == (1, 1, 0)


def test_an_engine_that_was_away_refused_no_draft(four, make, report_of):
    """It is an escalation all the same, with its reason."""
    away = make.attempt(text="", reason="tier1_unavailable")
    report = report_of(four[:1], [make.answer(four[0].ticket_id, "tier2", four[0].reference, [away])])
    assert (report.escalated, report.good_refused, dict(report.reasons)) == (1, [], {"tier1_unavailable": 1})


def test_a_draft_made_in_the_shadow_was_not_refused(four, make, report_of):
    """Its ticket was tier-2's from the start, and nobody paid twice: it was drawn for an audit."""
    drafted = make.attempt(text=four[0].reference, reason=GateReason.SHADOW)
    report = report_of(four[:1], answers=[make.answer(four[0].ticket_id, "tier2", four[0].reference, [drafted])])
    assert (report.escalated, report.good_refused, dict(report.reasons)) == (0, [], {})
    assert report.cases[0].refused is None


def test_categories_add_up_to_all_tickets(a_run):
    """Every ticket is in one category, the example's own."""
    groups = a_run.quality_by_category.values()
    assert sum(q.tickets for q in groups) == a_run.quality.tickets == 120
    assert sum(q.acceptable for q in groups) == a_run.quality.acceptable
    assert sum(q.tier2_alone or 0 for q in groups) == a_run.quality.tier2_alone


def test_a_run_without_tickets_has_no_shares(report_of):
    """Not measured, rather than a division by zero."""
    figures = as_json(report_of([]))
    assert figures["tickets"] == 0
    assert figures["quality"] is figures["tier1_share"] is figures["cost_per_1000_usd"] is None


def test_the_printed_report_fits_80_columns(a_run):
    """Tables are not cut: no ellipsis, no line too long."""
    console = Console(file=io.StringIO(), width=80)
    print_report(a_run, console)
    text = console.file.getvalue()
    assert all(cell_len(row) <= 80 for row in text.splitlines())
    assert "…" not in text
    for words in ("all-tier-2", "tier-1, refused", "Bad answers shipped from tier-1: ", "Recorded: tier-2"):
        assert words in text


def test_the_printed_report_says_what_was_not_measured(four, make, report_of):
    """A dash alone could be read as none."""
    console = Console(file=io.StringIO(), width=80)
    print_report(report_of(four, [make.answer(four[0].ticket_id)]), console)
    assert "not measured in this run" in console.file.getvalue()


@pytest.mark.parametrize(
    ("share", "words"),
    [(None, "-"), (0.0, "0%"), (0.001, "0.1%"), (0.425, "42%"), (0.996, "99.6%"), (1.0, "100%"), (1.02, "102%")],
)
def test_shares_never_round_to_all_or_nothing(share, words):
    """99.6% acceptable isn't 100%."""
    assert percent(share) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (None, "-"),
        (0.0, "$0.00"),
        (0.0000251, "$0.0000251"),
        (0.02, "$0.0200"),
        (1.719, "$1.72"),
        (1234.5, "$1,234.50"),
    ],
)
def test_small_amounts_keep_their_digits(amount, words):
    """A tier-1 answer costs thousandths of a cent."""
    assert usd(amount) == words


def test_the_interval_is_wilsons():
    """Values from the published formula; never beyond 0 and 1."""
    assert interval(113, 120) == pytest.approx((0.8845, 0.9714), abs=1e-4)
    low, high = interval(10, 10)
    assert 0.7 < low < 0.73
    assert high == pytest.approx(1.0)
    assert interval(0, 0) is None
