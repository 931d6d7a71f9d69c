"""The report's sample tickets: what was asked, what was answered, what was refused and why.

Shows ticket text, which a log never may: the page is made of an example
company's tickets and stays on the machine that made it.
"""

from collections.abc import Iterator

from schemas.answers import Answer, Handoff
from streams.reporting.cases import Case, cost_of, usd
from streams.reporting.markup import Markup, el, join
from streams.reporting.report import Report
from workers.learning.rubric import Grade

MOST = 40
"""More would make the page long, not more telling."""


def samples(report: Report) -> Markup:
    """What went wrong first, then the others in the order of publishing."""
    chosen = sorted(report.cases, key=_interest)[:MOST]
    columns = ("ticket", "category", "by", "verdict", "cost")
    head = el("div", *(el("span", c) for c in columns), class_="row head", aria_hidden="true")
    return el(
        "section",
        el("h2", "Tickets to look at"),
        el("p", f"{len(chosen)} of {len(report.cases)}: first what went wrong. A row opens to question and answer."),
        el("div", head, *(_sample(c) for c in chosen), class_="samples"),
    )


def _interest(case: Case) -> int:
    """0 is the most interesting."""
    wrongly_refused = case.refused is not None and case.refused.acceptable
    order = (
        case.lost,
        case.ending is None,
        case.tier and not case.acceptable,
        case.tier is None,
        wrongly_refused,
        case.escalated,
    )
    return next((rank for rank, applies in enumerate(order) if applies), len(order))


def _sample(case: Case) -> Markup:
    word, colour = _verdict(case)
    cells = (
        el("code", case.example.ticket_id),
        el("span", case.example.category),
        el("span", _by(case)),
        el("span", word, class_=colour),
        el("span", usd(cost_of(case))),
    )
    return el("details", el("summary", *cells, class_="row"), el("div", *_texts(case), class_="text"))


def _by(case: Case) -> str:
    if case.tier is None:
        return "a person" if case.ending else "nobody"
    tier = "tier-1" if case.tier == "tier1" else "tier-2"
    return f"{tier}, escalated" if case.escalated else tier


def _verdict(case: Case) -> tuple[str, str]:
    if case.grade is None:
        return ("handed off" if case.ending else "lost" if case.lost else "given up"), "soft"
    return ("acceptable", "good") if case.acceptable else ("bad", "bad")


def _texts(case: Case) -> Iterator[Markup]:
    example = case.example
    asked = f"{example.subject}\n\n{example.body}" if example.subject else example.body
    yield _quote("The customer", asked)
    if example.context:
        yield _quote("With", "\n".join(example.context))
    for attempt in case.ending.attempts if case.ending else ():
        tier = "tier-1" if attempt.tier == "tier1" else "tier-2"
        yield _quote(f"{tier} draft, refused: {attempt.reason.replace('_', ' ').replace(',', ', ')}", attempt.text)
    if isinstance(case.ending, Answer):
        yield _quote("The answer", case.ending.text)
    if isinstance(case.ending, Handoff):
        yield _quote("Handed to a person", f"{case.ending.reason.replace('_', ' ')}: {case.ending.detail}")
    if case.grade and not case.grade.acceptable:
        yield el("ul", *(el("li", fault) for fault in _faults(case.grade)))
        yield _quote("What would have been right", example.reference)


def _faults(grade: Grade) -> Iterator[str]:
    yield from (f"does not say: {fact}" for fact in grade.missing)
    yield from (f"must not say: {claim}" for claim in grade.claimed)
    yield from (f"made up: {number}" for number in grade.invented)


def _quote(title: str, text: str) -> Markup:
    return join([el("h4", title), el("blockquote", text)])
