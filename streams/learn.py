"""`headgate learn router` on data of the user's own: labelled outcomes or mere past tickets, from a file or Kafka."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streams.settings import load

if TYPE_CHECKING:
    from workers.learning.card import Card
    from workers.learning.labels import LabelledOutcome

Level = Literal["heads", "full"]

TOPIC = "topic"
"""Instead of a file's path: read what is in Kafka."""


class LearnError(Exception):
    """Nothing was learned: why."""


@contextmanager
def learning() -> Iterator[None]:
    """What can't be learned, as LearnError: files, rows, and libraries that are not there."""
    try:
        yield
    except (OSError, ValueError) as exc:
        raise LearnError(str(exc)) from exc
    except ModuleNotFoundError as exc:
        raise LearnError(f"{exc.name} is not installed: learning needs the extra `learn`") from exc


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a router is made of the rows."""

    out: Path
    level: Level
    knowledge: Path | None
    """The company's knowledge.toml, where tickets name passages of it."""
    validation_share: float
    seed: int
    command: str


async def labelled(source: str) -> tuple[list["LabelledOutcome"], str]:
    """Labelled outcomes from a file of JSON lines, or TOPIC; and what there is to say about them, in a line.

    Raises: LearnError; TopicsError if a topic is not there.
    """
    from streams.labels import read_labels
    from workers.learning.labels import OutcomesError, counts, read_outcomes

    if source == TOPIC:
        join = await read_labels(load().kafka)
        rows, said = list(join.outcomes.values()), join.said()
    else:
        try:
            rows, said = read_outcomes(Path(source)), ""
        except OutcomesError as exc:
            raise LearnError(str(exc)) from exc
    if not rows:
        raise LearnError(f"there is nothing to learn from: {said}")
    return rows, said or ", ".join(f"{name} {count}" for name, count in counts(rows).items())


async def past_tickets(source: str, seed: int) -> tuple[list["LabelledOutcome"], str]:
    """A fair sample of past tickets from a file of JSON lines, or TOPIC; and what there is to say about them.

    Raises: LearnError; TopicsError if a topic is not there.
    """
    from streams.labels import read_tickets
    from workers.learning.cold_start import MOST_TICKETS, Reservoir
    from workers.learning.labels import LabelledOutcome, OutcomesError, read_outcomes

    sample = Reservoir[LabelledOutcome](MOST_TICKETS, seed)
    unreadable = 0
    if source == TOPIC:
        unreadable = await read_tickets(load().kafka, sample)
    else:
        try:
            for row in read_outcomes(Path(source)):
                sample.add(row)
        except OutcomesError as exc:
            raise LearnError(str(exc)) from exc
    return sample.kept, f"{len(sample.kept)} of {sample.seen} past tickets; {unreadable} records that can't be read"


def train(rows: list["LabelledOutcome"], recipe: Recipe, cold: bool) -> "Card":
    """Split, train, measure, and write model, card and charts to the recipe's folder; the rows of a `cold` start get
    their categories first.

    Blocks for minutes. Raises: LearnError.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with learning():
        from workers.knowledge import load_knowledge
        from workers.learning import cold_start
        from workers.learning.labels import split
        from workers.learning.router import train_router

        knowledge = load_knowledge(recipe.knowledge) if recipe.knowledge else ()
        named = cold_start.categorised(rows, recipe.seed) if cold else rows
        kept, held_out = split(named, recipe.validation_share, recipe.seed)
        return train_router(
            kept, held_out, knowledge, recipe.out, level=recipe.level, command=recipe.command, seed=recipe.seed
        )
