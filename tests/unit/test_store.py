"""The model store, in a folder and on a real S3 server's protocol: what comes out is what went in, or nothing does."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from moto.server import ThreadedMotoServer

from workers.store import Manifest, ModelFile, ModelStore, StoreError, version_of

NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["path", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store's address; each test runs on all kinds."""
    folder = tmp_path / "a store"
    if request.param != "s3":
        return str(folder) if request.param == "path" else folder.as_uri()
    endpoint = request.getfixturevalue("s3")
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{endpoint}/moto-api/reset").raise_for_status()
    httpx.put(f"{endpoint}/models").raise_for_status()
    return "s3://models/prod"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder; one file takes more than one part of an upload."""
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 50_000)
    (folder / "inner" / "tokens.txt").write_text("a b c", "utf-8")
    (folder / "card.json").write_bytes(b'{"metrics": {"auroc": 0.9}}')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_comes_out_as_it_went_in(url: str, model: Path, tmp_path: Path) -> None:
    """By the start of its version, with its card and where it comes from."""
    pushed = ModelStore(url).push("router", model, NOW, "headgate learn router")
    assert [f.path for f in pushed.files] == ["card.json", "inner/tokens.txt", "model.onnx"]
    pulled = ModelStore(url).pull("router", pushed.version[:5], tmp_path / "deep" / "out")
    assert pulled == pushed
    assert contents(tmp_path / "deep" / "out") == contents(model)
    assert (pulled.card, pulled.made_from) == ({"metrics": {"auroc": 0.9}}, "headgate learn router")


def test_the_same_contents_are_one_version(url: str, model: Path) -> None:
    """Pushed again it stays as it was; another content, or another kind, is another version."""
    store = ModelStore(url)
    first = store.push("router", model, NOW)
    assert store.push("router", model, NOW + timedelta(days=1), "again") == first
    assert store.push("adapter", model, NOW + timedelta(days=2)).version != first.version
    (model / "inner" / "tokens.txt").write_text("a b d", "utf-8")
    second = store.push("router", model, NOW + timedelta(days=3))
    assert [m.version for m in store.list("router")] == [first.version, second.version]
    assert len(store.list()) == 3


def test_a_single_file_is_a_version_too(url: str, model: Path, tmp_path: Path) -> None:
    """Without the others that lie beside it."""
    pushed = ModelStore(url).push("scorer", model / "model.onnx", NOW)
    ModelStore(url).pull("scorer", pushed.version, tmp_path / "out")
    assert list(contents(tmp_path / "out")) == ["model.onnx"]


def test_what_is_not_there_is_said(url: str, tmp_path: Path) -> None:
    """Nor is anything written for it."""
    with pytest.raises(StoreError, match="no versions of the router begin with 'abc'"):
        ModelStore(url).pull("router", "abc", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match="nothing was pushed"):
        ModelStore(url).push("router", tmp_path / "nowhere", NOW)
    assert ModelStore(url).list() == []


def test_a_version_pushed_by_half_is_not_there(model: Path, tmp_path: Path) -> None:
    """The manifest comes last; a push that is repeated completes it."""
    folder = tmp_path / "store"
    store = ModelStore(str(folder))
    version = store.push("router", model, NOW).version
    (folder / "router" / version / "manifest.json").unlink()
    assert store.list() == []
    with pytest.raises(StoreError, match="no versions"):
        store.pull("router", version, tmp_path / "out")
    store.push("router", model, NOW)
    assert store.pull("router", version, tmp_path / "out").version == version


def test_a_file_that_was_changed_in_the_store_is_not_taken(model: Path, tmp_path: Path) -> None:
    """Nothing of the version is; the folder isn't left half-written."""
    folder = tmp_path / "store"
    version = ModelStore(str(folder)).push("router", model, NOW).version
    (folder / "router" / version / "files" / "model.onnx").write_bytes(b"other")
    with pytest.raises(StoreError, match="isn't what its manifest says"):
        ModelStore(str(folder)).pull("router", version, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "store"]


def test_a_manifest_that_was_changed_is_not_taken(model: Path, tmp_path: Path) -> None:
    """A path that leads out of the folder would be another version, and is refused."""
    folder = tmp_path / "store"
    version = ModelStore(str(folder)).push("router", model, NOW).version
    manifest = folder / "router" / version / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"inner/tokens.txt", b"../../tokens.txt"))
    with pytest.raises(StoreError, match="isn't the manifest of this version"):
        ModelStore(str(folder)).pull("router", version, tmp_path / "out")


def test_a_path_that_leads_out_of_the_folder_is_not_taken(tmp_path: Path) -> None:
    """A bucket may be another's, its manifests well-formed."""
    file = ModelFile(path="../tokens.txt", sha256="0" * 64, size_bytes=1)
    made = Manifest(kind="router", version=version_of("router", (file,)), files=(file,), made_at=NOW)
    target = tmp_path / "store" / "router" / made.version / "manifest.json"
    target.parent.mkdir(parents=True)
    target.write_bytes(msgspec.json.encode(made))
    with pytest.raises(StoreError, match="outside the folder"):
        ModelStore(str(tmp_path / "store")).pull("router", made.version, tmp_path / "out")


def test_a_folder_that_is_there_is_not_written_into(model: Path, tmp_path: Path) -> None:
    """It may be the model that is at work."""
    store = ModelStore(str(tmp_path / "store"))
    version = store.push("router", model, NOW).version
    with pytest.raises(StoreError, match="is there already"):
        store.pull("router", version, model)


def test_a_folder_that_cant_be_made_is_said(model: Path, tmp_path: Path) -> None:
    """As what the store can't do."""
    store = ModelStore(str(tmp_path / "store"))
    version = store.push("router", model, NOW).version
    with pytest.raises(StoreError, match=f"router {version}: .*card.json"):
        store.pull("router", version, model / "card.json" / "out")


@pytest.mark.parametrize("wrong", ["ftp://x/y", "s3://"])
def test_an_address_that_is_none_is_said(wrong: str) -> None:
    """In a line."""
    with pytest.raises(StoreError) as failed:
        ModelStore(wrong)
    assert "\n" not in str(failed.value)
