"""Charts of a router's quality, as SVG or PNG by the file's suffix: the same figures give the same bytes.

Needs the `learn` extra.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.learning.measures import Bin, Bucket, Duel
from workers.learning.routing_metrics import Floats, Indices, oracle_curve, pgr_curve

SHARES = np.linspace(0, 1, 101)
RESAMPLES = 400
SEED = 7

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"
"""Told apart by colour-blind readers too (Okabe and Ito)."""

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    # Ids in an SVG are drawn from this; otherwise from a random number.
    "svg.hashsalt": "headgate",
}


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Between `low` and `high`, (len(SHARES),) each, lie 95 % of the curves."""

    low: Floats
    high: Floats


def redrawn(d: Duel, resamples: int = RESAMPLES) -> Band:
    """The curve on other draws of the rows. Draws on which tier-2 is no better have no curve and are left out."""
    rows = len(d.gain)

    def curve(rng: np.random.Generator) -> Floats:
        i: Indices = rng.integers(0, rows, rows)
        return pgr_curve(d.gain[i], d.weak[i], d.strong[i], d.weight[i]).at(SHARES)

    return _band(curve, resamples)


def shuffled(d: Duel, resamples: int = RESAMPLES) -> Band:
    """The curve of the same scores dealt to other rows: what a router without any skill may look like here."""
    return _band(lambda rng: pgr_curve(rng.permutation(d.gain), d.weak, d.strong, d.weight).at(SHARES), resamples)


def _band(curve: Callable[[np.random.Generator], Floats], resamples: int) -> Band:
    rng, drawn = np.random.default_rng(SEED), []
    for _ in range(resamples):
        try:
            drawn.append(curve(rng))
        except ValueError:
            continue
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return Band(low, high)


def pgr(d: Duel, path: Path) -> Path:
    """The share of tier-2's gain that is kept at each share of calls, beside the oracle and chance; returns `path`."""
    curve, oracle = pgr_curve(d.gain, d.weak, d.strong, d.weight), oracle_curve(d.weak, d.strong, d.weight)
    ours, luck = redrawn(d), shuffled(d)
    with _chart(path, 5.2, 4.0) as axes:
        axes.fill_between(
            100 * SHARES, 100 * luck.low, 100 * luck.high, color=GREY, alpha=0.18, lw=0, label="scores shuffled, 95 %"
        )
        axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls="--", label="random, APGR 0.500")
        axes.plot(100 * oracle.share, 100 * oracle.pgr, color=ORANGE, lw=1.3, label=f"oracle, APGR {oracle.apgr:.3f}")
        axes.fill_between(100 * SHARES, 100 * ours.low, 100 * ours.high, color=BLUE, alpha=0.2, lw=0)
        axes.plot(
            100 * curve.share, 100 * curve.pgr, color=BLUE, lw=1.8, label=f"router, APGR {curve.apgr:.3f} (95 % shaded)"
        )
        # A resample with hardly a gap has a wild curve: it must not set the scale.
        top = 100 * max(1.05, oracle.pgr.max() + 0.05)
        axes.set(xlim=(0, 100), ylim=(min(-5.0, 100 * float(curve.pgr.min()) - 5), top))
        axes.set(xlabel="tickets sent to tier-2 (%)", ylabel="of tier-2's gain kept (%)")
        axes.set_title(f"Gain kept by share of tier-2 calls ({len(d.gain)} tickets)")
        axes.legend(loc="lower right")
    return path


def reliability(tables: Mapping[str, Sequence[Bin]], path: Path) -> Path:
    """What was promised against what came true, a panel for each tier that is known, with 95 % intervals; below, how
    many tickets were promised it. Returns `path`."""
    known = [(tier, bins) for tier, bins in tables.items() if bins]
    with _figure(path, 0.6 + 3.2 * len(known), 4.2) as figure:
        panels = figure.subplots(2, len(known), sharex=True, sharey="row", squeeze=False, height_ratios=[5, 1])
        for (tier, bins), above, below, colour in zip(known, panels[0], panels[1], (BLUE, ORANGE), strict=False):
            promised, rows = [b.promised for b in bins], [b.rows for b in bins]
            above.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
            _observed(above, promised, bins, tier, colour)
            above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            above.set_title(f"{tier}, {sum(rows)} tickets")
            below.vlines(promised, 0, rows, color=colour, lw=3)
            below.set(ylim=(0, None), xlabel="promised probability")
        panels[0][0].set_ylabel("share of acceptable answers")
        panels[1][0].set_ylabel("tickets")
    return path


def by_length(buckets: Sequence[Bucket], path: Path) -> Path:
    """What p_ok promised and what tier-1 kept by the ticket's length, with the rows in each; returns `path`."""
    places = list(range(len(buckets)))
    with _chart(path, 5.2, 3.4) as axes:
        _observed(axes, [at - 0.08 for at in places], buckets, "acceptable from tier-1, 95 %", BLUE)
        promised, beside = [b.promised for b in buckets], [at + 0.08 for at in places]
        axes.plot(beside, promised, color=ORANGE, marker="D", ms=5, ls="none", label="promised")
        names = [f"{b.from_chars:,}+\nn = {b.rows}" + (f"\n{b.cut} cut" if b.cut else "") for b in buckets]
        axes.set_xticks(places, names)
        axes.set(xlim=(-0.5, len(places) - 0.5), ylim=(-0.02, 1.02))
        axes.set(xlabel="characters of the ticket", ylabel="share of acceptable answers")
        axes.set_title("Quality by the ticket's length")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="best")
    return path


def rounds(names: Sequence[str], figures: Mapping[str, Sequence[float]], path: Path) -> Path:
    """Shares, one line each over the named rounds; returns `path`."""
    with _chart(path, 5.2, 3.4) as axes:
        places = range(len(names))
        for (label, shares), colour in zip(figures.items(), (BLUE, ORANGE, GREY), strict=False):
            axes.plot(places, [100 * share for share in shares], color=colour, marker="o", ms=5, lw=1.8, label=label)
            for at, share in zip(places, shares, strict=True):
                axes.annotate(f"{100 * share:.1f}", (at, 100 * share), (0, 6), textcoords="offset points", ha="center")
        axes.set_xticks(places, names)
        # A round whose labels prove nothing costs more than tier-2 alone: its audits come on top.
        axes.set(ylim=(-3, 12 + 100 * max(1.0, *(max(shares) for shares in figures.values()))), ylabel="%")
        axes.set_title("The wheel turns")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="center left")
    return path


def _observed(axes: Any, places: Sequence[float], parts: Sequence[Bin | Bucket], label: str, colour: str) -> None:
    observed = np.array([p.observed for p in parts])
    low, high = wilson(observed, np.array([p.rows for p in parts], dtype=np.float64))
    ends = [observed - low, high - observed]
    axes.errorbar(places, observed, ends, color=colour, fmt="o", ms=5, elinewidth=1, capsize=2, label=label)


def wilson(share: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Ends of the 95 % intervals of shares of `rows` rows each, (n,). Holds at 0 and 1 too, where the usual one has no
    width. Source: Wilson, 1927."""
    z = 1.96
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return np.minimum(middle - half, share), np.maximum(middle + half, share)


@contextmanager
def _chart(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    """Axes to draw on; saved when the block ends."""
    with _figure(path, width_in, height_in) as figure:
        yield figure.add_subplot()


@contextmanager
def _figure(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    """An empty figure; saved when the block ends. No display is needed, and none of matplotlib's global state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure
        # A date or a version would make other bytes of the same figures.
        undated = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=200, metadata=undated)
