"""`headgate run scoreboard`: the application, its pages, and what ends them."""

import asyncio
import logging
import signal
import time

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.topics import all_names
from streams.connection import connection
from streams.policies import load_policy
from streams.runtime import metrics
from streams.runtime.group import instance_of, members
from streams.scoreboard.application import GROUP, Scoreboard
from streams.scoreboard.board import INPUTS
from streams.scoreboard.server import serving
from streams.settings import KafkaSettings, Settings
from streams.topics import TopicsError, partition_counts

STOP_LIMIT_S = 20.0
HANG_S = 30.0
"""A loop that has not moved for this long is reported dead by /healthz."""
BEAT_S = 1.0
WAIT_S, SAID_S = 0.5, 30.0
"""Between two looks for another scoreboard, and between two words about it."""
COORDINATOR_LIMIT_S = 30.0
AGAIN = "exiting, so that the supervisor starts it again"

log = structlog.get_logger()


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    Raises: SettingsError for an address that can't be used; ValueError for a policy file that can't.
    """
    load_policy(settings.policy)
    # It says at every hundredth change of a table that it waits for the hundred before.
    logging.getLogger("faust.transport.producer").setLevel(logging.ERROR)
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        partitions = await _partitions(settings)
        if not await _alone(settings.kafka, stopped):
            return 0
    except TopicsError as exc:
        log.error("scoreboard_not_started", error=str(exc), next=AGAIN)
        return 1
    scoreboard = Scoreboard(settings.kafka, settings.scoreboard, partitions)
    beat = _Beat()
    server = metrics.serve(settings.health_port, metrics.Health(beat.is_alive, lambda: scoreboard.is_loaded))
    beating = asyncio.create_task(beat.beat())
    try:
        async with serving(scoreboard, settings) as address:
            log.info("scoreboard_started", address=address, health_port=server.server_port)
            return await _until_ended(scoreboard, stopped)
    finally:
        beating.cancel()
        server.shutdown()


async def _until_ended(scoreboard: Scoreboard, stopped: "asyncio.Future[None]") -> int:
    starting = asyncio.ensure_future(scoreboard.start())
    starting.add_done_callback(lambda _: scoreboard.fail_with(starting))
    await asyncio.wait({stopped, scoreboard.failed}, return_when=asyncio.FIRST_COMPLETED)
    failed = scoreboard.failed.exception() if scoreboard.failed.done() else None
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await scoreboard.stop()
    except TimeoutError:
        log.warning("scoreboard_stopped_late", consequence="a start reads more of the topics again")
    if failed is None:
        log.info("scoreboard_stopped")
        return 0
    log.error("scoreboard_failed", error=f"{type(failed).__name__}: {failed}", next=AGAIN)
    return 1


async def _alone(kafka: KafkaSettings, stopped: "asyncio.Future[None]") -> bool:
    """Wait until nobody else is the scoreboard: two would take the partitions from each other for ever. False if this
    one is stopped before.

    Raises: TopicsError if the broker can't be reached.
    """
    group, own = kafka.topic_prefix + GROUP, kafka.group_instance_id
    admin = AIOKafkaAdminClient(**connection(kafka))
    said_s, deadline_s = -SAID_S, time.monotonic() + COORDINATOR_LIMIT_S
    try:
        await admin.start()
        while not stopped.done():
            try:
                # The group's own member of before, under its name, is this one.
                others = [m for m in await members(admin, group) if own is None or instance_of(m) != own]
            except KafkaError:
                # A cluster on which nobody ever had a group first makes itself a place to keep groups in.
                if time.monotonic() > deadline_s:
                    raise
            else:
                if not others:
                    return True
                if time.monotonic() - said_s >= SAID_S:
                    said_s = time.monotonic()
                    log.info("scoreboard_waits", members=len(others), until="the other scoreboard has ended")
            await asyncio.wait({stopped}, timeout=WAIT_S)
        return False
    except (KafkaError, OSError) as exc:
        raise TopicsError(f"Kafka at {kafka.bootstrap_servers}: {exc or type(exc).__name__}") from exc
    finally:
        await admin.close()


async def _partitions(settings: Settings) -> dict[str, int]:
    """How many the topics have that are read. Raises: TopicsError if the broker can't be reached or one is missing."""
    prefix = settings.kafka.topic_prefix
    # The tables' changelogs and what the pages read must be there, too.
    topics = all_names(prefix).items()
    ours = [name for name, topic in topics if "scoreboard" in (*topic.read_by, *topic.written_by)]
    found = await partition_counts(settings.kafka, ours)
    return {prefix + name: found[prefix + name] for name in INPUTS}


class _Beat:
    """Whether the loop moves."""

    def __init__(self) -> None:
        self._beat_s = time.monotonic()

    def is_alive(self) -> bool:
        return time.monotonic() - self._beat_s < HANG_S

    async def beat(self) -> None:
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(BEAT_S)
