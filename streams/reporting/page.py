"""The demo's report as one HTML page (`layout` says of what)."""

from collections.abc import Sequence

from schemas.answers import Answer
from streams.reporting.cases import Case, Quality, interval, percent, ratio, usd
from streams.reporting.charts import Group, Part, Stack, Strip, counts, grouped_bars, legend, stacks, strips
from streams.reporting.flow_chart import Route, flow
from streams.reporting.layout import chart, document, figure, section, table
from streams.reporting.markup import Markup, el, join
from streams.reporting.report import NOT_MEASURED, Report, as_json
from streams.reporting.samples import samples
from streams.reporting.tally import latency_s

COST_COLOURS = ("small", "tier1", "up", "check", "tier2")
"""Of a cost's parts, in their order: router, tier-1 shipped, tier-1 refused, checker, tier-2."""
ROUTES = {"tier1": ("tier-1", "tier1"), "tier2": ("tier-2", "tier2"), "escalated": ("escalated", "up")}


def page(report: Report) -> str:
    """The page as text, to be written as UTF-8."""
    title = f"Headgate: {report.tickets} tickets of {report.meta.company}"
    sections = (_flow, _cost, _quality, _checker, _latency, samples, _real)
    body = el("main", _headline(report, title), *(part(report) for part in sections), _footer(report))
    return document(title, body)


def _headline(report: Report, title: str) -> Markup:
    figures, q = as_json(report), report.quality
    bad, shipped = len(report.bad_shipped), len(report.shipped("tier1"))
    low, high = interval(q.acceptable, q.tickets) or (0.0, 0.0)
    spread = f"{q.acceptable} of {q.tickets}; 95% interval {low:.0%} to {high:.0%}"
    cost = report.costs.total_usd if report.costs else None
    boxes = [
        figure("Acceptable answers", percent(q.share), spread),
        figure("Quality against all-tier-2", _maybe(figures["quality_ratio"]), "acceptable answers, ratio"),
        figure("Cost against all-tier-2", _maybe(figures["cost_ratio"]), f"{usd(cost)} per 1,000 tickets"),
        figure("Tier-1 answered", percent(figures["tier1_share"]), f"{shipped} of {report.tickets} tickets"),
        figure("Tier-1 bad answers", f"{bad}", f"of {shipped} that it shipped"),
        figure("Tickets lost", f"{report.lost}", f"{_some(report.dead_letters, 'dead letter')}"),
    ]
    when = f"{report.meta.at:%d %B %Y, %H:%M} {report.meta.at:%Z}, {report.meta.wall_s:.0f} s in all. "
    return join(
        [
            el("h1", title),
            el("p", when, el("code", report.meta.command), class_="meta"),
            el("p", _summary(report), class_="lead"),
            _alarm(report),
            el("dl", *boxes, class_="figures"),
        ]
    )


def _maybe(share: float | None) -> str | None:
    return None if share is None else percent(share)


