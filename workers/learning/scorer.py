"""Fit the checker's scorer on labelled drafts: boosted trees, calibrated, as one ONNX graph. Needs the `learn` extra.

A wrong answer betrays itself by what goes together: an answer that leaves half of its passage unsaid is bad only if it
comes from the right passage, and the other way round. A logistic model can't say that (AUROC 0.915 against 0.933 on
Fernway's training tickets, cross-fitted).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.checker.features import NAMES
from workers.checker.scorer import FEATURES, SCORE

FOLDS = 5
REPEATS = 2

LEAST_OF_EACH = 2 * FOLDS
"""Good and bad drafts that a scorer needs: each fold calibrates on its own."""


@dataclass(frozen=True, slots=True)
class LabelledDraft:
    """A draft as the checker sees it, and whether the rubric accepts it."""

    features: NDArray[np.float32]
    """(len(NAMES),)"""
    p_ok: float
    acceptable: bool


def fit(drafts: Sequence[LabelledDraft]) -> bytes:
    """A scorer's graph, for `Scorer`; of the same drafts the same one.

    Raises: ValueError if there are too few good or bad drafts to tell them apart.
    """
    rows, labels = _arrays(drafts)
    model = _trees().fit(rows, labels)
    digest = hashlib.sha256(rows.tobytes() + labels.tobytes()).hexdigest()[:12]
    return _as_graph(model, digest)


def cross_fitted(drafts: Sequence[LabelledDraft]) -> NDArray[np.float64]:
    """Scores, (n,), each from models that have not seen its draft: what thresholds may be solved on.

    The mean over several ways to fold: one alone moves the thresholds by chance.
    Raises: ValueError as `fit` does.
    """
    from sklearn.model_selection import StratifiedKFold

    rows, labels = _arrays(drafts)
    scores = np.zeros(len(drafts))
    for seed in range(REPEATS):
        for fitted, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, labels):
            scores[held_out] += _trees().fit(rows[fitted], labels[fitted]).predict_proba(rows[held_out])[:, 1]
    return scores / REPEATS


def _arrays(drafts: Sequence[LabelledDraft]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    labels = np.array([d.acceptable for d in drafts], bool)
    good, bad = int(labels.sum()), int((~labels).sum())
    if min(good, bad) < LEAST_OF_EACH:
        raise ValueError(f"{good} good and {bad} bad drafts: a scorer needs {LEAST_OF_EACH} of each")
    return np.stack([d.features for d in drafts]), labels


def _trees() -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    # They start from nothing: what the trees leave out, the calibration adds.
    trees = GradientBoostingClassifier(
        init="zero",
        learning_rate=0.06,
        n_estimators=80,
        max_depth=3,
        min_samples_leaf=15,
        subsample=0.7,
        max_features=0.5,
        random_state=0,
    )
    # The mean of as many calibrated models as there are folds.
    return CalibratedClassifierCV(trees, method="sigmoid", cv=StratifiedKFold(FOLDS, shuffle=True, random_state=0))


def _as_graph(model: Any, version: str) -> bytes:
    """The calibrated models, and the mean of what they say."""
    from onnx import TensorProto, checker, helper

    nodes, constants, said = [], [], []
    for number, part in enumerate(model.calibrated_classifiers_):
        (calibrator,) = part.calibrators
        sums, logit, each = f"sums_{number}", f"logit_{number}", f"score_{number}"
        nodes += [
            helper.make_node(
                "TreeEnsembleRegressor", [FEATURES], [sums], domain="ai.onnx.ml", **_ensemble(part.estimator)
            ),
            # scikit-learn's Platt scaling is 1 / (1 + exp(a x + b)).
            helper.make_node("Mul", [sums, f"a_{number}"], [f"scaled_{number}"]),
            helper.make_node("Add", [f"scaled_{number}", f"b_{number}"], [logit]),
            helper.make_node("Sigmoid", [logit], [each]),
        ]
        constants += [
            helper.make_tensor(f"a_{number}", TensorProto.FLOAT, [], [-calibrator.a_]),
            helper.make_tensor(f"b_{number}", TensorProto.FLOAT, [], [-calibrator.b_]),
        ]
        said.append(each)
    nodes.append(helper.make_node("Mean", said, [SCORE]))
    inputs = [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [None, len(NAMES)])]
    outputs = [helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, [None, 1])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "scorer", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(made, {"version": version, "features": ",".join(NAMES)})
    checker.check_model(made)
    return bytes(made.SerializeToString())


def _ensemble(boosted: Any) -> dict[str, Any]:
    """Boosted trees as the attributes of a TreeEnsembleRegressor: a row a node, a row a leaf."""
    nodes: dict[str, list[Any]] = {
        name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, (regressor,) in enumerate(boosted.estimators_):
        tree = regressor.tree_
        for node in range(tree.node_count):
            left, right = int(tree.children_left[node]), int(tree.children_right[node])
            is_leaf = left == right
            row = (number, node, max(0, int(tree.feature[node])), _at_most(float(tree.threshold[node])))
            branch = ("LEAF", 0, 0) if is_leaf else ("BRANCH_LEQ", left, right)
            for name, value in zip(nodes, (*row, *branch), strict=True):
                nodes[name].append(value)
            if is_leaf:
                weight = boosted.learning_rate * float(tree.value[node, 0, 0])
                for name, value in zip(leaves, (number, node, 0, weight), strict=True):
                    leaves[name].append(value)
    return {
        "n_targets": 1,
        **{f"nodes_{name}": values for name, values in nodes.items()},
        **{f"target_{name}": values for name, values in leaves.items()},
    }


def _at_most(threshold: float) -> float:
    """The float32 at or just below: features are float32, and go left where they are no greater."""
    near = np.float32(threshold)
    return float(np.nextafter(near, np.float32(-np.inf)) if near > threshold else near)
