"""The company's knowledge: passages with ids, from TOML. Both tiers answer from it, the checker compares with it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the company's knowledge; the id is `category.intent`."""

    id: str
    category: str
    text: str


def load_knowledge(path: Path) -> tuple[Passage, ...]:
    """Read [[passage]] tables with `id` and `text`.

    Raises: ValueError naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            rows = tomllib.load(file)["passage"]
        return tuple(Passage(row["id"], row["id"].split(".")[0], row["text"]) for row in rows)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as exc:
        raise ValueError(f"knowledge file {path}: {type(exc).__name__}: {exc}") from exc
