"""The router's models at work: the one in force, a shadow beside it, and the watch that replaces either's file."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import structlog
from prometheus_client import Gauge

from streams.settings import RouterSettings
from workers.hot_swap import HotSwap, Refused, Swapped
from workers.router.classifier import Classifier, Scores

Role = Literal["active", "shadow"]
Models = Mapping[Role, HotSwap[Classifier]]
"""`active` is always there."""

LOOK_S = 2.0
"""Between two looks at a model's file; a new one is in force after two looks and the second that it takes to load."""

MODEL = Gauge("headgate_router_model_info", "1 for the model that scores tickets in a role.", ["role", "version"])
REFUSED = Gauge(
    "headgate_router_model_refused",
    "1 while the file in a model's place can't be used and an older one goes on.",
    ["role"],
)

log = structlog.get_logger()


def load_models(config: RouterSettings) -> Models:
    """Load the model in force and the shadow, if there is one. Blocks for a second or two.

    Raises: ValueError, RuntimeError if one can't be used as configured; a shadow's names its setting.
    """

    def load(path: Path) -> Classifier:
        return Classifier(path, device=config.device, threads=config.threads)

    models: dict[Role, HotSwap[Classifier]] = {"active": HotSwap(config.model, load)}
    if config.shadow_model:
        try:
            models["shadow"] = HotSwap(config.shadow_model, load)
        except ValueError as exc:
            raise ValueError(f"router.shadow_model can't be used: {exc}") from exc
    for role, model in models.items():
        MODEL.labels(role, model.current.version).set(1)
        REFUSED.labels(role).set(0)
    return models


async def watch(models: Models) -> None:
    """Put a replaced file's model in force, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        for role, model in models.items():
            if found := await asyncio.to_thread(model.look):
                report(role, model, found)


def report(role: Role, model: HotSwap[Classifier], found: Swapped | Refused) -> None:
    """Say what became of a new file, in a log line and in the metrics."""
    REFUSED.labels(role).set(isinstance(found, Refused))
    match found:
        case Refused(why):
            log.error(
                "router_model_refused",
                role=role,
                error=why,
                consequence=f"version {model.current.version} goes on scoring",
                next="put a usable file in its place; nothing needs a restart",
            )
        case Swapped(old, new) if old != new:
            MODEL.remove(role, old)
            MODEL.labels(role, new).set(1)
            log.info("router_model_swapped", role=role, old_version=old, version=new)


async def shadow_scores(models: Models, texts: Sequence[str]) -> tuple[str, list[Scores]] | None:
    """What the shadow says of the same texts, and its version; None if there is no shadow or if it failed."""
    shadow = models.get("shadow")
    if shadow is None:
        return None
    classifier = shadow.current
    try:
        return classifier.version, await asyncio.to_thread(classifier.classify, texts)
    except Exception as exc:
        # It is only a candidate: a failure of its own must not hurt a ticket. The error's text may hold ticket text.
        log.error("router_shadow_failed", version=classifier.version, error=type(exc).__name__)
        return None
