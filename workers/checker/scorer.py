"""The learned scorer: how likely is it that a draft is acceptable? A logistic model over the draft's features."""

from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from workers.checker.features import NAMES


class Scorer(Struct, frozen=True, kw_only=True):
    """A fitted scorer. The lists run parallel to `features`."""

    version: str
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities, (n,), of feature vectors, (n, len(features))."""
        standardised = (features - np.array(self.mean)) / np.array(self.scale)
        return np.asarray(1 / (1 + np.exp(-(standardised @ np.array(self.coefficients) + self.intercept))))


def load_scorer(path: Path) -> Scorer:
    """Read a scorer.

    Raises: ValueError if it can't be read or was fitted on other features than this code computes.
    """
    try:
        scorer = msgspec.json.decode(path.read_bytes(), type=Scorer)
    except (OSError, msgspec.DecodeError) as exc:
        raise ValueError(f"checker scorer {path}: {exc}") from exc
    if scorer.features != NAMES:
        raise ValueError(f"checker scorer {path} was fitted on other features: fit it again (make learn)")
    return scorer
