"""A window of the log under a candidate policy: shares, costs and bad answers, each as far as the log supports it.

What the log has of a ticket counts as it was: its decision's grounds, its draft's score, what its stages cost. Tickets
that the candidate tries on tier-1 and the log didn't are estimated from those of them that were drawn for audits, each
weighted by the inverse of its propensity (Hajek's self-normalised estimator; `estimates.share` has the interval and its
sources). It needs no count of those who should have been drawn, and stays within 0 and 1; unlike Horvitz and
Thompson's it is not exactly unbiased in small samples, so fewer than LEAST are no sample. What never could be drawn is
bounded by its best and its worst case, and counted.

A draft is taken to be the one that the log has: another run of the model might have given another one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from schemas.policy import Policy
from schemas.replays import BadAnswers, Check, Group, Outcome, Parts, Range, Replay
from schemas.tickets import TicketKey
from workers.learning.estimates import Estimate, share, weighted_share
from workers.learning.replay_costs import Floats, Prices, going_up, least_and_most, prices_of, spent
from workers.learning.replay_fates import (
    Reading,
    Replayed,
    Unsupported,
    as_happened,
    is_rescored,
    under_candidate,
    under_own,
)
from workers.learning.replay_log import Logged

LEAST = 30
"""Labels, or drawn drafts, that are enough for an estimate, by their effective number (a guess: below it an interval is
as wide as the question)."""

OPEN = ("unseen", "unknown", "undecided")
"""Fates that leave the tier that answers open."""


class Sample(NamedTuple):
    """What the drawn tickets say of all that might have been drawn."""

    tickets: int
    drawn: int
    shipped: Estimate
    """The share whose draft would be shipped."""
    saved: Estimate
    """The share of the dollars for tier-2 that these drafts would save."""


def replay(
    tickets: Sequence[Logged],
    candidate: Policy,
    known: Mapping[str, Policy],
    texts: Mapping[TicketKey, Reading],
    window: tuple[datetime, datetime],
    left_out: Mapping[str, int],
) -> Replay:
    """`tickets` in the order in which they were routed, `known` the log's policies by version, `texts` what is known
    of tickets whose text decides.

    Raises: ValueError if there are no tickets.
    """
    if not tickets:
        raise ValueError("no ticket of the window has ended: there is nothing to replay")
    prices, rows = prices_of(tickets), under_candidate(tickets, candidate, known, texts)
    by_category = defaultdict[str, list[Replayed]](list)
    for row in rows:
        by_category[row.ticket.category].append(row)
    everything = group("", rows, prices)
    check = _check(tickets, known, prices)
    priced = sum(row.fate in ("straight", "escalated") and row.ticket.shipped for row in rows)
    return Replay(
        start=window[0],
        end=window[1],
        policy=candidate.version,
        log_policies=dict(sorted(Counter(t.policy_version for t in tickets).items())),
        left_out=dict(left_out),
        rescored=sum(is_rescored(t, candidate) and t.key in texts for t in tickets),
        priced=priced,
        everything=everything,
        categories=tuple(group(name, by_category[name], prices) for name in sorted(by_category)),
        check=check,
        notes=tuple(_notes(everything, check, candidate, prices, priced)),
    )


def group(category: str, rows: Sequence[Replayed], prices: Prices) -> Group:
    """The figures of some tickets."""
    rows, sample = _sampled(rows, prices)
    happened = as_happened(row.ticket for row in rows)
    return Group(
        category=category,
        tickets=len(rows),
        happened=_happened(happened),
        candidate=outcome(rows, prices, sample),
        sampled=sample.tickets if sample else 0,
        drawn=sample.drawn if sample else 0,
        unsupported=dict(sorted(Counter(str(row.why) for row in rows if row.why).items())),
    )


def _sampled(rows: Sequence[Replayed], prices: Prices) -> tuple[list[Replayed], Sample | None]:
    """The rows, and what their sample says. One that is too small is none: who was drawn counts as he is, and of the
    others nothing is known."""
    inside = [row for row in rows if row.in_sample]
    drawn = [row for row in inside if row.fate != "unseen"]
    shipped, weights = [row.fate == "shipped" for row in drawn], [1 / row.ticket.propensity for row in drawn]
    by_ticket = weighted_share(shipped, weights) if drawn else None
    if by_ticket is None or by_ticket.effective_n < LEAST:
        few = Unsupported.FEW_DRAWN
        alone = [r._replace(in_sample=False) for r in rows]
        return [r._replace(fate="unknown", why=few) if r.fate == "unseen" else r for r in alone], None
    dollars = [w * float(going_up(row, prices).sum()) for w, row in zip(weights, drawn, strict=True)]
    # A ticket for which tier-2 costs nothing saves nothing. Where none costs anything, any share of it is right.
    paid = [ships for ships, usd in zip(shipped, dollars, strict=True) if usd]
    by_dollar = weighted_share(paid, [usd for usd in dollars if usd]) if paid else by_ticket
    return list(rows), Sample(len(inside), len(drawn), by_ticket, by_dollar)


def outcome(rows: Sequence[Replayed], prices: Prices, sample: Sample | None) -> Outcome:
    """What becomes of tickets under a policy; `sample` is of those of them that are `in_sample`."""
    cheap, dear = np.zeros(5), np.zeros(5)
    sampled_cheap, sampled_dear = np.zeros(5), np.zeros(5)
    for row in rows:
        low, high = least_and_most(row, prices)
        if row.in_sample:
            sampled_cheap, sampled_dear = sampled_cheap + low, sampled_dear + high
        else:
            cheap, dear = cheap + low, dear + high
    saving, per = sampled_dear - sampled_cheap, 1_000 / len(rows)
    saved = (sample.saved.value, sample.saved.low, sample.saved.high) if sample else (0.0, 0.0, 0.0)
    total = dear + sampled_dear - saving * saved[0]
    is_known = not any(row.fate in OPEN and not row.in_sample for row in rows)
    cost = Range(
        value=float(total.sum()) * per if is_known else None,
        low=float((cheap + sampled_dear - saving * saved[2]).sum()) * per,
        high=float((dear + sampled_dear - saving * saved[1]).sum()) * per,
    )
    return Outcome(
        **_shares(rows, sample),
        cost_per_1000_usd=cost,
        parts=_parts(total * per) if is_known else None,
        bad=_bad(rows, sample),
    )


def _parts(usd: Floats) -> Parts:
    return Parts(**dict(zip(Parts.__struct_fields__, map(float, usd), strict=True)))


def _shares(rows: Sequence[Replayed], sample: Sample | None) -> dict[str, Range]:
    fates = Counter(row.fate for row in rows if not row.in_sample)
    tickets, sampled, open_ = len(rows), sample.tickets if sample else 0, fates["unknown"] + fates["undecided"]
    found = sample.shipped if sample else None
    value, low, high = (found.value, found.low, found.high) if found else (0.0, 0.0, 0.0)

    def between(certain: int, value: float, low: float, high: float, open_: int) -> Range:
        at = [(certain + sampled * part) / tickets for part in (value, low, high)]
        return Range(value=None if open_ else at[0], low=at[1], high=at[2] + open_ / tickets)

    straight = fates["straight"] / tickets
    undecided = fates["undecided"] / tickets
    return {
        "tier1_share": between(fates["shipped"], value, low, high, open_),
        "escalated_share": between(fates["escalated"], 1 - value, 1 - high, 1 - low, open_),
        "straight_share": Range(value=None if undecided else straight, low=straight, high=straight + undecided),
    }


def _happened(rows: Sequence[Replayed]) -> Outcome:
    """What became of tickets, and what they really cost."""
    total = sum((spent(row) for row in rows), np.zeros(5))
    parts = total * 1_000 / len(rows)
    cost = float(parts.sum())
    return Outcome(
        **_shares(rows, None),
        cost_per_1000_usd=Range(value=cost, low=cost, high=cost),
        parts=_parts(parts),
        bad=_bad(rows, None),
    )


def _bad(rows: Sequence[Replayed], sample: Sample | None) -> BadAnswers:
    """From the labels of the drafts that are shipped, each weighted by the inverse of its propensity. That an audit is
    still unjudged must have nothing to do with its draft."""
    shipped = [row.ticket for row in rows if row.fate == "shipped"]
    labelled = [t for t in shipped if t.acceptable is not None and t.propensity > 0]
    certain = [row.ticket for row in rows if row.fate == "shipped" and not row.in_sample]
    # At the least: the others' share is to be the most that it can be.
    speakable = sum(t.propensity > 0 for t in certain) + (sample.tickets * sample.shipped.low if sample else 0.0)
    silent = sum(t.propensity == 0 for t in certain) + sum(row.fate in OPEN and not row.in_sample for row in rows)
    unlabelled = silent / (silent + speakable) if silent else 0.0
    found = share([not t.acceptable for t in labelled], [t.propensity for t in labelled]) if labelled else None
    if found is None or found.effective_n < LEAST:
        low, value, high = 0.0, None, 1.0
    else:
        low, value, high = found.low, found.value, found.high
    return BadAnswers(
        share=None if value is None else Range(value=value, low=low, high=high),
        labels=len(labelled),
        effective_labels=found.effective_n if found else 0.0,
        unlabelled_share=unlabelled,
        share_of_all=Range(
            value=None if unlabelled else value,
            low=(1 - unlabelled) * low,
            high=(1 - unlabelled) * high + unlabelled,
        ),
    )


def _check(tickets: Sequence[Logged], known: Mapping[str, Policy], prices: Prices) -> Check | None:
    rows = under_own(tickets, known)
    if not rows:
        return None
    happened = as_happened(row.ticket for row in rows)
    differ = sum(one.fate != other.fate for one, other in zip(rows, happened, strict=True))
    rows, sample = _sampled(rows, prices)
    return Check(
        tickets=len(rows),
        policy_unknown=len(tickets) - len(rows),
        ends_differ=differ,
        replayed=outcome(rows, prices, sample),
        happened=_happened(happened),
    )


def _notes(all_: Group, check: Check | None, candidate: Policy, prices: Prices, priced: int) -> Iterator[str]:
    """What the log can't say, in words."""
    for reason, count in all_.unsupported.items():
        yield f"{count} of {all_.tickets} tickets: {reason}; the ranges hold their best and worst case"
    bad = all_.candidate.bad
    if bad.share is None:
        yield (
            f"nothing is said of how good tier-1's answers would be: {bad.labels} labels of them, worth "
            f"{bad.effective_labels:.0f}, are fewer than {LEAST}"
        )
    if bad.unlabelled_share:
        yield f"no label can speak for {bad.unlabelled_share:.1%} of the answers that tier-1 would give"
    if priced:
        yield (
            f"{priced} tickets that tier-1 answered would reach tier-2, at their category's mean price there; those "
            "that did reach it are the harder ones, so that is rather too high"
        )
    if not prices.tier2:
        yield "no ticket of the window reached tier-2: its price is unknown, and counts as 0"
    if not prices.tier1:
        yield "no ticket of the window has a tier-1 draft: its price is unknown, and counts as 0"
    if candidate.tier2_share < 1:
        yield "tier-2's share is kept as one router process would keep it; several keep one each"
    if check is None:
        yield "no policy of the log is on the policy topic, so the replay could not be checked against what happened"
    elif check.ends_differ:
        yield f"{check.ends_differ} of {check.tickets} tickets end otherwise in the replay of the log's own policies"
