"""Targets: valid ones only, and the order in which a ticket asks them."""

import random
from collections import Counter
from typing import Any

import pytest

from workers.tier2.targets import Role, Target, cheaper, order

KEY = "sk-test-0123456789"


def target(role: Role = "primary", model: str = "m", **others: Any) -> Target:
    """A valid one, with changes."""
    values: dict[str, Any] = {"provider": "openai", "base_url": "https://api.example/v1", "api_key": KEY}
    return Target(role=role, model=model, **(values | others))


def test_its_name_is_provider_and_model_and_its_key_is_not_shown() -> None:
    """Logs may hold the value as it prints."""
    assert target(model="m-1").name == "openai/m-1"
    assert KEY not in repr(target())


@pytest.mark.parametrize(
    "url", ["", "api.example", "ftp://api.example", "https://", "http://[", "http://a:b", "http://a\n"]
)
def test_an_address_is_http(url: str) -> None:
    """Anything else is an error at start."""
    with pytest.raises(ValueError, match="base_url"):
        target(base_url=url)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_fits_into_a_header_and_is_never_in_the_error(key: str) -> None:
    """The message names the setting and the target only."""
    with pytest.raises(ValueError, match="api_key") as caught:
        target(api_key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_is_a_positive_number(weight: float) -> None:
    """A target that is never to be asked isn't one."""
    with pytest.raises(ValueError, match="weight"):
        target(weight=weight)


def test_a_model_has_a_name() -> None:
    """An empty one would be sent as it is."""
    with pytest.raises(ValueError, match="model"):
        target(model="")


def test_primaries_come_first_then_the_fallbacks_as_listed() -> None:
    """Whatever the draw; the cheaper ones stand apart."""
    targets = [target("fallback", "f1"), target("primary", "p1"), target("cheaper", "c1"), target("fallback", "f2")]
    targets += [target("primary", "p2"), target("cheaper", "c2")]
    for seed in range(20):
        models = [t.model for t in order(targets, random.Random(seed))]
        assert sorted(models[:2]) == ["p1", "p2"]
        assert models[2:] == ["f1", "f2"]
    assert [t.model for t in cheaper(targets)] == ["c1", "c2"]


def test_the_first_primary_is_drawn_by_weight() -> None:
    """Weights 3 to 1 share the tickets 3 to 1."""
    targets, rng = [target(model="often", weight=3.0), target(model="rare")], random.Random(7)
    firsts = Counter(order(targets, rng)[0].model for _ in range(4_000))
    assert firsts["often"] / 4_000 == pytest.approx(0.75, abs=0.03)
