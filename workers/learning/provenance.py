"""A data set's rows, each with where it comes from, and its folder: JSON lines and a manifest."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from schemas.codec import PoisonError, decode
from schemas.tickets import Moment, TicketKey, Tier

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

Setting = str | int | float | bool | None

MANIFEST, ROWS, POLICY = "manifest.json", "rows.jsonl", "policy.json"

TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"
"""Instead of ROWS, where a part is kept from training."""


@dataclass(frozen=True, slots=True)
class Placed(Generic[T]):
    """A record, and where it stands: `topic/partition/offset`."""

    value: T
    place: str


class Provenance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a row comes from. No ids of the helpdesk's, which may be addresses or account numbers."""

    ticket: str
    """`ticket_digest`: with it the rows of a ticket that must be forgotten are found."""
    records: tuple[str, ...]
    """`topic/partition/offset` of what the row was made of."""
    at: Moment
    """When the label was given; without one, when the ticket ended."""
    category: str
    policy_version: str
    model: str
    """The model that wrote the draft or the answer."""
    model_version: str = ""
    """The router model that gave p_ok."""
    tier: Tier = "tier1"
    label_source: str = ""
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """A row, and where it comes from."""

    row: T
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class DataSet(Generic[T]):
    """Rows, and how many records made none, by the reason."""

    kept: tuple[Kept[T], ...]
    left_out: Mapping[str, int]

    @property
    def rows(self) -> list[T]:
        return [each.row for each in self.kept]


def ticket_digest(key: TicketKey) -> str:
    """A ticket's name in data sets."""
    return blake2b("\0".join(key).encode(), digest_size=8).hexdigest()


def in_order(kept: Iterable[Kept[T]]) -> tuple[Kept[T], ...]:
    """By time: the same records give the same file, in whichever order the partitions were read."""
    return tuple(sorted(kept, key=lambda each: (each.provenance.at, each.provenance.ticket)))


def counted(left_out: Mapping[str, int]) -> dict[str, int]:
    """Without the reasons that were none."""
    return {str(reason): count for reason, count in sorted(left_out.items()) if count}


class File(Struct, frozen=True, kw_only=True):
    """A file of a data set."""

    rows: int
    sha256: str
    by: dict[str, dict[str, int]]
    """How many rows there are of each category, label source, tier, model and policy."""


class Manifest(Struct, frozen=True, kw_only=True):
    """What a data set's folder holds, and how it came to be."""

    kind: str
    made_at: Moment
    command: str
    files: dict[str, File]
    left_out: dict[str, int]
    unreadable: int
    """Records that could not be read."""
    settings: dict[str, Setting]
    """What else the rows depend on."""


class Contents(NamedTuple):
    """A file to write."""

    lines: bytes
    file: File


def contents(kept: Sequence[Kept[T]], plain: Callable[[T], Mapping[str, Any]]) -> Contents:
    """Rows as JSON lines: what `plain` makes of each, and its provenance."""
    lines = b"".join(msgspec.json.encode({**plain(each.row), "provenance": each.provenance}) + b"\n" for each in kept)
    return Contents(lines, File(rows=len(kept), sha256=sha256(lines).hexdigest(), by=_by([k.provenance for k in kept])))


def _by(rows: Sequence[Provenance]) -> dict[str, dict[str, int]]:
    fields = ("category", "label_source", "tier", "model", "policy_version")
    return {name: dict(sorted(Counter(getattr(row, name) for row in rows).items())) for name in fields}


def write(folder: Path, files: Mapping[str, Contents], beside: Mapping[str, bytes], manifest: Manifest) -> None:
    """Write the files of rows and what belongs beside them, then the manifest: a folder without one was left
    half-written."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, content in {**{name: each.lines for name, each in files.items()}, **beside}.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


def read(path: Path, line_type: type[S]) -> Iterator[tuple[str, S]]:
    """A file's lines, each with where it stands: `path:number`.

    Raises: ValueError for a file that can't be read or has no lines, and for a line that is none; never with its text.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise ValueError(f"{path}: can't be read: {exc.strerror}") from exc
    if not lines:
        raise ValueError(f"{path}: no lines")
    for number, line in enumerate(lines, 1):
        try:
            yield f"{path}:{number}", decode(line_type, line)
        except PoisonError as exc:
            raise ValueError(f"{path}:{number}: no row of this kind: {exc.reason}") from None
