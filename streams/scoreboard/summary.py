"""The figures that the console shows, from cells and labels: one value, made anew for each request."""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from streams.scoreboard.quality import Judged, qualities
from streams.scoreboard.tally import PICO, WINDOW_S, Cell, CellKey, merge, quantile_s
from workers.learning.estimates import Estimate

SPANS_S = {"5m": 300, "1h": 3600, "24h": 24 * 3600}
"""What can be asked for."""

TIERS = ("tier1", "tier2")
MOST_BARS = 72
"""The chart's: a day by 20 minutes."""


class Row(Struct, frozen=True, kw_only=True):
    """A tier of a category, or a tier of all."""

    tier: str
    routed: int
    answered: int
    escalated: int
    handed_off: int
    p50_s: float | None
    p95_s: float | None
    quality: Estimate | None


class Category(Struct, frozen=True, kw_only=True):
    """A category, or all of them under the name "". `tiers` holds tier-1, then tier-2."""

    name: str
    volume: int
    answered: int
    tier1_share: float | None
    """Of the answers, those from tier-1."""
    escalated: int
    handed_off: int
    dead_lettered: int
    shadowed: int
    reasons: dict[str, int]
    costs_usd: dict[str, float]
    """By stage; the judge's is the audits'."""
    cost_usd: float
    cost_per_1000_usd: float | None
    """Per finished ticket."""
    tier2_price_usd: float | None
    """Mean cost of a ticket that took tier-2: the category's, or all categories' where it has none."""
    all_tier2_usd: float | None
    saved_usd: float | None
    """Against all finished tickets on tier-2; below 0 where it cost more. Tickets that reach tier-2 are the harder
    ones, so this is rather too high."""
    tiers: tuple[Row, ...]


class Bar(Struct, frozen=True, kw_only=True):
    """Answers in a stretch of time, by who gave them."""

    start_s: int
    tier1: int
    tier2: int


class Summary(Struct, frozen=True, kw_only=True):
    """What `/api/summary` answers. `total` is of all categories."""

    span: str
    until_s: int
    """The end of the latest window, which is still open."""
    total: Category
    categories: tuple[Category, ...]
    bars: tuple[Bar, ...]
    bar_s: int
    unreadable: int
    """Records that are none of ours, since the topics' beginning."""
    repeated: int
    """Events that were there already, since the topics' beginning."""
    labels: int
    """Audits' labels in force, of all time that is remembered."""


def summary(
    cells: Iterable[tuple[CellKey, Cell]],
    labels: Iterable[Judged],
    span: str,
    now_s: float,
    unreadable: int = 0,
    repeated: int = 0,
) -> Summary:
    """The windows that end in the last `span` before now; a key may come several times, once a partition.

    Raises: KeyError for a span that is none of SPANS_S.
    """
    length_s = SPANS_S[span]
    until_s = int(now_s // WINDOW_S + 1) * WINDOW_S
    chosen = [(key, cell) for key, cell in cells if until_s - length_s <= key.start_s < until_s]
    labels = list(labels)
    quality = qualities(labels)
    price = _price(merge(cell for _, cell in chosen))
    names = sorted({key.category for key, _ in chosen if key.category})
    categories = tuple(_category(n, [p for p in chosen if p[0].category == n], quality, price) for n in names)
    bar_s = max(WINDOW_S, -(-length_s // MOST_BARS // WINDOW_S) * WINDOW_S)
    return Summary(
        span=span,
        until_s=until_s,
        total=_total(chosen, categories, quality, price),
        categories=categories,
        bars=_bars(chosen, until_s - length_s, until_s, bar_s),
        bar_s=bar_s,
        unreadable=unreadable,
        repeated=repeated,
        labels=len(labels),
    )


def _price(cell: Cell) -> float | None:
    return cell.cost_pico.get("tier2", 0) / PICO / cell.took_tier2 if cell.took_tier2 else None


def _total(
    chosen: list[tuple[CellKey, Cell]],
    categories: Iterable[Category],
    quality: Mapping[tuple[str, str], Estimate],
    price: float | None,
) -> Category:
    total = _category("", chosen, quality, price)
    # The sum over categories: they don't have one price.
    known = [c for c in categories if c.all_tier2_usd is not None]
    all_tier2 = sum(c.all_tier2_usd or 0.0 for c in known) if known else None
    saved = all_tier2 - total.cost_usd if all_tier2 is not None else None
    return replace(total, all_tier2_usd=all_tier2, saved_usd=saved)


def _category(
    name: str,
    chosen: list[tuple[CellKey, Cell]],
    quality: Mapping[tuple[str, str], Estimate],
    price_of_all: float | None,
) -> Category:
    cell = merge(c for _, c in chosen)
    by_tier = {tier: merge(c for key, c in chosen if key.tier == tier) for tier in TIERS}
    finished = cell.answered + cell.handed_off
    cost_usd = sum(cell.cost_pico.values()) / PICO
    own = _price(cell)
    price = price_of_all if own is None else own
    all_tier2 = price * finished if price is not None else None
    return Category(
        name=name,
        volume=cell.routed,
        answered=cell.answered,
        tier1_share=by_tier["tier1"].answered / cell.answered if cell.answered else None,
        escalated=cell.escalated,
        handed_off=cell.handed_off,
        dead_lettered=cell.dead_lettered,
        shadowed=cell.shadowed,
        reasons=dict(sorted(cell.reasons.items(), key=lambda item: (-item[1], item[0]))),
        costs_usd={stage: pico / PICO for stage, pico in sorted(cell.cost_pico.items())},
        cost_usd=cost_usd,
        cost_per_1000_usd=cost_usd / finished * 1000 if finished else None,
        tier2_price_usd=price,
        all_tier2_usd=all_tier2,
        saved_usd=all_tier2 - cost_usd if all_tier2 is not None else None,
        tiers=tuple(_row(tier, by_tier[tier], quality.get((name, tier))) for tier in TIERS),
    )


def _row(tier: str, cell: Cell, quality: Estimate | None) -> Row:
    return Row(
        tier=tier,
        routed=cell.routed,
        answered=cell.answered,
        escalated=cell.escalated,
        handed_off=cell.handed_off,
        p50_s=quantile_s(cell.ages, 0.5),
        p95_s=quantile_s(cell.ages, 0.95),
        quality=quality,
    )


def _bars(chosen: list[tuple[CellKey, Cell]], from_s: int, until_s: int, bar_s: int) -> tuple[Bar, ...]:
    answered: dict[tuple[int, str], int] = {}
    for key, cell in chosen:
        place = (key.start_s - from_s) // bar_s, key.tier
        answered[place] = answered.get(place, 0) + cell.answered
    return tuple(
        Bar(start_s=start_s, tier1=answered.get((n, "tier1"), 0), tier2=answered.get((n, "tier2"), 0))
        for n, start_s in enumerate(range(from_s, until_s, bar_s))
    )
