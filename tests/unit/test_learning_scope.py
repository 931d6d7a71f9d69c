"""What is out of scope, learned from past tickets. What needs onnx is skipped without the `learn` extra."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.learning.scope import LEAST_TICKETS, MOST_TICKETS, Floats, Scope, fit
from workers.router.pieces import padded

SUBJECTS = 6
# The words of the company; foreign tickets use those of FOREIGN.
WORDS = np.arange(2_000, 2_200)
FOREIGN = np.arange(9_000, 9_200)


class Tickets:
    """Made-up tickets: each near the direction of one subject, in words of one list."""

    def __init__(self, rng: np.random.Generator, count: int, subjects: Floats, words: NDArray[np.int64]) -> None:
        spread = rng.normal(size=(count, 384)) / 25
        embeddings = subjects[rng.integers(len(subjects), size=count)] + spread
        self.embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        self.pieces = [[101, *rng.choice(words, rng.integers(5, 40)).tolist(), 102] for _ in range(count)]


def directions(rng: np.random.Generator) -> Floats:
    found = rng.normal(size=(SUBJECTS, 384))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def world() -> tuple[Scope, Tickets, Tickets]:
    """A scope learned from 600 tickets, 1,000 new tickets of the same kind, and 100 foreign ones."""
    rng = np.random.default_rng(3)
    subjects = directions(rng)
    past = Tickets(rng, 600, subjects, WORDS)
    return (
        fit(past.embeddings, past.pieces),
        Tickets(rng, 1_000, subjects, WORDS),
        Tickets(rng, 100, directions(rng), FOREIGN),
    )


def test_new_ordinary_tickets_have_uniform_p_values(world: tuple[Scope, Tickets, Tickets]) -> None:
    """A threshold is the share of ordinary tickets that it costs."""
    scope, new, _ = world
    found = scope.in_scope(new.embeddings, new.pieces)
    for level in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(found < level) == pytest.approx(level, abs=0.06)


def test_foreign_tickets_have_the_least_p_value(world: tuple[Scope, Tickets, Tickets]) -> None:
    """It is one in n + 1, not 0: the next ordinary ticket may be the strangest yet."""
    scope, _, foreign = world
    assert scope.in_scope(foreign.embeddings, foreign.pieces) == pytest.approx(1 / 601)


def test_a_foreign_subject_in_familiar_words_is_strange(world: tuple[Scope, Tickets, Tickets]) -> None:
    """The embedding alone gives it away."""
    scope, new, foreign = world
    assert (scope.in_scope(foreign.embeddings, new.pieces[:100]) < 0.05).all()


def test_foreign_words_on_a_familiar_subject_are_strange(world: tuple[Scope, Tickets, Tickets]) -> None:
    """The word pieces alone give it away."""
    scope, new, foreign = world
    assert np.mean(scope.in_scope(new.embeddings[:100], foreign.pieces) < 0.05) > 0.9


def test_copies_of_one_text_leave_room_for_others() -> None:
    """A helpdesk full of templates: copies are ordinary, and every number stays finite."""
    rng = np.random.default_rng(4)
    past = Tickets(rng, 1, directions(rng), WORDS)
    scope = fit(past.embeddings.repeat(LEAST_TICKETS, axis=0), past.pieces * LEAST_TICKETS)
    assert scope.in_scope(past.embeddings, past.pieces) > 0.5
    foreign = Tickets(rng, 5, directions(rng), FOREIGN)
    assert (scope.in_scope(foreign.embeddings, foreign.pieces) < 0.05).all()


def test_the_least_number_of_tickets_is_enough_and_fewer_are_an_error() -> None:
    """The error says how many there are and how many it takes."""
    rng = np.random.default_rng(5)
    subjects = directions(rng)
    past = Tickets(rng, LEAST_TICKETS, subjects, WORDS)
    new = Tickets(rng, 500, subjects, WORDS)
    scope = fit(past.embeddings, past.pieces)
    assert np.mean(scope.in_scope(new.embeddings, new.pieces) >= 0.05) > 0.85
    with pytest.raises(ValueError, match=f"{LEAST_TICKETS - 1} past tickets.*{LEAST_TICKETS} are the least"):
        fit(past.embeddings[1:], past.pieces[1:])


def test_of_many_tickets_a_part_is_kept() -> None:
    """The graph stays small however long the company's history is."""
    rng = np.random.default_rng(6)
    past = Tickets(rng, MOST_TICKETS + 10, directions(rng), WORDS[:20])
    assert fit(past.embeddings, past.pieces).past.shape == (MOST_TICKETS, 384)


@pytest.fixture(scope="module")
def session(world: tuple[Scope, Tickets, Tickets], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The graph alone, `pooled` among its inputs."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    text, initializers = world[0].graph()
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in initializers.items())
    onnx.checker.check_model(model)
    path: Path = tmp_path_factory.mktemp("scope") / "scope.onnx"
    onnx.save(model, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: Any, embeddings: Floats, pieces: list[list[int]]) -> NDArray[np.float32]:
    (found,) = session.run(["in_scope"], {"pooled": embeddings.astype(np.float32), **padded(pieces)})
    return np.asarray(found)


def test_the_graph_says_what_numpy_says(world: tuple[Scope, Tickets, Tickets], session: Any) -> None:
    """Padding included: the batch is as wide as its longest text."""
    scope, *both = world
    for tickets in both:
        found = run(session, tickets.embeddings, tickets.pieces)
        assert found.shape == (len(tickets.pieces),)
        assert found == pytest.approx(scope.in_scope(tickets.embeddings, tickets.pieces), abs=1e-4)


def test_a_tickets_score_does_not_depend_on_its_neighbours(world: tuple[Scope, Tickets, Tickets], session: Any) -> None:
    """Alone or among others, longer ones too, it is the same."""
    _, new, _ = world
    together = run(session, new.embeddings[:20], new.pieces[:20])
    alone = [run(session, new.embeddings[i : i + 1], new.pieces[i : i + 1])[0] for i in range(20)]
    assert together == pytest.approx(alone, abs=1e-5)
