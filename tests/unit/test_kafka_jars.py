"""The embedded broker's jars: what is pinned, and that nothing else gets into the class path."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streams.local import kafka_jars
from streams.local.kafka_jars import LOCK, Jar, KafkaJarsError, check_hash, class_path, parse_lock

JARS = parse_lock(LOCK.read_text("utf-8"))
VERSIONS = {jar.artifact: jar.version for jar in JARS}


def test_every_kafka_jar_has_the_broker_s_version() -> None:
    """A kafka-clients of another version, once resolved by accident, broke the broker's tools."""
    versions = {jar.version for jar in JARS if jar.group == "org.apache.kafka"}
    assert versions == {"4.3.1"}
    assert {"kafka_2.13", "kafka-clients", "kafka-server", "kafka-metadata"} <= VERSIONS.keys()


def test_every_artifact_is_pinned_once_by_a_hash() -> None:
    """Two versions of one artifact in a class path would shadow each other."""
    assert len(VERSIONS) == len(JARS) == 46
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in JARS)


def test_the_logging_binding_fits_its_interface() -> None:
    """Without a binding, or with one of another series, the broker logs nothing."""
    assert VERSIONS["slf4j-simple"] == VERSIONS["slf4j-api"]


def fill(folder: Path) -> None:
    """As the real download: the folder appears when it is complete."""
    scratch = folder.with_suffix(".scratch")
    scratch.mkdir()
    for jar in JARS:
        (scratch / jar.file_name).touch()
    scratch.rename(folder)


def test_a_full_cache_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, or without jgo, a broker that was started once starts again."""
    monkeypatch.setattr(kafka_jars, "_download", lambda jars, folder: fill(folder))
    first = class_path(tmp_path)
    monkeypatch.setattr(kafka_jars, "_download", lambda jars, folder: pytest.fail("downloaded again"))
    assert class_path(tmp_path) == first
    assert [path.name for path in first] == [jar.file_name for jar in JARS]


def test_two_starts_at_once_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first and uses what it brought."""
    both_are_here = threading.Barrier(2)
    downloads = []

    def download(jars: tuple[Jar, ...], folder: Path) -> None:
        downloads.append(folder)
        fill(folder)

    def start() -> list[Path]:
        both_are_here.wait(10)
        return class_path(tmp_path)

    monkeypatch.setattr(kafka_jars, "_download", download)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(start), pool.submit(start)
        assert one.result(10) == two.result(10)
    assert len(downloads) == 1


def test_a_cache_with_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names what is missing and what is too many, and says what to do."""
    monkeypatch.setattr(kafka_jars, "_download", lambda jars, folder: fill(folder))
    folder = class_path(tmp_path)[0].parent
    (folder / "kafka-clients-4.3.1.jar").rename(folder / "kafka-clients-3.9.1.jar")
    with pytest.raises(KafkaJarsError, match=r"lacks .*clients-4\.3\.1.* has .*clients-3\.9\.1.* delete it"):
        class_path(tmp_path)


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    """Whatever a repository serves, only what was pinned is run."""
    path = tmp_path / "x-1.jar"
    path.write_bytes(b"as pinned")
    jar = Jar("g", "x", "1", hashlib.sha256(b"as pinned").hexdigest())
    check_hash(jar, path)
    path.write_bytes(b"tampered")
    with pytest.raises(KafkaJarsError, match=r"x-1\.jar has the SHA-256"):
        check_hash(jar, path)


def test_a_failed_download_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start tries again instead of running on half of the jars."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with pytest.raises(KafkaJarsError, match=r"Is there a network\?"):
        class_path(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
