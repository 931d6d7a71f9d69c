"""The card of a trained router: what it learned from, how good it is on other tickets, and what that doesn't say.

Written beside the model as card.json for programs, card.md for people, and charts. No ticket's text is in it.
"""

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from workers.learning import plots
from workers.learning.labels import LabelledOutcome, counts, effective_size, weights
from workers.learning.measures import Bin, Bucket, Figure, Scored, by_length, duel, metrics, reliability_bins

PACKAGES = ("headgate", "numpy", "onnx", "onnxruntime", "scikit-learn", "tokenizers", "torch", "transformers")

FEW_ROWS = 100
"""Fewer validation rows than this leave a share's interval wider than +-10 points."""


class Training(Struct, frozen=True, kw_only=True):
    """What the trainer knows of a model that it has made."""

    version: str
    """The start of the model file's sha256."""
    level: str
    encoder: str
    command: str
    seed: int
    agreement_int8_float32: float


class Card(Struct, frozen=True, kw_only=True):
    """See the module's docstring; the fields that rows have twice are about training and validation rows."""

    training: Training
    date: date
    data_sha256: str
    trained_on: dict[str, int]
    validated_on: dict[str, int]
    categories: dict[str, int]
    """Rows of training and validation by category; the empty name is for those without."""
    split: str
    effective_size: float
    """Labelled validation rows, each for what it counts (Kish)."""
    metrics: dict[str, Figure]
    reliability: dict[str, list[Bin]]
    """By tier."""
    by_length: list[Bucket]
    versions: dict[str, str]
    limits: list[str]


def card_of(
    rows: Sequence[LabelledOutcome],
    validation: Sequence[LabelledOutcome],
    scores: Sequence[Scored],
    training: Training,
    today: date,
) -> Card:
    """The card; `scores` are the shipped model's of the validation rows."""
    labelled = [row for row in validation if row.tier1_ok is not None or row.tier2_ok is not None]
    return Card(
        training=training,
        date=today,
        data_sha256=_sha256(rows, validation),
        trained_on=counts(rows),
        validated_on=counts(validation),
        categories=dict(sorted(Counter(row.category for row in (*rows, *validation)).items())),
        split=_split(rows, validation),
        effective_size=effective_size(weights(labelled)) if labelled else 0.0,
        metrics=metrics(validation, scores),
        reliability={tier: reliability_bins(validation, scores, tier) for tier in ("tier1", "tier2")},
        by_length=by_length(validation, scores),
        versions=_versions(),
        limits=limits(rows, validation),
    )


def write_card(
    rows: Sequence[LabelledOutcome],
    validation: Sequence[LabelledOutcome],
    scores: Sequence[Scored],
    training: Training,
    out: Path,
) -> Card:
    """Write card.json, card.md and the charts that the rows allow to the folder `out`; returns the card."""
    card = card_of(rows, validation, scores, training, datetime.now(UTC).date())
    (out / "card.json").write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(card)), indent=2) + b"\n")
    charts = []
    if (both := duel(validation, scores)) is not None and "apgr" in card.metrics:
        charts.append(plots.pgr(both, out / "pgr.svg"))
    if any(card.reliability.values()):
        charts.append(plots.reliability(card.reliability, out / "reliability.svg"))
    if card.by_length:
        charts.append(plots.by_length(card.by_length, out / "by_length.svg"))
    (out / "card.md").write_text(markdown(card, [chart.name for chart in charts]))
    return card


def limits(rows: Sequence[LabelledOutcome], validation: Sequence[LabelledOutcome]) -> list[str]:
    """What the figures don't say, as far as the rows tell."""
    found = [
        "Intervals say what another draw of validation rows would change, nothing of another training run; rows of "
        "one group count as independent.",
        "Validation rows are of the same time and source as the training rows: nothing here is about new products, "
        "another language or a changed tier-1 model.",
    ]
    known = [row for row in (*rows, *validation) if row.tier1_ok is not None]
    held_out = sum(row.tier1_ok is not None for row in validation)
    if not known:
        return ["No outcome of tier-1 is known: p_ok means nothing, and every ticket goes to tier-2.", *found]
    if held_out < FEW_ROWS:
        found.append(f"Only {held_out} validation rows have an outcome of tier-1: the intervals are wide.")
    if not any(row.tier2_ok is not None for row in (*rows, *validation)):
        found.append("No outcome of tier-2 is known: whether it would do better is not measured.")
    rarest = min(row.propensity for row in known)
    if rarest < 1:
        found.append(
            f"Outcomes were observed with a probability down to {rarest:g}; rows count for its inverse, cut at "
            "sqrt(rows) times the mean. A wrong propensity makes every figure wrong."
        )
    return found


def markdown(card: Card, charts: Sequence[str]) -> str:
    """The card for people; `charts` are file names beside it."""
    made, on, held_out = card.training, card.trained_on, card.validated_on
    lines = [
        f"# Router model {made.version}",
        "",
        f"Made on {card.date.isoformat()} by `{made.command}` (level {made.level}, seed {made.seed}) on the encoder "
        f"{made.encoder}. int8 decides as float32 does on {made.agreement_int8_float32:.1%} of the rows compared.",
        "",
        "| rows | training | validation |",
        "|---|---|---|",
        *(f"| {name} | {on[name]} | {held_out[name]} |" for name in on),
        "",
        f"{card.split} Data sha256 `{card.data_sha256[:16]}`; effective sample size of the labelled validation rows: "
        f"{card.effective_size:.0f}.",
        "",
        "| on validation | estimate | 95 % interval | rows |",
        "|---|---|---|---|",
        *(f"| {name} | {x.estimate:.3f} | {_interval(x)} | {x.rows} |" for name, x in card.metrics.items()),
        "",
    ]
    for tier, bins in card.reliability.items():
        if bins:
            lines += [f"| {tier}: promised | came true | rows |", "|---|---|---|"]
            lines += [f"| {b.promised:.3f} | {b.observed:.3f} | {b.rows} |" for b in bins] + [""]
    if card.by_length:
        lines += ["| characters from | rows | cut | promised | came true | Brier |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {b.from_chars} | {b.rows} | {b.cut} | {b.promised:.3f} | {b.observed:.3f} | {b.brier:.3f} |"
            for b in card.by_length
        ]
        lines.append("")
    lines += [f"![{Path(chart).stem}]({chart})" for chart in charts]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card.limits)]
    lines += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in card.versions.items()) + "."]
    return "\n".join(lines) + "\n"


def _interval(figure: Figure) -> str:
    return "too few rows" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"


def _sha256(*parts: Sequence[LabelledOutcome]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _split(rows: Sequence[LabelledOutcome], validation: Sequence[LabelledOutcome]) -> str:
    both = {row.text for row in rows} & {row.text for row in validation}
    return f"{len(validation)} of {len(rows) + len(validation)} rows held out; texts on both sides: {len(both)}."


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _rounded(card: Card) -> object:
    """Plain data with figures to 4 decimals: more is noise, and differs from machine to machine."""

    def rounded(value: object) -> object:
        if isinstance(value, dict):
            return {name: rounded(each) for name, each in value.items()}
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return round(value, 4) if isinstance(value, float) else value

    return rounded(msgspec.to_builtins(card))
