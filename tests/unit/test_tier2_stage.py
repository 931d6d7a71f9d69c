"""The tier-2 agent: keys and limits from the settings, and how a ticket reaches a person."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from schemas.answers import Handoff, HandoffReason
from schemas.topics import HANDOFFS
from streams.runtime.stage import DeadLetter, Done, Origin, Record
from streams.settings import Settings, SettingsError, SpendSettings, TargetSettings, TenantSpendSettings, Tier2Settings
from streams.tier2 import frontier_config, spend_limits, stage_on, to_a_person
from tests.records import a_routed
from workers.tier2.client import HandoffError, Why
from workers.tier2.spend import SpendLimits, limits_of
from workers.tier2.spend_desk import LocalSpend

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
KEY = "sk-test-0123456789"
RECORD = Record(a_routed(), Origin("tier2", 3, 42), 0.0)


def settings(**tier2: Any) -> Settings:
    return Settings().model_copy(update={"knowledge": FERNWAY / "knowledge.toml", "tier2": Tier2Settings(**tier2)})


def fallback(**key: Any) -> TargetSettings:
    return TargetSettings(provider="openai", base_url="https://api.openai.com", model="gpt-6-luna", **key)


@pytest.mark.parametrize("where", ["api_key", "api_key_file", "api_key_env"])
def test_a_key_comes_from_the_settings_a_file_or_a_variable(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may end with a newline, as editors and secret mounts leave one."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("FALLBACK_KEY", KEY)
    value = {"api_key": KEY, "api_key_file": tmp_path / "key", "api_key_env": "FALLBACK_KEY"}[where]
    first: dict[str, Any] = {} if where == "api_key_env" else {where: value}
    config = frontier_config(settings(**({"api_key": KEY} | first), targets=(fallback(**{where: value}),)), "tier2")
    assert [t.api_key for t in config.targets] == [KEY, KEY]
    assert [t.role for t in config.targets] == ["primary", "fallback"]
    assert KEY not in repr(config)


@pytest.mark.parametrize(
    ("tier2", "named"),
    [
        ({}, "tier2.api_key is not set"),
        ({"api_key_file": Path("/nowhere/key")}, "tier2.api_key_file can't be read"),
        ({"api_key": KEY, "targets": (fallback(),)}, r"tier2\.targets\.0\.api_key is not set"),
        ({"api_key": KEY, "targets": (fallback(api_key_env="NO_SUCH_KEY"),)}, "NO_SUCH_KEY, which is not set"),
    ],
)
def test_a_missing_key_is_named(tier2: dict[str, Any], named: str) -> None:
    """With the setting to be set; a key that is there is never shown."""
    with pytest.raises(SettingsError, match=named) as missing:
        frontier_config(settings(**tier2), "tier2")
    assert KEY not in str(missing.value)


def test_an_unknown_model_stops_the_start() -> None:
    """Without a price there would be no spend limit."""
    with pytest.raises(ValueError, match="gpt-9"):
        frontier_config(settings(api_key=KEY, model="gpt-9"), "tier2")


def test_limits_are_the_settings() -> None:
    """For all, for each tenant, and for one that has its own instead."""
    each, own = TenantSpendSettings(day_usd=2.0), TenantSpendSettings(minute_usd=0.5)
    limits = spend_limits(SpendSettings(month_usd=100.0, each_tenant=each, tenants={"acme": own}))
    told = {t: [(x.scope, x.period, x.micro_usd) for x in limits_of(limits, t)] for t in ("acme", "other")}
    everybody = ("all", "month", 100_000_000)
    assert told == {
        "acme": [everybody, ("tenant", "minute", 500_000)],
        "other": [everybody, ("tenant", "day", 2_000_000)],
    }


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("unavailable", HandoffReason.TIER2_UNAVAILABLE),
        ("rejected", HandoffReason.TIER2_REJECTED),
        ("spend_limit", HandoffReason.SPEND_LIMIT),
    ],
)
def test_a_person_gets_what_no_target_answered(why: Why, reason: HandoffReason) -> None:
    """With the reason and the calls' cost; the event has what they may have cost beyond it."""
    done = to_a_person(RECORD, HandoffError(why, "HTTP 529", calls=3, cost_usd=0.25, exposure_usd=0.5))
    assert isinstance(done, Done)
    (output,) = done.outputs
    assert isinstance(output.value, Handoff)
    assert (output.topic, output.value.reason, output.value.costs.tier2_usd) == (HANDOFFS, reason, 0.25)
    event = done.event
    assert (event.reasons, event.calls, event.cost_usd, event.exposure_usd) == ((reason,), 3, 0.25, 0.5)


def test_a_bug_of_ours_is_a_dead_letter() -> None:
    """A person could do nothing about it."""
    assert isinstance(to_a_person(RECORD, KeyError("x")), DeadLetter)


async def test_the_metrics_tell_of_every_target() -> None:
    """Pace, breaker and money, read when somebody asks."""
    spend = LocalSpend(SpendLimits())
    limits = SpendSettings(month_usd=20.0)
    async with stage_on(spend, settings(api_key=KEY, targets=(fallback(api_key=KEY),), spend=limits)):
        reserved = await spend.reserve("default", 1_500_000, patience_s=1.0)
        spend.settle(reserved, 250_000)
        names = ("anthropic/claude-sonnet-5-5", "openai/gpt-6-luna")
        broken = [REGISTRY.get_sample_value("headgate_tier2_breaker_open", {"target": n}) for n in names]
        assert broken == [0.0, 0.0]
        assert REGISTRY.get_sample_value("headgate_tier2_concurrency", {"target": names[0]}) >= 1  # type: ignore[operator]
        assert REGISTRY.get_sample_value("headgate_tier2_spend_usd", {"period": "month"}) == 0.25
        assert REGISTRY.get_sample_value("headgate_tier2_spend_limit_usd", {"period": "month"}) == 20.0
        assert REGISTRY.get_sample_value("headgate_tier2_spend_limit_usd", {"period": "day"}) is None
