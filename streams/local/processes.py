"""The processes that one machine's run consists of: started, watched, restarted where that helps, and stopped.

Every child runs in a session of its own, so that Ctrl-C reaches only us and we
stop the children in order; should we be killed, the kernel stops them (Linux).
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from streams.local.spawn import spawn

STOP_LIMIT_S = 40.0
"""Longer than a stage's drain time; past it a child is killed."""
MOST_RESTARTS = 5
"""A child that dies this often will not get better by itself."""


class StepError(Exception):
    """A step of a local run failed: what, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process to run."""

    name: str
    argv: tuple[str, ...]
    ready_url: str
    """Answers 2xx once the process can be used."""
    environment: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False
    """Whether to start it again when it dies: stages yes, they continue where they were."""


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    restarts: int = 0


class Processes:
    """The children of one local run. Logs go to `folder`/NAME.log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, _Running] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, child: Child) -> None:
        """Start a child; `wait_ready` says when it can be used."""
        self._running[child.name] = _Running(child, self._spawn(child))

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        with (self.folder / f"{child.name}.log").open("ab") as log:
            return spawn(
                child.argv,
                output=log.fileno(),
                when_orphaned=signal.SIGTERM,
                environment={**os.environ, **child.environment},
            )

    async def wait_ready(self, name: str, limit_s: float = 60.0) -> None:
        """Wait until the child answers.

        Raises: StepError with the end of its log if it dies or stays silent.
        """
        running = self._running[name]
        deadline = time.monotonic() + limit_s
        async with httpx.AsyncClient(timeout=2.0) as client:
            while time.monotonic() < deadline:
                if running.process.poll() is not None:
                    raise StepError(
                        f"{name} ended at once (exit code {running.process.returncode})\n{self._tail(name)}"
                    )
                try:
                    if (await client.get(running.child.ready_url)).is_success:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        raise StepError(f"{name} was not ready within {limit_s:.0f} s\n{self._tail(name)}")

    async def watch(self) -> None:
        """Start children again that die, for ever.

        Raises: StepError when one dies that can't be, or dies too often.
        """
        while True:
            for running in self._running.values():
                if running.process.poll() is not None:
                    self._restart(running)
            await asyncio.sleep(0.2)

    def _restart(self, running: _Running) -> None:
        name, code = running.child.name, running.process.returncode
        if not running.child.restart or running.restarts >= MOST_RESTARTS:
            raise StepError(f"{name} ended (exit code {code})\n{self._tail(name)}")
        running.restarts += 1
        running.process = self._spawn(running.child)

    def states(self) -> dict[str, str]:
        """Each child's state in a word or two, for the screen."""
        return {
            name: ("stopped" if r.process.poll() is not None else "up")
            + (f", restarted {r.restarts}x" if r.restarts else "")
            for name, r in self._running.items()
        }

    def pids(self) -> dict[str, int]:
        """Each child's process id."""
        return {name: r.process.pid for name, r in self._running.items()}

    def stop(self) -> None:
        """Stop every child: all are asked at once, those that don't listen are killed."""
        for running in self._running.values():
            running.process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        for running in self._running.values():
            try:
                running.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        self._running.clear()

    def _tail(self, name: str, lines: int = 12) -> str:
        path = self.folder / f"{name}.log"
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
        return "\n".join([f"the end of {path}:", *text.splitlines()[-lines:]])
