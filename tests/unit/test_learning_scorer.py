"""The scorer that is fitted, and the graph that serves it."""

import numpy as np
import pytest

from workers.checker.features import NAMES
from workers.checker.scorer import Scorer
from workers.learning.routing_metrics import auroc, reliability

pytest.importorskip("sklearn", reason="learning needs the extra `learn`: make test-learn")
pytest.importorskip("onnx", reason="learning needs the extra `learn`: make test-learn")

from workers.learning import scorer
from workers.learning.scorer import LabelledDraft, cross_fitted, fit


@pytest.fixture(scope="module")
def drafts() -> list[LabelledDraft]:
    """Good is what goes together: no single feature tells."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, len(NAMES))).astype(np.float32)
    good = rows[:, 0] * rows[:, 1] + 0.5 * rows[:, 2] > -0.6
    return [LabelledDraft(row, 0.5, bool(label)) for row, label in zip(rows, good, strict=True)]


def test_the_graph_says_what_the_trees_say(drafts: list[LabelledDraft]) -> None:
    """To float32's last digits, at the trees' own thresholds too."""
    rows = np.stack([d.features for d in drafts])
    trees = scorer._trees().fit(rows, [d.acceptable for d in drafts])
    served = Scorer(fit(drafts))
    assert np.abs(served.score(rows) - trees.predict_proba(rows)[:, 1]).max() < 1e-5
    thresholds = trees.calibrated_classifiers_[0].estimator.estimators_[0, 0].tree_.threshold
    edge = np.repeat(rows[:1], len(thresholds), axis=0)
    edge[:, :] = thresholds[:, None]
    assert np.abs(served.score(edge) - trees.predict_proba(edge)[:, 1]).max() < 1e-5


def test_the_same_drafts_give_the_same_scorer(drafts: list[LabelledDraft]) -> None:
    """Bytes and version; other labels give another version."""
    assert fit(drafts) == fit(drafts)
    other = [*drafts[1:], LabelledDraft(drafts[0].features, 0.5, not drafts[0].acceptable)]
    assert Scorer(fit(other)).version != Scorer(fit(drafts)).version


def test_cross_fitted_scores_are_honest(drafts: list[LabelledDraft]) -> None:
    """They are probabilities that tell good from bad; of labels that nothing foretells they know nothing."""
    good = np.array([d.acceptable for d in drafts])
    scores = cross_fitted(drafts)
    assert auroc(scores, good) > 0.7
    assert reliability(scores, good, bins=5).ece < 0.1
    labels = np.random.default_rng(1).permutation(good)
    noise = [LabelledDraft(d.features, 0.5, bool(label)) for d, label in zip(drafts, labels, strict=True)]
    assert 0.4 < auroc(cross_fitted(noise), labels) < 0.6


def test_too_few_of_a_kind_is_an_error(drafts: list[LabelledDraft]) -> None:
    """It names both numbers."""
    good = [d for d in drafts if d.acceptable][:40]
    with pytest.raises(ValueError, match="40 good and 0 bad drafts"):
        fit(good)
