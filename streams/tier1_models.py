"""Tier-1's models at work: those in force, and the watch that puts another file's models in their place.

The engine loads them first; so a ticket is never given to a model that isn't ready.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from prometheus_client import Gauge

from streams.settings import Tier1Settings
from workers.hot_swap import HotSwap, Refused, Swapped
from workers.tier1.engine import Engine
from workers.tier1.models import Models, load_models, single

LOOK_S = 2.0
"""Between two looks at the models file; what it says is in force after two looks and the time that loading takes."""

SHARE = Gauge("headgate_tier1_model_share_ratio", "Share of the new tickets that a model answers, 0 to 1.", ["model"])
REFUSED = Gauge("headgate_tier1_models_refused", "1 while the models file can't be used and an older one goes on.")

log = structlog.get_logger()


@asynccontextmanager
async def models_in_force(config: Tier1Settings, engine: Engine) -> AsyncIterator[Callable[[], Models]]:
    """Load the models into the engine; yields what gives those in force now.

    Raises: ValueError for a models file or a model that can't be used.
    """
    if config.models is None:
        only = single(config.model)
        await engine.load(only.served)
        yield lambda: only
        return
    loop = asyncio.get_running_loop()

    def load(path: Path) -> Models:
        """In a thread: the engine loads on the loop meanwhile."""
        models = load_models(path)
        asyncio.run_coroutine_threadsafe(engine.load(models.served), loop).result()
        return models

    swap = await asyncio.to_thread(HotSwap, config.models, load)
    show(swap.current)
    REFUSED.set(0)
    watching = asyncio.create_task(watch(swap), name="tier1-models")
    try:
        yield lambda: swap.current
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def watch(swap: HotSwap[Models]) -> None:
    """Put a replaced file's models in force, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        if found := await asyncio.to_thread(swap.look):
            report(swap.current, found)


def report(models: Models, found: Swapped | Refused) -> None:
    """Say what became of a new file, in a log line and in the metrics; `models` are those in force."""
    REFUSED.set(isinstance(found, Refused))
    match found:
        case Refused(why):
            log.error(
                "tier1_models_refused",
                error=why,
                consequence=f"version {models.version} goes on answering",
                next="put a usable file in its place; nothing needs a restart",
            )
        case Swapped(old, new) if old != new:
            show(models)
            log.info("tier1_models_swapped", old_version=old, version=new, models=[m.name for m in models.served])


def show(models: Models) -> None:
    """The shares, as metrics. A model that is in force no more has none."""
    SHARE.clear()
    for name, share in models.shares.items():
        SHARE.labels(name).set(share)
