"""The model store: every version of a router, a scorer, an adapter or a policy, in a folder or an S3-compatible bucket.

A version is named by its contents: the same files have the same version wherever they are pushed, and no version ever
changes. Its manifest is written last and names every file with its hash: what was pushed by half isn't there, and what
was changed since isn't taken.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
import obstore
from msgspec import Struct
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

Kind = Literal["router", "scorer", "adapter", "policy"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MANIFEST = "manifest.json"
FILES = "files"
CARD = "card.json"
"""A model's folder has one: how good it is. The manifest takes it over."""

CHUNK_BYTES = 8 << 20


class StoreError(Exception):
    """The store, a version or a file can't be used: which, and why."""


class ModelFile(Struct, frozen=True, kw_only=True):
    """One file of a version."""

    path: str
    """From the version's folder, with slashes."""
    sha256: str
    size_bytes: int


class Manifest(Struct, frozen=True, kw_only=True):
    """What a version is and where it comes from."""

    kind: Kind
    version: str
    """The start of a hash of all files' paths and hashes."""
    files: tuple[ModelFile, ...]
    made_at: datetime
    """When it was pushed first."""
    made_from: str = ""
    """The data set or the command that it was made of."""
    card: dict[str, Any] = {}
    """How good it is, as its own card says."""


def version_of(kind: Kind, files: tuple[ModelFile, ...]) -> str:
    """The same for the same files."""
    return sha256(msgspec.json.encode([kind, *((f.path, f.sha256) for f in files)])).hexdigest()[:16]


class ModelStore:
    """Calls block: a command's shell is meant to use it, and no stage."""

    def __init__(self, url: str) -> None:
        """`url` is a folder's path, `file:///folder` or `s3://bucket/prefix`; for S3 the usual AWS_* variables say how
        to get there.

        Raises: StoreError for another address.
        """
        with _translated(f"model store {url}"):
            if "://" not in url or url.startswith("file://"):
                folder = Path(url2pathname(urlsplit(url).path)) if "://" in url else Path(url)
                self._store: ObjectStore = LocalStore(folder, mkdir=True)
            else:
                # A mistyped address must not be tried for minutes.
                self._store = from_url(url, retry_config={"max_retries": 3})

    def push(self, kind: Kind, source: Path, made_at: datetime, made_from: str = "") -> Manifest:
        """Put a file, or a folder with all that is in it, into the store; what is there already stays as it is.

        Raises: StoreError if there is nothing to push, a file can't be read, or the store can't be written.
        """
        root = source if source.is_dir() else source.parent
        paths = sorted(p for p in root.rglob("*") if p.is_file()) if source.is_dir() else [source]
        if not paths or not all(p.is_file() for p in paths):
            raise StoreError(f"{source}: there is no file, so nothing was pushed")
        with _translated(str(source)):
            files = tuple(_described(path, root) for path in paths)
            card = _card(root / CARD) if source.is_dir() else {}
        version = version_of(kind, files)
        manifest = Manifest(kind=kind, version=version, files=files, made_at=made_at, made_from=made_from, card=card)
        with _translated(f"{kind} {manifest.version}"):
            if (known := self._manifest(kind, manifest.version)) is not None:
                return known
            for path, file in zip(paths, files, strict=True):
                obstore.put(self._store, _key(kind, manifest.version, FILES, file.path), path)
            obstore.put(self._store, _key(kind, manifest.version, MANIFEST), msgspec.json.encode(manifest))
        return manifest

    def list(self, kind: Kind | None = None) -> list[Manifest]:
        """All versions, or those of a kind; the oldest first.

        Raises: StoreError if the store can't be read.
        """
        found = []
        for each in (kind,) if kind else KINDS:
            with _translated("model store"):
                prefixes = obstore.list_with_delimiter(self._store, each)["common_prefixes"]
                found += [self._manifest(each, PurePosixPath(prefix).name) for prefix in prefixes]
        return sorted((m for m in found if m is not None), key=lambda m: m.made_at)

    def find(self, kind: Kind, version: str) -> Manifest:
        """A version by its start. Raises: StoreError if there is none, or more than one."""
        found = [m for m in self.list(kind) if m.version.startswith(version)]
        if len(found) != 1:
            raise StoreError(f"{len(found) or 'no'} versions of the {kind} begin with {version!r}: headgate model list")
        return found[0]

    def pull(self, kind: Kind, version: str, out: Path) -> Manifest:
        """Write a version's files into a folder that isn't there yet; all of them or none.

        Raises: StoreError if the folder is there or can't be made, the store can't be read, or a file isn't what its
        manifest says.
        """
        manifest = self.find(kind, version)
        if out.exists():
            raise StoreError(f"{out} is there already: name a folder that isn't")
        with _translated(f"{kind} {manifest.version}"):
            out.parent.mkdir(parents=True, exist_ok=True)
            half = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
            try:
                for file in manifest.files:
                    self._fetch(_key(kind, manifest.version, FILES, file.path), file, half)
                half.chmod(0o755)
                half.rename(out)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        return manifest

    def _fetch(self, key: str, file: ModelFile, folder: Path) -> None:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise StoreError(f"{key} would be written outside the folder: not taken")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = sha256()
        with target.open("xb") as opened:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES):
                digest.update(chunk)
                opened.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise StoreError(f"{key} isn't what its manifest says: it was changed, or written by half; not taken")

    def _manifest(self, kind: Kind, version: str) -> Manifest | None:
        """None for a version that isn't there, or was pushed by half."""
        key = _key(kind, version, MANIFEST)
        try:
            raw = bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None
        try:
            manifest = msgspec.json.decode(raw, type=Manifest)
        except msgspec.DecodeError as exc:
            raise StoreError(f"{key} can't be read: {exc}") from exc
        if (manifest.kind, manifest.version) != (kind, version) or version_of(kind, manifest.files) != version:
            raise StoreError(f"{key} isn't the manifest of this version: not taken")
        return manifest


def _key(*parts: str) -> str:
    return "/".join(parts)


def _described(path: Path, root: Path) -> ModelFile:
    digest = sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
    return ModelFile(path=path.relative_to(root).as_posix(), sha256=digest.hexdigest(), size_bytes=path.stat().st_size)


def _card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise StoreError(f"{path} can't be read: {exc}") from exc


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        # The library's messages go on for a page.
        raise StoreError(f"{what}: {str(exc).splitlines()[0] if str(exc) else type(exc).__name__}") from exc