def _some(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _summary(report: Report) -> str:
    tier1, tier2 = len(report.shipped("tier1")), len(report.shipped("tier2"))
    after = len(report.routes["escalated"])
    return (
        f"Of {report.tickets} tickets, tier-1 answered {tier1} and tier-2 {tier2}, {after} of those after the checker "
        f"had refused a tier-1 draft. {_some(report.handoffs, 'ticket')} went to a person."
    )


def _alarm(report: Report) -> Markup:
    if not report.lost:
        return Markup()
    ids = ", ".join(c.example.ticket_id for c in report.cases if c.lost)
    return el(
        "p", f"{_some(report.lost, 'ticket')} neither answered, nor handed off, nor given up: {ids}", class_="alarm"
    )


def _flow(report: Report) -> Markup:
    ends = {"answered by tier-1": "tier1", "answered by tier-2": "tier2", "to a person": "person", "no answer": "small"}
    routes = [
        Route(name, colour, {e: sum(_route(c) == name and _end(c) == e for c in report.cases) for e in ends})
        for name, colour in (("draft kept", "tier1"), ("draft refused", "up"), ("straight up", "tier2"), ("?", "small"))
    ]
    rows = [(r.label, *(str(r.ends[e]) for e in ends)) for r in routes if r.tickets]
    return section(
        "Where the tickets went",
        "The router sends a ticket to tier-1 where it expects a good answer, and straight up to tier-2 elsewhere. "
        "The checker reads every tier-1 draft: it keeps it, or sends the ticket up.",
        chart(
            "",
            lambda width: flow(_summary(report), f"{report.tickets} published", routes, ends, width),
            table(("route", *ends), rows),
        ),
    )


def _route(case: Case) -> str:
    if case.ending is None:
        return "?"
    return "draft refused" if case.escalated else "draft kept" if case.tier == "tier1" else "straight up"


def _end(case: Case) -> str:
    if case.tier:
        return "answered by tier-1" if case.tier == "tier1" else "answered by tier-2"
    return "to a person" if case.ending else "no answer"


def _cost(report: Report) -> Markup:
    costs, alone = report.costs, report.cost_all_tier2_usd
    if costs is None:
        return section("What it cost", "Nothing was answered.")
    parts = tuple(Part(n, c, v) for (n, v), c in zip(costs.named, COST_COLOURS, strict=True))
    rows = [Stack("Headgate", f"{usd(costs.total_usd)} per 1,000", parts)]
    if alone is not None:
        rows.append(Stack("All-tier-2", f"{usd(alone)} per 1,000", (Part("tier-2", "tier2", alone),)))
    numbers = [(n, usd(v), percent(ratio(v, costs.total_usd))) for n, v in costs.named]
    numbers += [
        ("Headgate in all", usd(costs.total_usd), ""),
        ("all-tier-2", usd(alone) if alone else NOT_MEASURED, ""),
    ]
    own_usd = costs.total_usd - costs.tier2_usd
    share = percent(ratio(own_usd, costs.total_usd))
    own = Stack("All but tier-2, enlarged", f"{usd(own_usd)} per 1,000", parts[:-1])
    return section(
        "What it cost",
        f"Router, tier-1 (refused drafts included) and checker together are {share} of the cost; the rest is tier-2."
        + (f" All-tier-2: {NOT_MEASURED}." if alone is None else ""),
        chart(
            legend({p.label: p.colour for p in parts}),
            lambda w: join(
                [
                    stacks("Cost per 1,000 tickets", rows, w),
                    stacks("Cost of all but tier-2 per 1,000 tickets", [own], w),
                ]
            ),
            table(("", "per 1,000 tickets", "share"), numbers),
        ),
    )


def _quality(report: Report) -> Markup:
    groups = {"all tickets": report.quality, **report.quality_by_category}
    keys = {"Headgate": "ink", "all-tier-2": "tier2", "tier-1 alone": "tier1"}
    if report.quality.tier2_alone is None:
        del keys["all-tier-2"]
    if report.quality.tier1_alone is None:
        del keys["tier-1 alone"]
    rows = [
        (n, str(q.tickets), *(_count(x) for x in (q.acceptable, q.tier2_alone, q.tier1_alone)))
        for n, q in groups.items()
    ]
    return section(
        "How good the answers were",
        "An answer is acceptable if it states what the ticket's rubric asks for, claims nothing that it forbids and "
        "makes no number up. A ticket that went to a person counts as not answered. Categories are small: read the "
        "counts.",
        chart(
            legend(keys),
            lambda width: grouped_bars("Acceptable answers by category", [_group(*g) for g in groups.items()], width),
            table(("category", "tickets", "Headgate", "all-tier-2", "tier-1 alone"), rows),
        ),
    )


def _group(name: str, q: Quality) -> Group:
    bars = (
        ("Headgate", "ink", q.acceptable),
        ("all-tier-2", "tier2", q.tier2_alone),
        ("tier-1 alone", "tier1", q.tier1_alone),
    )
    parts = tuple(
        Part(f"{label}: {n} of {q.tickets}", c, ratio(n, q.tickets) or 0.0) for label, c, n in bars if n is not None
    )
    return Group(name, f"{q.acceptable} of {q.tickets}", parts)


def _count(count: int | None) -> str:
    return NOT_MEASURED if count is None else str(count)


def _checker(report: Report) -> Markup:
    reasons = [(reason.replace("_", " "), count) for reason, count in report.reasons.most_common()]
    text = (
        f"{_some(report.escalated, 'ticket')} went up after tier-1 had tried. {len(report.good_refused)} of the "
        "refused drafts were good after all: those tickets were paid for twice. Of the drafts that passed the "
        f"checker, {len(report.bad_shipped)} of {len(report.shipped('tier1'))} were bad."
    )
    if not reasons:
        return section("What was refused, and why", text)
    rows = [(reason, str(count)) for reason, count in reasons]
    drawn = chart("", lambda w: counts("Why tickets went up", reasons, "up", w), table(("reason", "tickets"), rows))
    return section("What was refused, and why", text, drawn)


def _latency(report: Report) -> Markup:
    rows, numbers = [], []
    for route, (name, colour) in ROUTES.items():
        if measured := report.latencies[route]:
            seconds = tuple(latency_s(c.ending) for c in report.routes[route] if isinstance(c.ending, Answer))
            label = f"{name}: half within {measured.p50_s:.1f} s, 95% within {measured.p95_s:.1f} s"
            rows.append(Strip(label, colour, seconds, (measured.p50_s, measured.p95_s)))
            numbers.append((name, str(measured.answers), f"{measured.p50_s:.2f} s", f"{measured.p95_s:.2f} s"))
    if not rows:
        return section("How long it took", "Nothing was answered.")
    return section(
        "How long it took",
        "From the ticket's record on the tickets topic to its answer. A thin line is an answer; the bars are "
        "the median and the 95th percentile.",
        chart("", lambda w: strips("Seconds to the answer", rows, w), table(("", "answers", "p50", "p95"), numbers)),
    )


def _real(report: Report) -> Markup:
    def items(texts: Sequence[str]) -> Markup:
        return el("ul", *(el("li", text) for text in texts or ("Nothing.",)))

    return el(
        "section",
        el("h2", "What is real and what is recorded"),
        *(el("h3", "Real"), items(report.meta.real), el("h3", "Recorded"), items(report.meta.recorded)),
    )


def _footer(report: Report) -> Markup:
    return el(
        "footer", "Made by ", el("code", report.meta.command), ". The page loads nothing and holds all its numbers."
    )
