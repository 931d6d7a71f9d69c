"""The two regressions and their mix. All of it needs the `learn` extra."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.learning import success
from workers.learning.phrases import SHAPE
from workers.learning.routing_metrics import auroc
from workers.learning.success import FOLDS, Booleans, Floats, Success, Views, mix

pytest.importorskip("sklearn")
from scipy import sparse

WORDS = 30
SIZE = 384


class World:
    """Made-up tickets of which the words know one half of what decides, and the embedding the other."""

    def __init__(self, seed: int, count: int, of_words: float = 2.0, of_embedding: float = 2.0) -> None:
        rng = np.random.default_rng(seed)
        said, meant = rng.normal(size=(2, count))
        words = 0.3 * rng.normal(size=(count, WORDS))
        words[:, 0] = said
        self.words = words
        self.embeddings = 0.05 * rng.normal(size=(count, SIZE))
        self.embeddings[:, 0] = meant
        self.shape = 0.1 * rng.normal(size=(count, len(SHAPE)))
        self.certainty = rng.random(count)
        self.truth = sigmoid(of_words * said + of_embedding * meant)
        self.ok = rng.random(count) < self.truth

    def views(self, words: bool = True, embedding: bool = True) -> Views:
        """Without a view, that view's numbers are 0."""
        return Views(
            sparse.csr_matrix(np.hstack([self.words * words, self.shape])),
            self.embeddings * embedding,
            self.shape,
            self.certainty,
        )


def sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))


def equal(ok: NDArray[Any]) -> Floats:
    return np.ones(len(ok))


def fit(views: Views, ok: Booleans, weight: Floats | None = None) -> Success:
    return success.fit(views, ok, equal(ok) if weight is None else weight)


def test_both_views_together_beat_either_alone() -> None:
    """On new tickets, where each view knows half of what decides, and near to what the truth itself would score."""
    past, new = World(1, 1_500), World(2, 1_500)
    both, words, embedding = (
        auroc(fit(past.views(*seen), past.ok).probabilities(new.views(*seen)), new.ok)
        for seen in ((True, True), (True, False), (False, True))
    )
    assert both > max(words, embedding) + 0.05
    assert both > auroc(new.truth, new.ok) - 0.04


def test_promises_to_new_tickets_hold_on_average() -> None:
    """All together, and among those that are promised little and much."""
    past, new = World(3, 2_000), World(4, 4_000)
    promised = fit(past.views(), past.ok).probabilities(new.views())
    assert promised.mean() == pytest.approx(new.ok.mean(), abs=0.03)
    for part in np.array_split(np.argsort(promised), 4):
        assert promised[part].mean() == pytest.approx(new.ok[part].mean(), abs=0.06)


def test_the_mix_tones_down_overconfident_logits() -> None:
    """Logits four times as large as the outcomes bear are quartered, and the mean promise is the share that held."""
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(2_000, 2))
    ok = rng.random(2_000) < sigmoid(logits.sum(axis=1) + 1)
    shares, shift = mix(4 * logits, ok, equal(ok))
    assert shares == pytest.approx([0.25, 0.25], abs=0.05)
    assert np.mean(sigmoid(4 * logits @ shares + shift)) == pytest.approx(ok.mean(), abs=0.005)


