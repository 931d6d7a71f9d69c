"""A replay as one HTML page, and its figures as rows for a terminal. Holds no time of its own making: the same replay
gives the same page."""

from collections.abc import Callable, Iterator

from schemas.replays import BadAnswers, Group, Outcome, Range, Replay
from schemas.replays import Parts as CostParts
from streams.reporting.cases import percent, usd
from streams.reporting.charts import Group as Bars
from streams.reporting.charts import Part, Stack, grouped_bars, legend, stacks
from streams.reporting.layout import chart, document, figure, section, table
from streams.reporting.markup import Markup, el, join

COSTS = {
    "router": "small",
    "tier-1": "tier1",
    "checker": "check",
    "tier-2": "tier2",
    "audits": "up",
}
"""A cost's parts, in the order of `schemas.replays.Parts`, with their colours."""

HEAD = ("", "happened", "candidate")


def page(found: Replay) -> str:
    """The page as text, to be written as UTF-8."""
    title = f"Headgate: {found.everything.tickets} tickets under policy {found.policy}"
    parts = (_headline(found, title), _silent(found), _cost(found), _by_category(found), _bad(found), _check(found))
    return document(title, el("main", *parts))


def rows(group: Group) -> list[tuple[str, str, str]]:
    """What happened, and what would have, figure by figure."""
    return list(_beside(group.happened, group.candidate))


def _beside(one: Outcome, other: Outcome) -> Iterator[tuple[str, str, str]]:
    shares = (
        ("answered by tier-1", "tier1_share"),
        ("tried on tier-1, then tier-2", "escalated_share"),
        ("straight to tier-2", "straight_share"),
    )
    for title, name in shares:
        yield title, _share(getattr(one, name)), _share(getattr(other, name))
    yield "cost per 1,000 tickets", _usd(one.cost_per_1000_usd), _usd(other.cost_per_1000_usd)
    for number, part in enumerate(COSTS):
        happened, would = (usd(_amounts(each.parts)[number]) if each.parts else "-" for each in (one, other))
        yield f"  {part}", happened, would
    yield "bad answers of tier-1's", _bad_share(one.bad), _bad_share(other.bad)


def _amounts(parts: CostParts) -> tuple[float, ...]:
    return tuple(getattr(parts, name) for name in parts.__struct_fields__)


def _share(found: Range) -> str:
    """With a digit more than `percent`: an interval may be narrow."""
    return _range(found, lambda share: f"{share:.1%}")


def _usd(found: Range) -> str:
    return _range(found, usd)


def _range(found: Range, shown: Callable[[float], str]) -> str:
    low, high = shown(found.low), shown(found.high)
    if found.value is None:
        return f"{low} to {high}"
    return shown(found.value) if low == high else f"{shown(found.value)} ({low} to {high})"


def _bad_share(bad: BadAnswers) -> str:
    if bad.share is None:
        return f"too few labels ({bad.labels})"
    return f"{_share(bad.share)}, {bad.labels} labels"


def _headline(found: Replay, title: str) -> Markup:
    happened, candidate = found.everything.happened, found.everything.candidate

    def box(name: str, shown: str, before: str) -> Markup:
        value, _, interval = shown.partition(" (")
        return figure(name, value, " ".join(part for part in (f"({interval}" if interval else "", before) if part))

    boxes = [
        box("Cost per 1,000 tickets", _usd(candidate.cost_per_1000_usd), f"it was {_usd(happened.cost_per_1000_usd)}"),
        box("Answered by tier-1", _share(candidate.tier1_share), f"it was {_share(happened.tier1_share)}"),
        box("Escalated", _share(candidate.escalated_share), f"it was {_share(happened.escalated_share)}"),
    ]
    when = f"Tickets that were routed from {found.start:%Y-%m-%d %H:%M:%S %Z} to {found.end:%Y-%m-%d %H:%M:%S %Z}."
    lead = (
        "What the candidate would have done with them, from what the log says of each. In brackets stands the 95 % "
        "interval; a range without a figure before it is the best and the worst case of what the log doesn't know."
    )
    figures = el("dl", *boxes, class_="figures")
    return join([el("h1", title), el("p", when, class_="meta"), el("p", lead, class_="lead"), figures])


