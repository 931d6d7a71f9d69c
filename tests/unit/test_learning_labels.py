"""Labelled outcomes: read from files, weighed, split."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.learning.labels import (
    LabelledOutcome,
    OutcomesError,
    counts,
    effective_size,
    outcome_of,
    read_outcomes,
    split,
    weights,
)


def an_outcome(text: str = "Where is my router?", **fields: Any) -> LabelledOutcome:
    return LabelledOutcome(**{"text": text, **fields})


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_line_is_a_text_with_what_is_known_of_it() -> None:
    """What is left out is not known, and unknown fields are passed over."""
    assert outcome_of(line(text="Hello", ticket_id="7"), "f:1") == an_outcome("Hello")
    full = {"tier1_ok": False, "tier2_ok": True, "category": "billing", "passage": "billing.a", "propensity": 0.5}
    assert outcome_of(line(text="Hello", group="c1", **full), "f:1") == an_outcome("Hello", group="c1", **full)


def test_a_line_may_hold_a_tickets_parts() -> None:
    """They are joined as the router joins them."""
    read = outcome_of(line(subject="Router", body="Where is it?", context=["Order 7"]), "f:1")
    assert read.text == "Router\nWhere is it?\nOrder 7"


def test_a_passage_names_its_category() -> None:
    """A line with a passage needs no category beside it."""
    assert outcome_of(line(text="Hello", passage="billing.a"), "f:1").category == "billing"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (line(text="secret", tier1_ok="yes"), r"f:3: .*bool.*`\$\.tier1_ok`"),
        (line(text="secret", propensity=0), r"f:3: .*`\$\.propensity`"),
        (line(text="secret", propensity=1.5), r"f:3: .*`\$\.propensity`"),
        (line(subject="secret", text="secret"), "f:3: both"),
        (line(tier1_ok=True), "f:3: no text"),
        (line(body=" \n"), "f:3: no text"),
        (line(text="secret", category="a.b"), "f:3: category holds a dot"),
        (line(text="secret", category="a", passage="b.c"), "f:3: passage is not of its category"),
        (b"[1, 2]", "f:3: .*object"),
        (b'{"text": "secret', "f:3: .*"),
        (b'{"text": "secret\xff"}', "f:3: .*"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_without_its_text(data: bytes, message: str) -> None:
    """File, line and field are in the error; what the customer wrote is not."""
    with pytest.raises(OutcomesError, match=message) as error:
        outcome_of(data, "f:3")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.jsonl.gz"])
def test_a_file_is_read_line_by_line(tmp_path: Path, name: str) -> None:
    """Compressed or not; blank lines count for the numbers and for nothing else."""
    path = tmp_path / name
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "wb") as file:
        file.write(line(text="a") + b"\n\n" + line(text="b", tier1_ok=True) + b"\n")
    assert read_outcomes(path) == [an_outcome("a"), an_outcome("b", tier1_ok=True)]
    with opened(path, "wb") as file:
        file.write(line(text="a") + b"\n\n" + b"{\n")
    with pytest.raises(OutcomesError, match=rf"{name}:3: "):
        read_outcomes(path)


def test_a_file_that_is_missing_empty_or_torn_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A compressed file of which only the start is there is not half the labels."""
    with pytest.raises(OutcomesError, match=r"missing\.jsonl: can't be read: No such file"):
        read_outcomes(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    with pytest.raises(OutcomesError, match=r"empty\.jsonl: no lines"):
        read_outcomes(tmp_path / "empty.jsonl")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(line(text="a" * 100))[:-12])
    with pytest.raises(OutcomesError, match=r"torn\.jsonl\.gz: can't be read"):
        read_outcomes(tmp_path / "torn.jsonl.gz")
    (tmp_path / "plain.jsonl.gz").write_bytes(line(text="a"))
    with pytest.raises(OutcomesError, match=r"plain\.jsonl\.gz: can't be read: .*gzip"):
        read_outcomes(tmp_path / "plain.jsonl.gz")


def test_a_rare_observation_counts_for_those_that_were_not_made() -> None:
    """One of two seen: each seen one counts double; the mean is 1."""
    weight = weights([an_outcome(propensity=1.0)] * 2 + [an_outcome(propensity=0.5)] * 2)
    assert weight == pytest.approx([2 / 3, 2 / 3, 4 / 3, 4 / 3])


