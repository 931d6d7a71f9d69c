"""Fakes that speak the real protocols over loopback."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from numpy.typing import NDArray

from schemas.generations import Usage
from workers.router.classifier import EMBEDDING_SIZE, Scores
from workers.tier1.engine import ContextExceededError, Generation, Request
from workers.tier1.models import ServedModel


class FakeChatServer:
    """An OpenAI-compatible server that answers every prompt with `reply`, cut at max_tokens words."""

    def __init__(self, reply: str = "It arrives in 2 business days.") -> None:
        self.reply = reply
        self.status = 200
        self.context_words = 1_000
        self.unknown = ""
        """A field that it refuses."""
        self.headers: dict[str, str] = {}
        self.names: tuple[str, ...] = ()
        """Models that it lists."""
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0

    async def chat(self, request: web.Request) -> web.Response:
        self.bodies.append(body := await request.json())
        if self.status != 200:
            return web.json_response({"error": {"message": self.reply}}, status=self.status, headers=self.headers)
        if self.unknown in body:
            return web.json_response({"error": {"message": f"Unrecognized argument: {self.unknown}"}}, status=400)
        prompt_tokens = sum(len(m["content"].split()) for m in body["messages"])
        if prompt_tokens > self.context_words:
            said = f"This model's maximum context length is {self.context_words} tokens."
            return web.json_response({"error": {"message": said}}, status=400)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        words = self.reply.split()
        kept = words[: body.get("max_tokens") or body["max_completion_tokens"]]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join(kept)},
            "finish_reason": "stop" if len(kept) == len(words) else "length",
            "logprobs": {"content": [{"token": w, "logprob": -0.1, "top_logprobs": []} for w in kept]},
        }
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(kept)}
        return web.json_response(
            {"model": body["model"], "choices": [choice], "object": "chat.completion", "usage": usage}
        )

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.names]})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The base_url of the running server."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.get("/v1/models", self.models),
            ]
        )
        server = TestServer(app)
        async with server:
            yield str(server.make_url("/v1"))


class FakeEngine:
    """An engine that answers every prompt at once, if it is no longer than `most_chars`."""

    def __init__(self, most_chars: float = math.inf) -> None:
        self.most_chars = most_chars
        self.requests: list[Request] = []
        self.loaded: list[str] = []
        self.unusable = ""
        """The name of a model that can't be served."""

    async def generate(self, request: Request) -> Generation:
        self.requests.append(request)
        if sum(len(m["content"]) for m in request.messages) > self.most_chars:
            raise ContextExceededError("too long")
        usage = Usage(prompt_tokens=100, completion_tokens=10)
        return Generation(text="Hello.", finish_reason="stop", model=request.model.name, usage=usage, logprobs=None)

    async def load(self, models: Sequence[ServedModel]) -> None:
        for model in models:
            if model.name == self.unusable:
                raise ValueError(f"model {model.name} can't be served")
        self.loaded = [model.name for model in models]

    async def ready(self) -> bool:
        return True

    def saturated(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class RawServer:
    """A server below HTTP."""

    port: int
    met: asyncio.Event
    """Somebody has connected."""


@asynccontextmanager
async def raw_server(answer: bytes | None) -> AsyncIterator[RawServer]:
    """A server that sends `answer` to whoever sends it a header, or keeps silent if there is none."""
    met = asyncio.Event()
    connections: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            connections.add(task)
        met.set()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            if answer is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield RawServer(server.sockets[0].getsockname()[1], met)
    finally:
        server.close()
        await asyncio.gather(*connections)


class FakeClassifier:
    """A classifier that reads a text by its words: each passage that shares one is as likely as it shares words."""

    def __init__(self, passages: dict[str, str]) -> None:
        self.words = {name: set(text.lower().split()) for name, text in passages.items()}
        self.calls: list[list[str]] = []

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """(texts, 384), unit length: one dimension a passage, and one for what fits none."""
        rows = np.zeros((len(texts), EMBEDDING_SIZE), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[: len(self.words)] = [len(words & set(text.lower().split())) for words in self.words.values()]
            row[-1] = 0.1
            row /= np.linalg.norm(row)
        return rows

    def classify(self, texts: list[str]) -> list[Scores]:
        self.calls.append(texts)
        return [self._scores(row) for row in self.embed(texts)]

    def _scores(self, row: NDArray[np.float32]) -> Scores:
        likely = row[: len(self.words)] + 0.01
        probs = likely / likely.sum()
        names = list(self.words)
        order = tuple(names[i] for i in np.argsort(-probs)[:2])
        return Scores(0.9, order[0].split(".")[0], float(probs.max()), order, probs, row)
