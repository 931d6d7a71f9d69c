"""Which models answer on tier-1, and for which share of the tickets: the one in force, a canary beside it.

    [[model]]
    name = "fernway-2026-11"     what the engine calls it, and the draft says
    share = 0.95                 shares are relative: 95 and 5 are as good

    [[model]]
    name = "fernway-2026-12"
    share = 0.05
    adapter = "adapters/2026-12"  vLLM in process: the LoRA's folder, seen from here; without one it is the base model

    [model.extra]                 further fields of the request, for servers that want them; llama.cpp picks an
    lora = [{id = 1, scale = 1}]  adapter so

A ticket's model depends on its id alone: done again, it is answered by the same one. When a share grows, tickets move
to that model, and none between the others.
"""

import math
import tomllib
from collections.abc import Mapping
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct


class ServedModel(Struct, frozen=True, kw_only=True):
    """A model as an engine is asked for it."""

    name: str
    adapter: Path | None = None
    """A LoRA adapter's folder, for the engine that loads it itself."""
    extra: Mapping[str, Any] = {}
    """Further fields of each request's body."""


class Entry(Struct, frozen=True):
    """A model and its share of the tickets, relative to the others'."""

    model: ServedModel
    share: float


class Models(Struct, frozen=True):
    """The models that answer, one or more."""

    version: str
    """The start of the file's sha256; empty where there is no file."""
    entries: tuple[Entry, ...]

    @property
    def served(self) -> tuple[ServedModel, ...]:
        """Without their shares, as an engine loads them."""
        return tuple(entry.model for entry in self.entries)

    @property
    def shares(self) -> dict[str, float]:
        """By name, 1 in all."""
        whole = sum(entry.share for entry in self.entries)
        return {entry.model.name: entry.share / whole for entry in self.entries}

    def pick(self, ticket_id: str) -> ServedModel:
        """The model that answers this ticket.

        Source: weighted rendezvous hashing. Each model draws an arrival time from the ticket's id, at a rate that is
        its share; the first to arrive answers.
        """
        return min(self.entries, key=lambda entry: -math.log(_drawn(entry.model.name, ticket_id)) / entry.share).model


def _drawn(name: str, ticket_id: str) -> float:
    """Evenly distributed over (0, 1], the same whenever it is asked."""
    digest = blake2b(f"{name}\0{ticket_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) + 1) / 2**64


def single(name: str) -> Models:
    """One model for all tickets."""
    return Models("", (Entry(ServedModel(name=name), 1.0),))


class _Row(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    share: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    adapter: Annotated[str, Meta(min_length=1)] | None = None
    extra: dict[str, Any] = {}


class _File(Struct, forbid_unknown_fields=True):
    model: Annotated[list[_Row], Meta(min_length=1)]


def load_models(path: Path) -> Models:
    """Read a models file.

    Raises: ValueError naming the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
        rows = msgspec.convert(tomllib.loads(data.decode()), _File).model
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise ValueError(f"models file {path}: {exc}") from exc
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"models file {path}: two models are named {', '.join(twice)}")
    return Models(sha256(data).hexdigest()[:12], tuple(Entry(_served(row, path.parent), row.share) for row in rows))


def _served(row: _Row, folder: Path) -> ServedModel:
    return ServedModel(name=row.name, adapter=folder / row.adapter if row.adapter else None, extra=row.extra)
