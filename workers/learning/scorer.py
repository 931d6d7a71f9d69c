"""Fit the checker's scorer on labelled drafts, and solve the first thresholds. Needs the `learn` extra."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.policy import CategoryPolicy
from workers.checker.features import NAMES
from workers.checker.scorer import Scorer

REGULARISATION = tuple(float(c) for c in np.logspace(-2, 1, 7))
"""Candidates for scikit-learn's C; cross-validation takes one."""
FOLDS = 5
REPEATS = 5


@dataclass(frozen=True, slots=True)
class LabelledDraft:
    """A draft as the checker sees it, and whether the rubric accepts it."""

    features: NDArray[np.float32]
    """(len(NAMES),)"""
    p_ok: float
    acceptable: bool


def fit(drafts: Sequence[LabelledDraft]) -> Scorer:
    """A logistic model on standardised features.

    Raises: ValueError if good or bad drafts are missing: then there is nothing to tell apart.
    """
    rows = np.stack([d.features for d in drafts]).astype(np.float64)
    labels = np.array([d.acceptable for d in drafts])
    if labels.all() or not labels.any():
        raise ValueError("the labelled drafts are all good or all bad: a scorer needs both")
    mean, scale = rows.mean(0), rows.std(0)
    scale[scale < 1e-9] = 1.0
    model = _logistic(labels).fit((rows - mean) / scale, labels)
    digest = hashlib.sha256(rows.tobytes() + labels.tobytes()).hexdigest()[:12]
    return Scorer(
        version=digest,
        features=NAMES,
        mean=_floats(mean),
        scale=_floats(scale),
        coefficients=_floats(model.coef_[0]),
        intercept=round(float(model.intercept_[0]), 6),
    )


def cross_fitted(drafts: Sequence[LabelledDraft]) -> NDArray[np.float64]:
    """Scores, (n,), each from models that have not seen its draft: what thresholds may be solved on.

    The mean over several ways to fold: one alone moves the thresholds by chance.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = np.array([d.acceptable for d in drafts])
    scores = np.zeros(len(drafts))
    for seed in range(REPEATS):
        for fitted, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels):
            scorer = fit([drafts[i] for i in fitted])
            scores[held_out] += scorer.score(np.stack([drafts[i].features for i in held_out]))
    return scores / REPEATS


def _logistic(labels: NDArray[np.bool_]) -> Any:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(min(FOLDS, int(min(labels.sum(), (~labels).sum()))), shuffle=True, random_state=0)
    # The last two are scikit-learn's coming defaults, said now: it warns of the change at every fit.
    return LogisticRegressionCV(
        Cs=REGULARISATION, cv=folds, scoring="neg_log_loss", max_iter=2000, l1_ratios=(0,), use_legacy_attributes=False
    )


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)


def solve(
    p_ok: NDArray[np.float64],
    scores: NDArray[np.float64],
    acceptable: NDArray[np.bool_],
    alpha: float,
    tier1_usd: float,
    tier2_usd: float,
) -> CategoryPolicy:
    """The cheapest pair of thresholds with at most a share `alpha` of bad answers among those shipped from tier-1.

    All arrays are (n,). A plug-in estimate: it holds on these labels, and nothing
    is promised about the next ones. Of equally cheap pairs the stricter one wins.
    """
    best: tuple[float, float, float] | None = None
    for p_threshold in _candidates(p_ok, 25):
        for threshold in _candidates(scores, 200):
            tried = p_ok >= p_threshold
            shipped = tried & (scores >= threshold)
            if (shipped & ~acceptable).sum() > alpha * shipped.sum():
                continue
            cost_usd = tried.sum() * tier1_usd + (~shipped).sum() * tier2_usd
            best = min(best or (np.inf, 0.0, 0.0), (cost_usd, -threshold, -p_threshold))
    if best is None:
        return CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", labels=len(acceptable))
    p_threshold, threshold = -best[2], -best[1]
    shipped = (p_ok >= p_threshold) & (scores >= threshold)
    return CategoryPolicy(
        p_ok_threshold=float(p_threshold),
        score_threshold=float(threshold),
        labels=len(acceptable),
        shipped=int(shipped.sum()),
        bad_among_shipped=int((shipped & ~acceptable).sum()),
    )


def _candidates(values: NDArray[np.float64], count: int) -> list[float]:
    """Thresholds worth trying: quantiles, to three decimals."""
    return sorted({round(float(v), 3) for v in np.quantile(values, np.linspace(0, 1, count))})
