"""The model in force, replaced while a stage runs: when another file takes its place, it is loaded beside the old one,
and the next batch or ticket is the new one's.

Whoever works on a batch or a ticket takes `current` once: it is then wholly of one version. A file that can't be used
leaves the old model in force.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar


class Loaded(Protocol):
    """A model that knows which file it came from."""

    @property
    def version(self) -> str: ...


M = TypeVar("M", bound=Loaded)


class Stamp(NamedTuple):
    """By what a replaced file is told without reading it."""

    inode: int
    size_bytes: int
    modified_ns: int


class Swapped(NamedTuple):
    """A file was loaded and is in force; the same version twice means that the file was only written again."""

    old: str
    new: str


class Refused(NamedTuple):
    """A file can't be used."""

    why: str


def to_load(tried: Stamp | None, before: Stamp | None, now: Stamp | None) -> bool:
    """Whether a file is to be loaded: it is not the one tried last, and it kept still between two looks.

    One that still changes is being copied: it would be refused, and loaded again when it is whole.
    """
    return now is not None and now != tried and now == before


class HotSwap(Generic[M]):
    """Owns the model in force. One thread at a time looks; any may read `current`."""

    def __init__(self, path: Path, load: Callable[[Path], M]) -> None:
        """Raises: whatever `load` raises: at start there is no older model to go on with."""
        self._path = path
        self._load = load
        # Before loading: a file that is replaced meanwhile differs at the next look.
        self._tried = self._seen = stamp(path)
        self.current = load(path)

    def look(self) -> Swapped | Refused | None:
        """Load the file if it was replaced; None if there was nothing to do. Blocks while a model loads."""
        before, self._seen = self._seen, stamp(self._path)
        if not to_load(self._tried, before, self._seen):
            return None
        # A file is tried once, so that one that can't be used is reported once.
        self._tried = self._seen
        try:
            loaded = self._load(self._path)
        except Exception as exc:
            # Whatever a file does while it is loaded, the tickets go on with the model in force.
            return Refused(f"{type(exc).__name__}: {exc}")
        old, self.current = self.current, loaded
        return Swapped(old.version, loaded.version)


def stamp(path: Path) -> Stamp | None:
    """None while there is no file, as in the middle of a replacement."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
