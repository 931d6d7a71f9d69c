"""The card of a trained router, and its charts. Charts need matplotlib, from the `learn` extra."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.test_learning_measures import Scored, row
from workers.learning.card import Training, card_of, limits, markdown, write_card
from workers.learning.labels import LabelledOutcome
from workers.learning.measures import Bin, Bucket, Duel
from workers.learning.plots import wilson

TRAINING = Training(
    version="0123456789ab",
    level="heads",
    encoder="MiniLM",
    command="headgate learn router --labels l.jsonl --out m",
    seed=7,
    agreement_int8_float32=0.9942,
)


def rows(n: int, both: bool = True) -> list[LabelledOutcome]:
    rng = np.random.default_rng(n)
    return [
        row(
            text=f"my secret {i}",
            category="billing",
            tier1_ok=bool(rng.random() < 0.6),
            tier2_ok=True if both else None,
        )
        for i in range(n)
    ]


def scores(n: int) -> list[Scored]:
    return [Scored(p_ok=float(p)) for p in np.random.default_rng(5).random(n)]


def card(train: list[LabelledOutcome], validation: list[LabelledOutcome]) -> Any:
    return card_of(train, validation, scores(len(validation)), TRAINING, date(2026, 11, 25))


def test_the_same_data_has_the_same_hash() -> None:
    """And any other outcome, another one."""
    first = card(rows(20), rows(10))
    assert first.data_sha256 == card(rows(20), rows(10)).data_sha256
    changed = [*rows(20)[:-1], row(text="my secret 19", category="billing")]
    assert first.data_sha256 != card(changed, rows(10)).data_sha256


def test_texts_on_both_sides_of_the_split_are_counted() -> None:
    """Measured, not promised: a model may have learned those by heart."""
    assert card(rows(20), rows(10)).split == "10 of 30 rows held out; texts on both sides: 10."
    assert card([row(text="x")], rows(10)).split == "10 of 11 rows held out; texts on both sides: 0."


def test_limits_say_what_the_rows_can_not_tell() -> None:
    """No outcomes at all, few of them, none of tier-2, or such as were seen by rare chance."""
    assert "every ticket goes to tier-2" in limits([row()], [row()])[0]
    few = "\n".join(limits(rows(20, both=False), rows(10, both=False)))
    assert "Only 10 validation rows" in few
    assert "No outcome of tier-2 is known" in few
    assert "down to 0.02" in "\n".join(limits([row(tier1_ok=True, propensity=0.02)], rows(200)))
    assert len(limits(rows(200), rows(200))) == 2


def test_the_card_for_people_holds_every_figure_and_no_ticket() -> None:
    """And the charts beside it."""
    made = card(rows(300), rows(150))
    text = markdown(made, ["pgr.svg"])
    assert all(f"| {name} |" in text for name in made.metrics)
    assert "`headgate learn router --labels l.jsonl --out m`" in text
    assert "99.4%" in text
    assert "![pgr](pgr.svg)" in text
    assert "secret" not in text


def test_a_card_without_outcomes_is_still_a_card() -> None:
    """That of a cold start."""
    made = card([row(category="billing")], [row(category="billing")])
    assert set(made.metrics) == {"category_accuracy"}
    assert made.effective_size == 0
    assert "p_ok means nothing" in markdown(made, [])


def test_card_and_charts_are_the_same_bytes_for_the_same_figures(tmp_path: Path) -> None:
    """Nothing but the date would change in a repository; no ticket's text is in any file."""
    pytest.importorskip("matplotlib")
    written = []
    for name in ("a", "b"):
        out = tmp_path / name
        out.mkdir()
        write_card(rows(300), rows(150), scores(150), TRAINING, out)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(written[0]) == {"card.json", "card.md", "pgr.svg", "reliability.svg", "by_length.svg"}
    assert written[0] == written[1]
    assert not any(b"secret" in data for data in written[0].values())
    found = json.loads(written[0]["card.json"])
    assert found["training"]["version"] == TRAINING.version
    assert found["metrics"]["apgr"]["rows"] == 150
    # Rounded: the last digits differ from machine to machine.
    assert not re.search(rb"\.\d{5}", written[0]["card.json"].split(b'"versions"')[0])


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_chart_is_what_its_suffix_says(tmp_path: Path, suffix: str) -> None:
    """Of one tier, of one bucket, of rows on which some redraws have no gap."""
    pytest.importorskip("matplotlib")
    from workers.learning import plots

    starts = {"svg": b"<?xml", "png": b"\x89PNG"}[suffix]
    tiny = Duel(np.array([0.9, 0.1, 0.5]), np.array([0.0, 1, 1]), np.array([1.0, 1, 0.5]), np.ones(3))
    drawn = [
        plots.pgr(tiny, tmp_path / f"pgr.{suffix}"),
        plots.reliability({"tier1": [Bin(4, 0.5, 1.0)], "tier2": []}, tmp_path / f"reliability.{suffix}"),
        plots.by_length([Bucket(0, 4, 1, 0.5, 0.0, 0.25)], tmp_path / f"by_length.{suffix}"),
    ]
    assert all(path.read_bytes().startswith(starts) for path in drawn)


def test_an_interval_of_a_share_has_a_width_at_0_and_1_too() -> None:
    """And holds the share. The figures are Wilson's for 10 of 10 and 5 of 10."""
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 10.0, 10.0]))
    assert low == pytest.approx([0.0, 0.2366, 0.7225], abs=1e-3)
    assert high == pytest.approx([0.2775, 0.7634, 1.0], abs=1e-3)
