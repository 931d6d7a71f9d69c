"""One process, one stage: `headgate run STAGE`.

Exit codes: 0 stopped as told; 1 a bug or a lost dependency, start it again;
2 wrong settings, starting it again will not help.
"""

import asyncio
import logging
import signal
import sys
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Literal, get_args

import orjson
import structlog

from schemas.events import StageName
from streams import connection, telemetry
from streams.runtime import metrics
from streams.runtime.group import DuplicateInstanceError
from streams.runtime.loop import StageLoop, tune_interpreter
from streams.runtime.stage import Stage
from streams.settings import Settings, SettingsError

STAGES: tuple[StageName, ...] = get_args(StageName)
Process = Literal[StageName, "scoreboard", "tier2-batch"]
"""What `headgate run` runs."""

HANG_S = 30.0
"""A loop that has not moved for this long is reported dead by /healthz."""

SELDOM_S = 10.0
"""A library's message is not repeated sooner."""

log = structlog.get_logger()


def _stage(name: StageName, settings: Settings) -> AbstractAsyncContextManager[Stage[Any]]:
    # Imported here: each brings libraries that the others do without, and seconds at the start.
    match name:
        case "router":
            from streams import router

            return router.stage(settings)
        case "tier1":
            from streams import tier1

            return tier1.stage(settings)
        case "tier2":
            from streams import tier2

            return tier2.stage(settings)
        case "checker":
            from streams import checker

            return checker.stage(settings)
        case "judge":
            from streams import judge

            return judge.stage(settings)


class _Seldom(logging.Filter):
    """Lets a library say the same thing once in a while: without its broker aiokafka says 60 a second (measured)."""

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, what = record.created, f"{record.name}: {record.msg}"
        if now - self._said_s.get(what, 0.0) < SELDOM_S:
            return False
        self._said_s[what] = now
        return True


def configure_logs(stage: str, level: str) -> None:
    """JSON lines on stderr, each with the stage's name; the libraries' warnings too."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(stage=stage)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format='{"logger":"%(name)s","event":"%(message)s"}')
    for handler in logging.root.handlers:
        handler.addFilter(_Seldom())


async def run(name: Process, settings: Settings) -> int:
    """Run a stage or another process until SIGTERM or SIGINT; returns the exit code."""
    configure_logs(name, settings.log_level)
    try:
        if not await connection.check(settings.kafka):
            log.warning("kafka_unanswering", next="waiting for it; kafka.security_protocol must be that of its port")
        if name == "scoreboard":
            # Needs the extra `scoreboard`, which stages do without.
            from streams.scoreboard import process

            return await process.run(settings)
        if name == "tier2-batch":
            from streams import tier2_batch

            return await tier2_batch.run(settings)
        async with telemetry.collected(name) as spans, _stage(name, settings) as stage:
            return await _run(replace(stage, spans=spans), settings)
    except (SettingsError, ValueError, FileNotFoundError, RuntimeError) as exc:
        # Whatever a stage raises while it is being built comes from what it was configured with.
        log.error("stage_not_started", error=str(exc), next="correct the setting named and start again")
        return 2


async def _run(stage: Stage[Any], settings: Settings) -> int:
    loop = StageLoop(stage, settings.kafka)
    tune_interpreter()
    engine_ready = stage.ready is None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, loop.stop)

    async def watch_engine() -> None:
        nonlocal engine_ready
        while stage.ready is not None:
            answered = False
            try:
                answered = await stage.ready()
            finally:
                # A check that fails for a reason of its own must not leave the last good answer standing.
                engine_ready = answered
            await asyncio.sleep(2.0)

    health = metrics.Health(
        alive=lambda: time.monotonic() - loop.beat < HANG_S,
        ready=lambda: loop.joined and engine_ready,
    )
    server = metrics.serve(settings.health_port, health)
    log.info("stage_started", health_port=server.server_port, topic=loop.topic, group=loop.group)
    watcher = asyncio.create_task(watch_engine())
    try:
        await loop.run()
    except DuplicateInstanceError:
        name = f"kafka.group_instance_id {settings.kafka.group_instance_id}"
        log.error("stage_stopped", error=f"{name} is used by another process, too", next="give each its own")
        return 2
    except Exception:
        log.exception("stage_failed", next="exiting, so that the supervisor starts it again")
        return 1
    finally:
        watcher.cancel()
        server.shutdown()
    log.info("stage_stopped")
    return 0
