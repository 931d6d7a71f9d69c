"""The embedded broker's class path: every jar pinned by version and SHA-256, downloaded once through jgo.

kafka_jars.lock lists what jgo resolves; only the listed files are fetched, so
that no resolution, on any day, can put another version into the class path.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

LOCK = Path(__file__).with_name("kafka_jars.lock")

log = structlog.get_logger()


class KafkaJarsError(Exception):
    """The jars can't be had, or aren't what they should be."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One Maven artifact and the hash of its file."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def parse_lock(text: str) -> tuple[Jar, ...]:
    """The jars of a lock file: `group:artifact:version sha256` a line, comments with #."""
    rows = (line.replace(":", " ").split() for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Jar(group, artifact, version, sha256) for group, artifact, version, sha256 in rows)


def class_path(cache: Path | None = None) -> list[Path]:
    """The broker's jars, downloaded into `cache` (default: the user's cache folder) if they aren't there yet.

    Works offline once they are, and with several processes at once.
    Raises: KafkaJarsError if a download fails, or if the folder holds other files than it should.
    """
    cache = (cache or _cache_folder()).absolute()  # the broker runs in a folder of its own
    text = LOCK.read_text("utf-8")
    jars = parse_lock(text)
    # Another lock, another folder: a running broker's jars are never replaced under it.
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not folder.is_dir():
        with _locked(cache):
            if not folder.is_dir():
                _download(jars, folder)
    _check_names(jars, folder)
    return [folder / jar.file_name for jar in jars]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headgate" / "kafka"


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One process downloads, the others wait for it. The kernel frees the lock of a process that dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(jars: tuple[Jar, ...], folder: Path) -> None:
    """Fetch and check every jar, then let `folder` appear, complete, by a rename."""
    try:
        from jgo.maven import MavenContext
    except ImportError as exc:
        raise KafkaJarsError(
            "the embedded Kafka needs the package jgo: install headgate[demo], "
            "or name a running broker in kafka.bootstrap_servers"
        ) from exc
    log.info("kafka_download_started", jars=len(jars), megabytes=45, folder=str(folder))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as scratch:
        context = MavenContext(repo_cache=Path(scratch, "maven"))
        complete = Path(scratch, "complete")
        complete.mkdir()

        def fetch(jar: Jar) -> None:
            path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            check_hash(jar, path)
            path.rename(complete / jar.file_name)

        try:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(fetch, jars))
        except KafkaJarsError:
            raise
        except Exception as exc:
            # jgo lets through whatever its HTTP client and its parsers raise.
            raise KafkaJarsError(
                f"downloading Kafka failed: {exc!r}. Is there a network? Once downloaded, none is needed. "
                "Or name a running broker in kafka.bootstrap_servers"
            ) from exc
        complete.rename(folder)
    log.info("kafka_downloaded", folder=str(folder))


def check_hash(jar: Jar, path: Path) -> None:
    """Raises: KafkaJarsError if the file isn't the one that was pinned."""
    # jgo only warns of a wrong checksum, and the one it compares with comes from the same server.
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise KafkaJarsError(
            f"{jar.file_name} has the SHA-256 {found}, and {jar.sha256} in {LOCK.name}: "
            "the repository, or something on the way to it, serves another file. Nothing was kept"
        )


def _check_names(jars: tuple[Jar, ...], folder: Path) -> None:
    wanted = {jar.file_name for jar in jars}
    found = {path.name for path in folder.iterdir()}
    if found != wanted:
        raise KafkaJarsError(
            f"{folder} should hold the {len(wanted)} jars of {LOCK.name}, but "
            f"lacks {sorted(wanted - found)} and has {sorted(found - wanted)} too many: delete it and start again"
        )
