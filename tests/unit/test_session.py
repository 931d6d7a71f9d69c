"""The session builder: what it refuses, and what it says to install."""

from importlib import metadata
from typing import Any

import onnxruntime
import pytest

from tests.toy_model import metadata as toy_metadata
from tests.toy_model import toy_graph
from workers.router import session as module
from workers.router.session import build_session, runtime

GRAPH = toy_graph(toy_metadata(), [])


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make it look as if these distributions were installed."""

    def version(name: str) -> str:
        if name in names:
            return "1.22"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "version", version)


def test_two_onnxruntimes_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """They overwrite each other's files, so either may be what is imported."""
    installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(RuntimeError, match=r"onnxruntime and onnxruntime-gpu are both installed.*extra cpu or"):
        build_session(GRAPH, "cpu")


def test_a_missing_onnxruntime_says_which_extras_bring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a dependency of its own: only the operator knows which machine this is."""

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    installed(monkeypatch)
    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(RuntimeError, match=r"No module named 'onnxruntime'.*install the extra cpu or the extra gpu"):
        build_session(GRAPH, "cpu")


@pytest.mark.parametrize("names", [["onnxruntime"], ["onnxruntime-gpu"], []])
def test_one_onnxruntime_is_right(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Also one that was built by hand and is no distribution."""
    installed(monkeypatch, *names)
    assert runtime() is onnxruntime


def test_a_gpu_without_the_gpus_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=r"a GPU was asked for.*install the extra gpu instead of cpu"):
        build_session(GRAPH, "cuda")


def test_a_session_that_fell_back_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime with CUDA, on a machine where CUDA doesn't start: it lists the provider and runs on the CPU."""
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda data, options, providers: session(data, options))
    with pytest.raises(RuntimeError, match=r"a GPU was asked for.*did not start"):
        build_session(GRAPH, "cuda")


def test_bytes_that_are_no_graph_are_an_error() -> None:
    """A ValueError, whichever of its classes onnxruntime chose."""
    with pytest.raises(ValueError, match="not a graph that onnxruntime can run"):
        build_session(b"half", "cpu")
