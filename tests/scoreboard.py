"""A scoreboard process of a test's own, and what it should say."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from schemas.codec import encode
from schemas.events import Event
from schemas.policy import Policy
from streams.local.ports import free_port
from streams.scoreboard.summary import Summary
from streams.scoreboard.tally import Cell, CellKey, cell_of, key_of, merge

V = TypeVar("V", bound=msgspec.Struct)


class Scoreboard:
    """The process, with a folder for its policy file and its log."""

    def __init__(self, folder: Path, servers: str, prefix: str, policy: Policy, **settings: str) -> None:
        """`settings` beside those of the broker, by their names in the environment."""
        self.address = f"http://127.0.0.1:{(port := free_port())}/"
        self.seen = ""
        """All that it has answered."""
        own = {"KAFKA__BOOTSTRAP_SERVERS": servers, "KAFKA__TOPIC_PREFIX": prefix, "SCOREBOARD__PORT": str(port)}
        self._environment = {**os.environ, **{f"HEADGATE_{name}": value for name, value in (own | settings).items()}}
        self._folder = folder
        (folder / "policy.json").write_bytes(encode(policy))
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "run", "scoreboard"],
                env={**self._environment, "PYTHONPATH": str(Path(__file__).parents[1])},
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        return self.process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def files(self) -> set[str]:
        """Names of what is in its folder."""
        return {path.name for path in self._folder.iterdir()}

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text("utf-8", "replace")

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.address, timeout=30) as client:
            response = await client.get(path)
            self.seen += response.text
            return response

    async def says(self, path: str, view: type[V]) -> V:
        response = await self.get(path)
        assert response.is_success, response.text
        return msgspec.json.decode(response.content, type=view)

    async def summary(self) -> Summary | None:
        """None while it doesn't answer or still loads."""
        try:
            response = await self.get("/api/summary?span=1h")
        except httpx.TransportError:
            assert self.process.poll() is None, self.log[-5_000:]
            return None
        return msgspec.json.decode(response.content, type=Summary) if response.is_success else None

    async def shows(self, condition: Callable[[Summary], bool], limit_s: float = 60.0) -> Summary:
        """The summary once it fulfils a condition, or the last one before the limit."""
        deadline = time.monotonic() + limit_s
        while True:
            found = await self.summary()
            if found and (condition(found) or time.monotonic() > deadline):
                return found
            assert time.monotonic() < deadline + 30, "it does not answer"
            await asyncio.sleep(0.05)


def count(events: Iterable[Event]) -> dict[CellKey, Cell]:
    """All windows of some events, each event counted once however often it comes.

    What the scoreboard must reach record by record; where two records have one id, the first counts.
    """
    first: dict[str, Event] = {}
    for event in events:
        first.setdefault(event.event_id, event)
    cells: dict[CellKey, list[Cell]] = {}
    for event in first.values():
        cells.setdefault(key_of(event), []).append(cell_of(event))
    return {key: merge(of_key) for key, of_key in cells.items()}
