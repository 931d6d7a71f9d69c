"""What a call costs."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.generations import Usage
from workers.tier2.prices import TABLE, Price, Prices

TODAY = date(2026, 11, 25)
BUILT_IN = Prices.load()
MODELS = sorted({model for model, _ in BUILT_IN.rows})

ROW = """
[[price]]
model = "{model}"
provider = "openai"
from = {day}
input = {input}
output = 4
cached = 0.1
cache_write = 1
source = "the contract"
"""


def _price(model: str) -> Price:
    return BUILT_IN.of(model, TODAY)


def _table(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text("".join(rows), "utf-8")
    return path


def _row(model: str = "ours", day: str = "2026-11-01", input_: str = "1") -> str:
    return ROW.format(model=model, day=day, input=input_)


def test_every_kind_of_token_has_its_own_price() -> None:
    """100 plain at $2, 1,000 cached at $0.10, 200 written at $2.50, 50 out at $10 per million."""
    usage = Usage(prompt_tokens=1_300, completion_tokens=50, cached_tokens=1_000, cache_write_tokens=200)
    assert _price("claude-sonnet-5-5").cost_micro_usd(usage) == 200 + 100 + 500 + 500


def test_a_fraction_of_a_micro_dollar_is_rounded_up() -> None:
    """One cached token at $0.01 per million is a hundredth of a micro-dollar."""
    assert _price("gpt-6-luna").cost_micro_usd(Usage(prompt_tokens=1, completion_tokens=0, cached_tokens=1)) == 1


def test_a_whole_number_of_micro_dollars_is_not_rounded_up() -> None:
    """Thirty tokens at $0.10 are three micro-dollars: binary fractions would make it four."""
    assert _price("gpt-6-luna").cost_micro_usd(Usage(prompt_tokens=30, completion_tokens=0)) == 3


def test_a_batch_costs_half() -> None:
    """1,000 in at $2 and 100 out at $10 are 3,000; rounding comes after halving."""
    price = _price("gpt-6.1-sol")
    assert price.cost_micro_usd(Usage(prompt_tokens=1_000, completion_tokens=100), batch=True) == 1_500
    assert price.cost_micro_usd(Usage(prompt_tokens=1, completion_tokens=1), batch=True) == 6


def test_a_long_prompt_is_charged_wholly_at_the_long_prices() -> None:
    """At 100,000 tokens the usual price holds; one more makes every token five times as dear."""
    price = _price("claude-haiku-5-5")
    assert price.cost_micro_usd(Usage(prompt_tokens=100_000, completion_tokens=100)) == 10_000 + 50
    longer = Usage(prompt_tokens=100_001, completion_tokens=100, cached_tokens=100_001)
    assert price.cost_micro_usd(longer) == 5_001 + 250


def test_the_worst_case_covers_a_prompt_written_to_the_cache_and_the_longest_answer() -> None:
    """The dearest input price counts: the cache write."""
    price = _price("claude-sonnet-5-5")
    assert price.worst_case_micro_usd(1_000, 500) == 2_500 + 5_000
    written = Usage(prompt_tokens=1_000, completion_tokens=500, cache_write_tokens=1_000)
    assert price.cost_micro_usd(written) == 7_500


@given(
    st.sampled_from(MODELS),
    st.integers(0, 400_000),
    st.integers(0, 2_000),
    st.floats(0, 1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.booleans(),
)
def test_no_call_costs_more_than_its_worst_case(
    model: str, most_tokens: int, max_tokens: int, answered: float, shares: tuple[float, float], batch: bool
) -> None:
    """Whatever part of the bounds was used, cached or written, on either side of the long-context bound."""
    prompt = int(most_tokens * answered)
    cached = int(prompt * shares[0])
    written = int((prompt - cached) * shares[1])
    completion = int(max_tokens * answered)
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, cache_write_tokens=written)
    price = _price(model)
    assert 0 <= price.cost_micro_usd(usage, batch) <= price.worst_case_micro_usd(most_tokens, max_tokens)


def test_cached_tokens_beyond_the_prompt_give_no_money_back() -> None:
    """A provider's odd count never makes a cost negative."""
    usage = Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=1_000)
    assert _price("gpt-6.1-sol").cost_micro_usd(usage) == 100