def _silent(found: Replay) -> Markup:
    left_out = [f"left out: {count} {reason}" for reason, count in found.left_out.items()]
    said = [*found.notes, *left_out] or ["Nothing: every figure has all that it needs."]
    return section(
        "What the log can't say",
        "Why a figure is a range, or isn't there, or isn't exact.",
        el("ul", *(el("li", line) for line in said)),
    )


def _cost(found: Replay) -> Markup:
    both = (("happened", found.everything.happened), ("candidate", found.everything.candidate))
    bars = [
        Stack(
            name,
            f"{_usd(each.cost_per_1000_usd)} per 1,000",
            tuple(Part(n, c, v) for (n, c), v in zip(COSTS.items(), _amounts(each.parts), strict=True)),
        )
        for name, each in both
        if each.parts
    ]
    sampled = found.everything.sampled
    text = (
        f"{sampled} tickets would have been tried on tier-1 and were not, but for {found.everything.drawn} that were "
        "drawn for audits: these speak for all of them, each with the inverse of its propensity."
        if sampled
        else "Every ticket's draft that the candidate needs, and that the log can have, is in the log."
    )
    drawn = chart(
        legend(COSTS), lambda width: stacks("Cost per 1,000 tickets", bars, width), table(HEAD, rows(found.everything))
    )
    return section("What it would have cost", text, drawn)


def _by_category(found: Replay) -> Markup:
    groups = [found.everything, *found.categories]
    columns = ("category", "tickets", "tier-1, happened", "tier-1, candidate", "cost, happened", "cost, candidate")
    numbers = [
        (
            _name(each),
            str(each.tickets),
            _share(each.happened.tier1_share),
            _share(each.candidate.tier1_share),
            _usd(each.happened.cost_per_1000_usd),
            _usd(each.candidate.cost_per_1000_usd),
        )
        for each in groups
    ]
    drawn = chart(
        legend({"candidate": "tier1", "its range": "tier1 band", "happened": "ink"}),
        lambda width: grouped_bars("Answered by tier-1", [_bars(each) for each in groups], width),
        table(columns, numbers),
    )
    return section("By category", "The share that tier-1 answers. Costs are per 1,000 tickets.", drawn)


def _name(group: Group) -> str:
    return group.category or "all"


def _bars(group: Group) -> Bars:
    share, was = group.candidate.tier1_share, group.happened.tier1_share
    bars = (
        Part(f"candidate: {_share(share)}", "tier1", share.low if share.value is None else share.value),
        Part(f"at most {percent(share.high)}", "tier1 band", share.high),
        Part(f"happened: {_share(was)}", "ink", was.low),
    )
    return Bars(_name(group), f"{group.tickets}", bars)


def _bad(found: Replay) -> Markup:
    columns = ("category", "happened", "candidate", "worth", "no label can speak for", "of all answers")
    numbers = [
        (
            _name(each),
            _bad_share(each.happened.bad),
            _bad_share(each.candidate.bad),
            f"{each.candidate.bad.effective_labels:.0f}",
            percent(each.candidate.bad.unlabelled_share),
            _share(each.candidate.bad.share_of_all),
        )
        for each in [found.everything, *found.categories]
    ]
    text = (
        "Bad answers among those that tier-1 gives, by the labels of audits, each with the inverse of its propensity. "
        '"Worth" is how many labels, all drawn with one probability, would say as much; "of all answers" takes those '
        "that no label can speak for once as all good and once as all bad. It is an estimate: what is promised, "
        "certificates say."
    )
    return section("How good tier-1's answers would have been", text, table(columns, numbers))


def _check(found: Replay) -> Markup:
    title = "The log itself: replayed, and happened"
    if found.check is None:
        return section(title, "No policy of the log is on the policy topic: there is no such check.")
    check = found.check
    text = (
        f"{check.tickets} tickets under the policies that they were under ({check.policy_unknown} whose policy is "
        f"unknown are left out): {check.tickets - check.ends_differ} end as they did. Audits are what is expected "
        "on the one side and what chance drew on the other; all else must be the same."
    )
    numbers = list(_beside(check.happened, check.replayed))
    return section(title, text, table(("", "happened", "replayed"), numbers))