@pytest.mark.parametrize("useful", [0, 1])
def test_a_misleading_view_gets_no_share(useful: int) -> None:
    """A share below 0 would turn its ranking round; the other view is mixed as if it stood alone."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(1_000, 2))
    ok = rng.random(1_000) < sigmoid(logits[:, useful])
    logits[:, 1 - useful] = rng.normal(size=1_000) - 0.5 * ok
    shares, shift = mix(logits, ok, equal(ok))
    assert shares[1 - useful] == 0
    assert shares[useful] == pytest.approx(1, abs=0.2)
    assert np.mean(sigmoid(logits @ shares + shift)) == pytest.approx(ok.mean(), abs=0.01)


def test_where_both_views_mislead_every_ticket_gets_the_base_rate() -> None:
    """That of the weighed rows."""
    logits = np.array([[3.0, 1.0], [2.0, 2.0], [-2.0, -1.0], [-3.0, -2.0]])
    ok = np.array([False, False, True, True])
    shares, shift = mix(logits, ok, np.array([1.0, 2.0, 3.0, 3.0]))
    assert not shares.any()
    assert sigmoid(np.array(shift)) == pytest.approx(6 / 9)


def test_tickets_that_say_nothing_are_promised_about_the_base_rate() -> None:
    """Whatever a regression finds in noise, cross-validation takes away."""
    past, new = World(6, 800, of_words=0, of_embedding=0), World(7, 800)
    ok = np.random.default_rng(8).random(800) < 0.8
    promised = fit(past.views(), ok).probabilities(new.views())
    assert promised.mean() == pytest.approx(0.8, abs=0.04)
    assert promised.std() < 0.05


def test_a_row_of_weight_two_calibrates_as_that_row_twice() -> None:
    """To the digit: the mix knows no folds."""
    rng = np.random.default_rng(8)
    logits, ok, weight = rng.normal(size=(300, 2)), rng.random(300) < 0.4, rng.integers(1, 3, 300)
    logits[ok] += 1
    shares, shift = mix(logits, ok, weight.astype(float))
    twice = np.repeat(np.arange(300), weight)
    again, shift_again = mix(logits[twice], ok[twice], equal(twice))
    assert [*shares, shift] == pytest.approx([*again, shift_again], abs=1e-4)


def test_a_row_of_weight_two_counts_as_that_row_twice() -> None:
    """About so: its copy may stand in another fold, and then what is held out has been seen."""
    past, new = World(9, 3_000), World(10, 500)
    doubled = past.ok & (past.words[:, 0] > 0)
    twice = np.concatenate([np.arange(3_000), np.flatnonzero(doubled)])
    weighed = fit(past.views(), past.ok, 1.0 + doubled).probabilities(new.views())
    repeated = fit(past.views().take(twice), past.ok[twice]).probabilities(new.views())
    plain = fit(past.views(), past.ok).probabilities(new.views())
    assert np.abs(weighed - repeated).mean() < 0.025
    assert np.abs(weighed - plain).mean() > 0.04


def test_rows_of_next_to_no_weight_are_as_if_not_there() -> None:
    """Two thirds of the rows say the opposite of the others, and count for nothing."""
    past, new = World(16, 1_500), World(17, 500)
    light = np.arange(1_500) % 3 > 0
    fitted = fit(past.views(), past.ok ^ light, np.where(light, 1e-4, 3.0))
    assert auroc(fitted.probabilities(new.views()), new.ok) > 0.8


def test_shape_counts_by_what_either_regression_learned_of_it() -> None:
    """It stands in both views; here the phrases of the past tickets are lost, so the second one alone has seen it."""
    past, new = World(18, 1_000), World(19, 500)
    views = past.views()
    blind = Views(0 * views.phrases, views.embeddings, views.shape, views.certainty)
    fitted = fit(blind, past.shape[:, 0] > 0)
    assert auroc(fitted.probabilities(new.views()), new.shape[:, 0] > 0) > 0.95


def test_certainty_of_the_class_is_learned_from() -> None:
    """A ticket that is about nothing known is one that tier-1 makes something up for."""
    past, new = World(11, 1_000), World(12, 500)
    fitted = fit(past.views(), past.certainty > 0.5)
    assert auroc(fitted.probabilities(new.views()), new.certainty > 0.5) > 0.95
    assert fitted.certainty > 0


@pytest.mark.parametrize(("good", "message"), [(2, "2 acceptable"), (38, "2 unacceptable")])
def test_too_few_outcomes_are_an_error_that_says_of_what(good: int, message: str) -> None:
    """Cross-validation needs one of each kind a fold."""
    world = World(13, 40)
    with pytest.raises(ValueError, match=f"{message} ones, {FOLDS} are the least"):
        fit(world.views(), np.arange(40) < good)


def test_the_least_number_of_outcomes_is_enough() -> None:
    """Five good ones among forty."""
    world = World(14, 40)
    assert np.isfinite(fit(world.views(), np.arange(40) < FOLDS).probabilities(world.views())).all()


def test_folds_hold_out_every_ticket_once_and_share_the_good_ones() -> None:
    """The same ones at every call."""
    ok = np.arange(53) < 11
    parts = list(success.folds(ok))
    assert np.sort(np.concatenate([held_out for _, held_out in parts])).tolist() == list(range(53))
    assert all(not set(fitted) & set(held_out) for fitted, held_out in parts)
    assert sorted(int(ok[held_out].sum()) for _, held_out in parts) == [2, 2, 2, 2, 3]
    again = [held_out.tolist() for _, held_out in success.folds(ok)]
    assert again == [held_out.tolist() for _, held_out in parts]


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.97, 1.0])
def test_a_constant_says_the_same_of_every_ticket(probability: float) -> None:
    """0 and 1 included, as finite weights: a graph can hold them."""
    views = World(15, 10).views()
    fitted = success.constant(views, probability)
    assert np.isfinite(fitted.bias)
    assert fitted.probabilities(views) == pytest.approx(np.full(10, probability), abs=1e-8)