def test_a_model_without_a_price_is_named_with_the_setting_that_adds_one(tmp_path: Path) -> None:
    """The operator reads which model, which setting and which file."""
    with pytest.raises(ValueError, match=r"'gpt-9'.*tier2\.prices.*prices\.toml"):
        BUILT_IN.of("gpt-9", TODAY)
    own = _table(tmp_path, _row())
    with pytest.raises(ValueError, match=r"'gpt-9'.*own\.toml.*tier2\.prices"):
        Prices.load(own).of("gpt-9", TODAY)


def test_the_newest_row_that_has_begun_counts(tmp_path: Path) -> None:
    """A price change can be written down before its day, and an old call keeps its price."""
    prices = Prices.load(_table(tmp_path, _row(), _row(day="2026-12-01", input_="3")))
    inputs = [prices.of("ours", day).input for day in (TODAY, date(2026, 11, 30), date(2026, 12, 1), date(2027, 1, 1))]
    assert inputs == [1, 1, 3, 3]
    with pytest.raises(ValueError, match="no price for model 'ours' on 2026-10-31"):
        prices.of("ours", date(2026, 10, 31))


def test_a_row_of_ones_own_wins_by_model_and_day(tmp_path: Path) -> None:
    """The other models keep the built-in rows."""
    prices = Prices.load(_table(tmp_path, _row("gpt-6-luna", input_="0.07")))
    assert str(prices.of("gpt-6-luna", TODAY).input) == "0.07"
    assert prices.of("gpt-6.1-sol", TODAY) == _price("gpt-6.1-sol")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([_row(), _row(input_="-1")], r"own\.toml: price 2 \(ours\): input is -1"),
        ([_row(input_="nan")], r"price 1 \(ours\): input is NaN"),
        ([_row(input_="inf")], r"price 1 \(ours\): input is Infinity"),
        ([_row(input_='"a"')], r"price 1 \(ours\): "),
        ([_row(), "discount = 2\n"], r"price 1 \(ours\): .*discount"),
        ([_row().replace("output = 4", "")], r"price 1 \(ours\): .*output"),
        ([_row().replace("source", "# source")], r"price 1 \(ours\): .*source"),
        ([_row(day="1")], r"price 1 \(ours\): .*from"),
        ([_row().replace("openai", "mistral")], r"price 1 \(ours\): .*provider"),
        ([_row(), "long = { above_tokens = 9, input = 1, output = 1 }\n"], r"price 1 \(ours\): .*cached.*long"),
        (
            [_row(), "long = { above_tokens = -9, input = 1, output = 1, cached = 1, cache_write = 1 }\n"],
            "above_tokens",
        ),
        ([_row(), _row()], r"price 2 \(ours\): there is a row"),
        (["[ours]\ninput = 1\n"], r"own\.toml is not a price table"),
        (["[[price"], r"own\.toml is not a price table"),
        (["[[price]]\ninput = 1\n"], r"price 1 \(no model\)"),
    ],
)
def test_a_wrong_table_is_refused_with_file_and_row(tmp_path: Path, rows: list[str], said: str) -> None:
    """A wrong price would be a wrong spend limit."""
    with pytest.raises(ValueError, match=said):
        Prices.load(_table(tmp_path, *rows))


def test_the_built_in_table_names_a_source_for_each_row_and_begins_before_it_was_read() -> None:
    """Each row can be checked, and each model has a price on the day of the snapshot."""
    assert all(row.source.startswith("https://") for row in BUILT_IN.rows.values())
    assert all(_price(model) for model in MODELS)
    assert {"claude-sonnet-5-5", "gpt-6.1-terra"} <= set(MODELS)
    assert "genai-prices 0.2.3" in TABLE.read_text("utf-8")
