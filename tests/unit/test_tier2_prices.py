"""What a call costs."""

import pytest

from schemas.drafts import Usage
from workers.tier2.prices import cost_micro_usd, price_of, worst_case_micro_usd


def test_every_kind_of_token_has_its_own_price() -> None:
    """100 plain at $2, 1,000 cached at $0.10, 200 written at $2.50, 50 out at $10 per million."""
    usage = Usage(prompt_tokens=1_300, completion_tokens=50, cached_tokens=1_000, cache_write_tokens=200)
    assert cost_micro_usd("claude-sonnet-5-5", usage) == 200 + 100 + 500 + 500


def test_a_fraction_of_a_micro_dollar_is_rounded_up() -> None:
    """One cached token at $0.01 per million is a hundredth of a micro-dollar."""
    assert cost_micro_usd("gpt-6-luna", Usage(prompt_tokens=1, completion_tokens=0, cached_tokens=1)) == 1


def test_a_whole_number_of_micro_dollars_is_not_rounded_up() -> None:
    """Ten tokens at $0.10 are one micro-dollar: binary fractions would make it two."""
    assert cost_micro_usd("gpt-6-luna", Usage(prompt_tokens=30, completion_tokens=0)) == 3


def test_the_worst_case_covers_a_prompt_written_to_the_cache_and_the_longest_answer() -> None:
    """The dearest input price counts: the cache write at Anthropic."""
    assert worst_case_micro_usd("claude-sonnet-5-5", 1_000, 500) == 2_500 + 5_000
    written = Usage(prompt_tokens=1_000, completion_tokens=500, cache_write_tokens=1_000)
    assert cost_micro_usd("claude-sonnet-5-5", written) == 7_500


def test_cached_tokens_beyond_the_prompt_give_no_money_back() -> None:
    """A provider's odd count never makes a cost negative."""
    assert cost_micro_usd("gpt-6.1-sol", Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=1_000)) == 100


def test_a_model_without_a_price_is_named_with_the_file() -> None:
    """The operator reads which model and which file."""
    with pytest.raises(ValueError, match=r"'gpt-9'.*prices\.toml"):
        price_of("gpt-9")
