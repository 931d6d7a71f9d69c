"""The checker: gates for all, a score for tier-1 drafts that pass them, a verdict for each in its place."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.answers import GateReason
from schemas.policy import CategoryPolicy, Policy
from tests.fakes import FakeClassifier
from tests.records import a_decision, a_draft, a_routed
from workers.checker.checker import Checker, judge
from workers.checker.features import NAMES
from workers.checker.scorer import load_scorer
from workers.knowledge import Passage

POLICY = Policy(
    scope="*",
    version="v7",
    default=CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.6),
    categories={"billing": CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.95)},
)
PASSAGES = (Passage("orders.delivery", "orders", "delivery takes 2 business days"),)


class ByWords:
    """A scorer that finds longer answers better: 0.1 a word."""

    version = "by-words"

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(np.expm1(rows[:, NAMES.index("answer_words")]) / 10, np.float64)


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier({p.id: p.text for p in PASSAGES})


@pytest.fixture
def checker(classifier: FakeClassifier) -> Checker:
    return Checker(classifier, ByWords(), PASSAGES, lambda _: POLICY, usd_per_hour=3600.0)  # type: ignore[arg-type]


def test_each_draft_gets_its_own_verdict(checker: Checker) -> None:
    """Order is kept however gates, tiers and scores mix."""
    drafts = [
        a_draft("one two three four five six seven eight"),
        a_draft(""),
        a_draft("one two three four"),
        a_draft("one two three", tier="tier2"),
        a_draft("", tier="tier2"),
    ]
    verdicts = checker.check(drafts)
    assert [v.accepted for v in verdicts] == [True, False, False, True, False]
    assert [v.reasons for v in verdicts] == [
        (),
        (GateReason.EMPTY,),
        (GateReason.LOW_SCORE,),
        (),
        (GateReason.EMPTY,),
    ]
    assert [v.score for v in verdicts] == [pytest.approx(0.8), None, pytest.approx(0.4), None, None]
    assert [v.scorer for v in verdicts] == ["by-words", "", "by-words", "", ""]
    assert {v.policy_version for v in verdicts} == {"v7"}


def test_only_tier1_drafts_that_pass_the_gates_are_scored(checker: Checker, classifier: FakeClassifier) -> None:
    """The model is not asked about what is decided already."""
    checker.check([a_draft(""), a_draft("one two three", tier="tier2")])
    assert classifier.calls == []


def test_the_batchs_cost_is_shared(checker: Checker) -> None:
    """By all drafts alike: they were checked together."""
    costs = {v.cost_usd for v in checker.check([a_draft(), a_draft("")])}
    assert len(costs) == 1
    assert costs.pop() > 0


def test_an_empty_batch_is_nothing(checker: Checker) -> None:
    """No draft, no verdict, no division by zero."""
    assert checker.check([]) == []


@pytest.mark.parametrize(
    ("category", "score", "accepted"), [("orders", 0.6, True), ("orders", 0.599, False), ("billing", 0.6, False)]
)
def test_a_score_meets_its_categorys_threshold(category: str, score: float, accepted: bool) -> None:
    """At the threshold is good enough."""
    draft = a_draft(routed=a_routed(decision=a_decision(category=category)))
    assert judge(draft, (), score, POLICY, 0.0).accepted is accepted


def test_tier2_has_no_threshold() -> None:
    """Its drafts pass the gates only."""
    verdict = judge(a_draft(tier="tier2"), (), None, POLICY, 0.0)
    assert verdict.accepted
    assert verdict.threshold is None


def test_the_shipped_scorer_loads_and_gives_probabilities() -> None:
    """One a row, in the rows' order, and the same for the same draft in any company."""
    scorer = load_scorer(Path("examples/fernway/checker/scorer.onnx"))
    rows = np.random.default_rng(0).normal(size=(5, len(NAMES))).astype(np.float32)
    together = scorer.score(rows)
    assert together.shape == (5,)
    assert ((together >= 0) & (together <= 1)).all()
    assert [float(scorer.score(row[None])[0]) for row in rows] == together.tolist()
    assert scorer.version


def test_what_is_no_scorer_is_refused_by_name(tmp_path: Path) -> None:
    """At start, before any draft; so is a graph that was fitted on other features: its trees would split on others."""
    path = tmp_path / "scorer.onnx"
    with pytest.raises(ValueError, match=r"scorer\.onnx.*No such file"):
        load_scorer(path)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"scorer\.onnx: no ONNX graph"):
        load_scorer(path)
    other = Path("examples/fernway/router/model.onnx")
    with pytest.raises(ValueError, match="other features"):
        load_scorer(other)