def test_no_row_outweighs_all_others() -> None:
    """The cut is sqrt(n) times the mean: here 10 times, of a row that would count for 10,000."""
    rows = [an_outcome(propensity=1.0)] * 99 + [an_outcome(propensity=1e-4)]
    weight = weights(rows)
    inverse_mean = (99 + 1e4) / 100
    assert weight[-1] / weight[0] == pytest.approx(10 * inverse_mean)
    assert weight.mean() == pytest.approx(1.0)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30))
def test_weights_are_positive_with_mean_one(propensities: list[float]) -> None:
    """And the effective size is between 1 and the number of rows."""
    weight = weights([an_outcome(propensity=p) for p in propensities])
    assert (weight > 0).all()
    assert weight.mean() == pytest.approx(1.0)
    assert 1 - 1e-9 <= effective_size(weight) <= len(weight) * (1 + 1e-9)


def test_the_effective_size_is_that_of_as_many_equal_rows() -> None:
    """Two rows of 1 and two of almost nothing are worth two."""
    assert effective_size(np.ones(7)) == pytest.approx(7)
    assert effective_size(np.array([1, 1, 1e-9, 1e-9])) == pytest.approx(2)


def test_a_split_keeps_the_share_of_each_label() -> None:
    """80 acceptable, 20 not and 40 unknown rows: a quarter of each is held out."""
    known = {True: 80, False: 20, None: 40}
    rows = [an_outcome(f"{label} {i}", tier1_ok=label) for label, n in known.items() for i in range(n)]
    kept, held_out = split(rows, 0.25, seed=1)
    assert len(kept) + len(held_out) == 140
    assert {label: sum(row.tier1_ok is label for row in held_out) for label in known} == {True: 20, False: 5, None: 10}


ROWS = st.lists(
    st.builds(
        an_outcome,
        text=st.sampled_from(["a", "A ", "b", "c", "d", "e", "f", "g", "h"]),
        group=st.sampled_from(["", "", "", "1", "2", "3"]),
        tier1_ok=st.sampled_from([True, False, None]),
    ),
    min_size=8,
    max_size=40,
)


@given(rows=ROWS, seed=st.integers(0, 5), shuffled=st.randoms(use_true_random=False))
def test_a_split_tears_nothing_apart_and_does_not_depend_on_the_order(
    rows: list[LabelledOutcome], seed: int, shuffled: Any
) -> None:
    """Rows of one text, but for case and spaces, or of one group are on one side; no row is lost."""
    try:
        kept, held_out = split(rows, 0.3, seed)
    except ValueError:
        return
    assert len(kept) + len(held_out) == len(rows)
    for of in (lambda row: row.text.strip().casefold(), lambda row: row.group):
        assert not ({of(row) for row in kept} & {of(row) for row in held_out}) - {""}
    again = list(rows)
    shuffled.shuffle(again)
    assert {row.text for row in split(again, 0.3, seed)[1]} == {row.text for row in held_out}


def test_another_seed_is_another_split() -> None:
    """And the same seed the same one."""
    rows = [an_outcome(str(i), tier1_ok=True) for i in range(50)]
    assert split(rows, 0.2, 1) == split(rows, 0.2, 1)
    assert split(rows, 0.2, 1) != split(rows, 0.2, 2)


def test_rows_that_cannot_be_split_are_an_error() -> None:
    """All of one customer: whichever side they go to, the other is empty."""
    with pytest.raises(ValueError, match=r"9 rows can't be split with 0\.2 of them"):
        split([an_outcome(str(i), group="c1") for i in range(9)], 0.2, 1)


def test_counts_say_what_is_known_of_how_many() -> None:
    """A row counts for everything that is known of it."""
    rows = [an_outcome(tier1_ok=True, category="a"), an_outcome(tier1_ok=False, tier2_ok=True), an_outcome()]
    assert counts(rows) == {
        "tickets": 3,
        "tier1_ok": 1,
        "tier1_not_ok": 1,
        "tier2_ok": 1,
        "tier2_not_ok": 0,
        "with_category": 1,
        "with_passage": 0,
    }
