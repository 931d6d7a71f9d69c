"""The tier-1 agent's models, watched; its lanes' priorities; and settings that can't work."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from streams import tier1_models
from streams.runtime.stage import Origin
from streams.settings import Settings, Tier1Settings
from streams.tier1 import priority, tier1_engine, tier1_worker
from streams.tier1_models import models_in_force
from tests.fakes import FakeEngine
from tests.kafka import until
from workers.tier1.models import Models

ONE = '[[model]]\nname = "one"\n'
TWO = ONE + 'share = 3\n[[model]]\nname = "two"\n'
FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"


def refused() -> float | None:
    """Whether the file in the models' place can't be used, as /metrics says it."""
    return REGISTRY.get_sample_value("headgate_tier1_models_refused")


def share(model: str) -> float | None:
    return REGISTRY.get_sample_value("headgate_tier1_model_share_ratio", {"model": model})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier1_models, "LOOK_S", 0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "models.toml").write_text(ONE)
    return tmp_path / "models.toml"


def replace(path: Path, text: str) -> None:
    path.with_name("new").write_text(text)
    path.with_name("new").replace(path)


def names(models: Models) -> list[str]:
    return [model.name for model in models.served]


async def test_another_file_is_in_force_once_the_engine_has_loaded_its_models(path: Path) -> None:
    """While they load, tickets go to the old ones."""
    loading, loaded = asyncio.Event(), asyncio.Event()

    class SlowEngine(FakeEngine):
        async def load(self, models) -> None:  # type: ignore[no-untyped-def]
            if len(models) > 1:
                loading.set()
                await loaded.wait()
            await super().load(models)

    engine = SlowEngine()
    async with models_in_force(Tier1Settings(models=path), engine) as models:
        assert names(models()) == engine.loaded == ["one"]
        assert (share("one"), refused()) == (1.0, 0.0)
        replace(path, TWO)
        await asyncio.wait_for(loading.wait(), 10)
        assert names(models()) == ["one"]
        loaded.set()
        await until(lambda: names(models()) == ["one", "two"])
        assert engine.loaded == ["one", "two"]
        await until(lambda: share("two") == 0.25)
        assert share("one") == 0.75
        replace(path, '[[model]]\nname = "two"\n')
        await until(lambda: share("two") == 1.0)
        assert share("one") is None


@pytest.mark.parametrize("text", ["nonsense", '[[model]]\nname = "unusable"\n'])
async def test_a_file_that_cannot_be_used_leaves_the_old_models_in_force(path: Path, text: str) -> None:
    """Whether it can't be read or the engine can't load it; the metric says so until a usable one takes its place."""
    engine = FakeEngine()
    engine.unusable = "unusable"
    async with models_in_force(Tier1Settings(models=path), engine) as models:
        replace(path, text)
        await until(lambda: refused() == 1)
        assert names(models()) == engine.loaded == ["one"]
        replace(path, TWO)
        await until(lambda: refused() == 0)
        assert names(models()) == engine.loaded == ["one", "two"]


async def test_a_file_that_cannot_be_used_stops_the_start(path: Path) -> None:
    """There are no older models to go on with."""
    engine = FakeEngine()
    engine.unusable = "one"
    with pytest.raises(ValueError, match="model one"):
        async with models_in_force(Tier1Settings(models=path), engine):
            pass
    with pytest.raises(ValueError, match=r"none\.toml"):
        async with models_in_force(Tier1Settings(models=path.with_name("none.toml")), engine):
            pass


async def test_without_a_file_the_one_model_answers() -> None:
    """And the engine has loaded it."""
    engine = FakeEngine()
    async with models_in_force(Tier1Settings(model="m"), engine) as models:
        assert names(models()) == engine.loaded == ["m"]


@pytest.mark.parametrize(
    ("topic", "number"),
    [("tier1", 0), ("x.tier1", 0), ("tier1.backfill", 1), ("x.tier1.backfill", 1), ("tier1.retry", 0)],
)
def test_backfill_waits_behind_live_tickets(topic: str, number: int) -> None:
    """Whatever the topics' prefix."""
    assert priority(Origin(topic, 0, 0)) == number


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cost": "token"}, r"tier1\.usd_per_million_prompt_tokens"),
        ({"max_tokens": 768}, r"tier1\.context_tokens"),
        ({"engine": "vllm"}, r"tier1\.(model_folder|engine)"),
    ],
)
async def test_settings_that_cannot_work_stop_the_start(changes: dict[str, object], named: str) -> None:
    """By their names."""
    tier1 = Tier1Settings(**changes)  # type: ignore[arg-type]
    settings = Settings().model_copy(update={"knowledge": FERNWAY / "knowledge.toml", "tier1": tier1})
    with pytest.raises(ValueError, match=named):
        async with tier1_worker(settings):
            pass


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Callable[[], Models]]:
    config = Tier1Settings(models=path)
    async with tier1_engine(config) as engine, models_in_force(config, engine) as models:
        yield models


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ONE + 'adapter = "a"\n', "model one: the server loads its adapters itself"),
        (ONE + "[model.extra]\nmax_tokens = 5\n", "model one: extra can't set max_tokens"),
    ],
)
async def test_what_a_server_cannot_be_asked_for_is_refused(path: Path, text: str, why: str) -> None:
    """Instead of being passed over in silence."""
    replace(path, text)
    with pytest.raises(ValueError, match=why):
        async with served(path):
            pass
