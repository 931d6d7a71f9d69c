"""What the checker's benchmark reads in an answer, and how it counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.checker import catch
from benchmarks.checker_gsm8k import NAMES, calculations, clues


@pytest.mark.parametrize(
    ("answer", "sums"),
    [
        ("He eats 16 - 3 = 13 eggs.", [(13, 13)]),
        ("9 * $2 = $<<9*2=18>>18.", [(18, 18)]),
        ("3 x 60 = <<3*60=180>>180 meters.", [(180, 180)]),
        ("5 classes * 15 students = 70 students", [(75, 70)]),
        ("84 \\* (5/14) = 30", [(30, 30)]),
        ("80,000 + 50,000 = $130,000", [(130_000, 130_000)]),
        ("20% * 50 = 10", [(10, 10)]),
        ("2 + 3 = 1 + 4 = 6", [(5, 5), (5, 6)]),
        ("8 / 0 = 0", []),
        ("There are 12 of them, and x = 4.", []),
        ("2 ** 9999999 = 3", []),
        ("", []),
    ],
)
def test_sums_are_read_as_people_write_them(answer: str, sums: list[tuple[float, float]]) -> None:
    """With units, currency, thousands separators and GSM8K's annotations; what is no sum is none."""
    assert [(round(s.computed, 2), round(s.stated, 2)) for s in calculations(answer)] == sums


def test_a_sum_that_does_not_come_out_is_told() -> None:
    """Rounded to cents is right, ten off is not."""
    right, rounded, wrong = calculations("3 * 4 = 12, 8 / 3 = 2.67, 7 * 8 = 46")
    assert (right.right, rounded.right, wrong.right) == (True, True, False)


def test_the_final_number_is_compared_with_the_sums() -> None:
    """An answer that ends on another number than it computed is suspect."""
    good = dict(zip(NAMES, clues("3 boxes of 4?", "3 * 4 = 12\n#### 12"), strict=False))
    bad = dict(zip(NAMES, clues("3 boxes of 4?", "3 * 4 = 12\n#### 14"), strict=False))
    none = dict(zip(NAMES, clues("3 boxes of 4?", "3 * 4 = 12, so"), strict=False))
    assert [c["final_is_last_result"] for c in (good, bad, none)] == [1, 0, 0]
    assert [c["final_stated"] for c in (good, bad, none)] == [1, 1, 0]
    assert good["prompt_numbers_outside_sums"] == good["ungrounded_operands"] == 0


@given(st.text(max_size=200), st.text("0123456789.+-*/()= $%x#<>", max_size=80))
def test_every_answer_has_its_clues(prompt: str, answer: str) -> None:
    """Finite numbers, one for each name but the encoder's, whatever the model wrote."""
    found = clues(prompt, answer)
    assert len(found) == len(NAMES) - 1
    assert np.isfinite(found).all()


def test_the_catch_is_what_one_threshold_refuses() -> None:
    """Of the bad rows, at most as many good ones lost as allowed; rows with equal scores go together."""
    score, good = np.array([0.1, 0.2, 0.2, 0.3, 0.9]), np.array([False, False, True, True, True])
    assert catch(score, good, 0.0) == 0.5
    assert catch(score, good, 0.3) == 0.5
    assert catch(score, good, 1 / 3) == 1.0
    assert catch(-score, good, 0.5) == 0.0
