"""`headgate learn router` on data of the user's own. The training itself is replaced; it has tests of its own."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from streams import learn
from streams.cli import app
from tests.unit.test_learning_card import TRAINING
from workers.learning import router
from workers.learning.card import card_of
from workers.learning.labels import LabelledOutcome


class Trainer:
    """Keeps what it is given to train on."""

    def __init__(self) -> None:
        self.given: Any = None

    def __call__(
        self, rows: Sequence[LabelledOutcome], validation: Sequence[LabelledOutcome], *args: Any, **options: Any
    ) -> Any:
        self.given = SimpleNamespace(rows=rows, validation=validation, args=args, options=options)
        return card_of(rows, [], [], TRAINING, date(2026, 11, 25))


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    made = Trainer()
    monkeypatch.setattr(router, "train_router", made)
    return made


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    lines = [{"text": f"ticket {i}", "tier1_ok": i % 3 > 0, "category": "billing"} for i in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["learn", *map(str, arguments)])


def test_labels_are_read_split_and_trained_on(trainer: Trainer, labels: Path, tmp_path: Path) -> None:
    """With the folder, the level and the seed that were asked for."""
    done = run("router", "--labels", labels, "--out", tmp_path / "m", "--validation-share", 0.25, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert (len(trainer.given.rows), len(trainer.given.validation)) == (29, 11)
    assert trainer.given.args == ((), tmp_path / "m")
    assert {name: trainer.given.options[name] for name in ("level", "seed")} == {"level": "heads", "seed": 3}
    assert trainer.given.options["command"].startswith("headgate ")
    assert "tier1_not_ok 14" in done.output
    assert TRAINING.version in done.output
    assert "card.md" in done.output.replace("\n", "")


def test_knowledge_goes_along_with_the_labels(trainer: Trainer, labels: Path, tmp_path: Path) -> None:
    """The passages that the labels' `passage` names."""
    knowledge = tmp_path / "knowledge.toml"
    knowledge.write_text('[[passage]]\nid = "billing.a"\ntext = "Bills come on the 5th."\n')
    assert run("router", "--labels", labels, "--out", tmp_path, "--knowledge", knowledge).exit_code == 0
    assert [passage.id for passage in trainer.given.args[0]] == ["billing.a"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("router", "--labels", "l.jsonl"),
        ("router", "--labels", "l.jsonl", "--tickets", "t.jsonl", "--out", "m"),
        ("checker", "--labels", "l.jsonl", "--out", "m"),
        ("router", "--out", "m"),
        ("router", "--labels", "l.jsonl", "--out", "m", "--level", "half"),
        ("router", "--labels", "l.jsonl", "--out", "m", "--validation-share", "1"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(trainer: Trainer, arguments: tuple[str, ...]) -> None:
    """Before anything is read: exit code 2, as for any misuse."""
    assert run(*arguments).exit_code == 2
    assert trainer.given is None


def test_a_line_that_cannot_be_read_ends_it(trainer: Trainer, tmp_path: Path) -> None:
    """With file, line and field: main() makes a line of it."""
    path = tmp_path / "labels.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "tier1_ok": 1}\n')
    failed = run("router", "--labels", path, "--out", tmp_path)
    assert isinstance(failed.exception, learn.LearnError)
    assert "labels.jsonl:2: " in str(failed.exception)
    assert trainer.given is None


def test_what_the_trainer_refuses_ends_it(monkeypatch: pytest.MonkeyPatch, labels: Path, tmp_path: Path) -> None:
    """Such as too few labels of a kind, or a package that is not installed."""

    def too_few(*_: Any, **__: Any) -> None:
        raise ValueError("too few examples")

    def not_there(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    for refusal, message in ((too_few, "too few examples"), (not_there, "torch is not installed.*extra `learn`")):
        monkeypatch.setattr(router, "train_router", refusal)
        failed = run("router", "--labels", labels, "--out", tmp_path)
        with pytest.raises(learn.LearnError, match=message):
            raise failed.exception


def test_a_cold_start_learns_from_tickets_as_they_are_published(
    monkeypatch: pytest.MonkeyPatch, trainer: Trainer, tmp_path: Path
) -> None:
    """Their clusters become categories; whatever else their lines say is left out."""

    def named(rows: Sequence[LabelledOutcome], seed: int) -> list[LabelledOutcome]:
        return [LabelledOutcome(text=row.text, category="refund-charge") for row in rows]

    monkeypatch.setattr("workers.learning.cold_start.categorised", named)
    path = tmp_path / "tickets.jsonl"
    path.write_text("".join(f'{{"ticket_id": "{i}", "body": "Ticket {i}", "tenant": "x"}}\n' for i in range(30)))
    done = run("router", "--tickets", path, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "30 of 30 past tickets" in done.output
    given = [*trainer.given.rows, *trainer.given.validation]
    assert {(row.category, row.tier1_ok) for row in given} == {("refund-charge", None)}
    assert len(given) == 30


def test_a_step_alone_learns_from_the_companys_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `make learn` runs them: nothing but the step and the folder."""
    asked = []

    async def step(*arguments: Any) -> None:
        asked.append(arguments[:2])

    monkeypatch.setattr("workers.learning.steps.learn", step)
    assert run("router", "--company", tmp_path).exit_code == 0
    assert asked == [("router", tmp_path)]
