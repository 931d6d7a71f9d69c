"""The learned scorer: how likely is it that a draft is acceptable? An ONNX graph over the draft's features."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from workers.checker.features import NAMES

FEATURES, SCORE = "features", "score"
"""The graph's input, (n, len(NAMES)) float32, and output, (n,) float32."""


class Scorer:
    """A fitted scorer."""

    def __init__(self, graph: bytes) -> None:
        """Raises: ValueError if the graph is none, or was fitted on other features than this code computes."""
        options = ort.SessionOptions()
        # A batch takes microseconds: more threads would only wait for each other.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's own exceptions have no common base but this one
            raise ValueError(f"no ONNX graph: {exc}") from exc
        said = self._session.get_modelmeta().custom_metadata_map
        if said.get("features") != ",".join(NAMES):
            raise ValueError("it was fitted on other features: fit it again (headgate learn checker)")
        self.version: str = said["version"]

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities, (n,), of feature vectors, (n, len(NAMES))."""
        (scores,) = self._session.run([SCORE], {FEATURES: features})
        return np.asarray(scores, np.float64).reshape(-1)


def load_scorer(path: Path) -> Scorer:
    """Read a scorer.

    Raises: ValueError naming the file if it can't be read or used.
    """
    try:
        return Scorer(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ValueError(f"checker scorer {path}: {exc}") from exc
