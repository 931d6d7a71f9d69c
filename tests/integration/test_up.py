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
from streams.settings import CONFIG, PREFIX, KafkaSettings, Settings
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
        assert await told(tmp_path / "environment") == environment
        lines = map(orjson.loads, (tmp_path / "logs" / "certify.log").read_bytes().splitlines())
        assert "certify_started" in [line["event"] for line in lines if line.get("stage") == "certify"]
        os.kill(processes.pids()["certify"], signal.SIGKILL)
        await until(lambda: processes.states() == {"certify": "up, restarted 1x"})
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert processes.states() == {}
    assert not (tmp_path / "environment").exists()


async def told(exports: Path) -> dict[str, str]:
    """What a shell that reads the file hands on."""
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", f". '{exports}'; env", env={"PATH": os.environ["PATH"]}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await shell.communicate()
    pairs = dict(line.split("=", 1) for line in said.decode().splitlines())
    return {name: value for name, value in pairs.items() if name.startswith(PREFIX)}


def test_a_providers_key_is_in_no_file(tmp_path: Path) -> None:
    """The file names the variable that holds it, which the other shell has to have, too."""
    frontier = Frontier("openai", "gpt-6.1-sol", "https://api.openai.com", recorded=False, spend_limit_usd=1.0)
    environment = {PREFIX + "TIER2__API_KEY": "sk-secret", PREFIX + "TIER2__PROVIDER": "openai"}
    run = LocalRun(KafkaSettings(), Settings(), environment, frontier, Processes(tmp_path), tmp_path, None)
    assert up._exports(run).splitlines() == [
        'export HEADGATE_TIER2__API_KEY="$OPENAI_API_KEY"',
        "export HEADGATE_TIER2__PROVIDER=openai",
    ]
