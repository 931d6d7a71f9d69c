"""A local tier-1 server for the length of a step."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from workers.tier1.models import ServedModel
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine

START_LIMIT_S = 60.0

MODEL = ServedModel(name="tier1")
"""llama.cpp serves what it has loaded, whatever it is called."""

PATIENCE_S = 600.0
"""For one answer: a step that fails for a slow machine would lose all the answers before."""


@asynccontextmanager
async def served_engine(adapter: Path | None, threads: int = 2) -> AsyncIterator[OpenAIEngine]:
    """Serve the base model, with the adapter if there is one; yields an engine on it.

    Raises: RuntimeError if the server does not start.
    """
    port = _free_port()
    argv = [sys.executable, "-m", "workers.tier1.local_server", "--port", str(port), "--threads", str(threads)]
    argv += ["--adapter", str(adapter)] if adapter else []
    process = await asyncio.to_thread(_started, argv)
    try:
        await _wait(f"http://127.0.0.1:{port}/health", process)
        async with OpenAIEngine(OpenAIConfig(f"http://127.0.0.1:{port}/v1", PATIENCE_S)) as engine:
            yield engine
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if (await client.get(url)).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the tier-1 server did not start within {START_LIMIT_S:.0f} s")


def _started(argv: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
