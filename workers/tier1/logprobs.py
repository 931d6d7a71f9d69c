"""An answer's token log-probabilities, summarised: what a draft keeps of them."""

from collections.abc import Sequence

from schemas.generations import LogProbs


def summarised(logprobs: Sequence[float]) -> LogProbs | None:
    """Quantiles of the answer's token log-probabilities: one bad token hides in a mean, not in a minimum."""
    if not logprobs:
        return None
    ordered = sorted(logprobs)
    count = len(ordered)
    return LogProbs(
        mean=sum(ordered) / count, minimum=ordered[0], q10=ordered[count // 10], q50=ordered[count // 2], tokens=count
    )
