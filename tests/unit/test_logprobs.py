"""The summary of an answer's token log-probabilities."""

from hypothesis import given
from hypothesis import strategies as st

from workers.tier1.logprobs import summarised

LOGPROBS = st.lists(st.floats(-100.0, 0.0), min_size=1, max_size=200)


def test_no_tokens_have_no_summary() -> None:
    """Zeros would look like certainty."""
    assert summarised([]) is None


@given(LOGPROBS)
def test_quantiles_are_in_order_and_are_tokens(logprobs: list[float]) -> None:
    """However the tokens come."""
    found = summarised(logprobs)
    assert found is not None
    assert found == summarised(sorted(logprobs)[::-1])
    assert min(logprobs) == found.minimum <= found.q10 <= found.q50 <= max(logprobs)
    assert {found.minimum, found.q10, found.q50} <= set(logprobs)
    assert found.tokens == len(logprobs)


def test_one_bad_token_shows() -> None:
    """It hides in the mean of a long answer."""
    found = summarised([-0.01] * 99 + [-9.0])
    assert found is not None
    assert found.minimum == -9.0
    assert found.mean > -0.2
