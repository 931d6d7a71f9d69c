"""`headgate up` beyond what the demo starts, on a real broker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from streams.command import FERNWAY
from streams.local import up
from streams.local.embedded_kafka import EmbeddedKafka
from streams.local.machine import Frontier, LocalRun
from streams.local.processes import Processes
from streams.settings import CONFIG, PREFIX, Settings
from tests.kafka import kafka_settings, until

pytestmark = pytest.mark.integration


async def test_certify_runs_beside_the_stages_and_is_started_again(
    kafka: EmbeddedKafka, topics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has looked at the labels, everything is up; if it is killed, it comes back. It ends with the rest."""
    processes = Processes(tmp_path / "logs")
    environment = {
        CONFIG: str(FERNWAY / "headgate.toml"),
        PREFIX + "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        PREFIX + "KAFKA__TOPIC_PREFIX": topics,
    }
    settings = kafka_settings(kafka.bootstrap_servers, topics)
    frontier = Frontier("anthropic", "claude-sonnet-5-5", "http://127.0.0.1:1", recorded=True, spend_limit_usd=None)

    @asynccontextmanager
    async def without_stages(*_: Any) -> AsyncIterator[LocalRun]:
        # Models and stages take half a minute to start; the demo, which CI runs, starts them in the same way.
        try:
            yield LocalRun(settings, Settings(), environment, frontier, processes, tmp_path, None)
        finally:
            await asyncio.to_thread(processes.stop)

    monkeypatch.setattr(up, "local_run", without_stages)
    said = StringIO()
    running = asyncio.create_task(up.up(Settings(), FERNWAY, tmp_path, True, 1.0, Console(file=said)))
    try:
        await until(lambda: "Headgate is up" in said.getvalue() or running.done(), limit_s=80.0)
        assert processes.states() == {"certify": "up"}
        lines = map(orjson.loads, (tmp_path / "logs" / "certify.log").read_bytes().splitlines())
        assert "certify_started" in [line["event"] for line in lines if line.get("stage") == "certify"]
        os.kill(processes.pids()["certify"], signal.SIGKILL)
        await until(lambda: processes.states() == {"certify": "up, restarted 1x"})
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert processes.states() == {}
