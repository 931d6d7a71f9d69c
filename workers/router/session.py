"""The ONNX session: built from the model's bytes, and looked at before it is believed to run where it should."""

import importlib
from importlib import metadata
from typing import Any, Literal

Device = Literal["cpu", "cuda"]

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


def build_session(data: bytes, device: Device) -> Any:
    """An onnxruntime.InferenceSession of the graph in `data`, one thread a run.

    Raises: ValueError if it is no graph that onnxruntime can run; RuntimeError if onnxruntime is missing or
    installed twice, or if a GPU was asked for and can't be had.
    """
    onnxruntime = runtime()
    provider = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(_no_gpu("this onnxruntime has no CUDA: install the extra gpu instead of cpu"))
    options = onnxruntime.SessionOptions()
    # Runs go side by side (passes.py), each in one thread.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[provider])
    except Exception as exc:
        # onnxruntime raises a dozen classes without a common parent of their own.
        raise ValueError(f"not a graph that onnxruntime can run: {exc}") from exc
    # An available provider proves nothing: onnxruntime falls back to the CPU in silence
    # when CUDA's libraries don't load. Only the built session tells.
    if session.get_providers()[0] != provider:
        raise RuntimeError(_no_gpu("CUDA did not start on this machine: look at the driver and the CUDA libraries"))
    return session


def runtime() -> Any:
    """The onnxruntime module.

    Raises: RuntimeError if it is not there, or there twice.
    """
    installed = [name for name in _DISTRIBUTIONS if _installed(name)]
    if len(installed) > 1:
        raise RuntimeError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files: "
            "uninstall both, then install the extra cpu or the extra gpu"
        )
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as exc:
        raise RuntimeError(f"onnxruntime can't be loaded ({exc}): install the extra cpu or the extra gpu") from exc


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _no_gpu(why: str) -> str:
    return f'a GPU was asked for (router.device = "cuda") and {why}'
