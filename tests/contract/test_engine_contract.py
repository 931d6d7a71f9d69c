"""One suite for every tier-1 engine's server: a real llama.cpp one, and the fake that other tests use instead."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import httpx
import pytest

from tests.fakes import FakeChatServer, raw_server
from workers.errors import PermanentError, RetryableError
from workers.tier1.engine import Engine
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine
from workers.tier1.prompts import ChatMessage

READY_S = 60.0


def prompt(question: str) -> list[ChatMessage]:
    return [{"role": "system", "content": "You answer in one sentence."}, {"role": "user", "content": question}]


def config(port: int, timeout_s: float = 5.0) -> OpenAIConfig:
    return OpenAIConfig(f"http://127.0.0.1:{port}/v1", "base", timeout_s)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base model on the server of the demo; its log is shown where it does not start."""
    pytest.importorskip("xllamacpp", reason="the demo extra is not installed")
    port = free_port()
    log_path = tmp_path_factory.mktemp("tier1") / "log"
    with log_path.open("wb") as log:
        argv = [sys.executable, "-m", "workers.tier1.local_server", "--port", str(port), "--parallel", "4"]
        server = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    try:
        deadline = time.monotonic() + READY_S
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            while not is_up(client):
                assert server.poll() is None, log_path.read_text("utf-8", "replace")[-2000:]
                assert time.monotonic() < deadline, log_path.read_text("utf-8", "replace")[-2000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(params=["llama.cpp", "fake"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "llama.cpp":
        async with OpenAIEngine(OpenAIConfig(request.getfixturevalue("llama_cpp"), "base", 60.0)) as real:
            yield real
    else:
        async with FakeChatServer().serving() as url, OpenAIEngine(OpenAIConfig(url, "base", 5.0)) as fake:
            yield fake


async def test_an_answer_has_text_usage_and_log_probabilities(engine: Engine) -> None:
    """All that the checker and the costs need."""
    made = await engine.generate(prompt("What is the capital of France?"), max_tokens=60)
    assert made.text == made.text.strip() != ""
    assert made.finish_reason == "stop"
    assert made.model
    assert made.usage.prompt_tokens > 5
    assert 0 < made.usage.completion_tokens <= 60
    assert made.logprobs is not None
    assert made.logprobs.minimum <= made.logprobs.q10 <= made.logprobs.q50 <= 0
    assert made.logprobs.minimum <= made.logprobs.mean <= 0
    # A server may count its end-of-text token or not.
    assert abs(made.logprobs.tokens - made.usage.completion_tokens) <= 1


async def test_an_answer_that_runs_into_its_limit_says_so(engine: Engine) -> None:
    """The checker refuses it as truncated."""
    made = await engine.generate(prompt("Tell me a long story about a river."), max_tokens=4)
    assert made.finish_reason == "length"
    assert made.usage.completion_tokens == 4


async def test_decoding_is_greedy(engine: Engine) -> None:
    """The same prompt gets the same answer, so that labels hold for what is served."""
    first = await engine.generate(prompt("Name a colour."), max_tokens=12)
    again = await engine.generate(prompt("Name a colour."), max_tokens=12)
    assert (again.text, again.finish_reason) == (first.text, first.finish_reason)


async def test_many_prompts_are_in_flight_and_each_gets_its_own_answer(engine: Engine) -> None:
    """More than the server works on at a time wait in the server; none is refused or mixed up."""
    prompts = [prompt(f"Say the number {n}.") for n in range(8)]
    alone = await engine.generate(prompts[3], max_tokens=8)
    made = await asyncio.gather(*(engine.generate(p, max_tokens=8) for p in prompts))
    assert all(m.text for m in made)
    assert made[3].usage.prompt_tokens == alone.usage.prompt_tokens


async def test_a_running_server_is_ready(engine: Engine) -> None:
    """Readiness is what /readyz tells of the engine."""
    assert await engine.ready() is True


async def test_a_rejected_prompt_is_permanent(llama_cpp: str) -> None:
    """The real server's own 400, for a prompt that exceeds its context: it never goes better."""
    async with OpenAIEngine(OpenAIConfig(llama_cpp, "base", 30.0)) as engine:
        with pytest.raises(PermanentError, match="HTTP 400"):
            await engine.generate(prompt("word " * 4000), max_tokens=4)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, PermanentError),
        (401, PermanentError),
        (404, PermanentError),
        (422, PermanentError),
        (408, RetryableError),
        (429, RetryableError),
        (500, RetryableError),
        (503, RetryableError),
    ],
)
async def test_a_status_is_classed_by_what_to_do_about_it(status: int, error: type[Exception]) -> None:
    """Busy and broken servers are asked again, rejected requests are not."""
    server = FakeChatServer()
    server.status = status
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, "base", 5.0)) as engine:
        with pytest.raises(error, match=str(status)):
            await engine.generate(prompt("x"), max_tokens=4)


async def test_a_busy_server_may_say_when_to_come_back() -> None:
    """Retry-After is kept for the one who decides."""
    server = FakeChatServer()
    server.status, server.headers = 429, {"retry-after": "7"}
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, "base", 5.0)) as engine:
        with pytest.raises(RetryableError) as caught:
            await engine.generate(prompt("x"), max_tokens=4)
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(("status", "saturated"), [(200, False), (400, False), (500, False), (429, True), (503, True)])
async def test_a_full_server_is_left_alone_for_a_while(status: int, saturated: bool) -> None:
    """The stage asks before it begins more; a server that fails on one prompt may well take the next."""
    server = FakeChatServer()
    server.status = status
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, "base", 5.0)) as engine:
        with suppress(RetryableError, PermanentError):
            await engine.generate(prompt("x"), max_tokens=4)
        assert engine.saturated() == saturated


async def test_a_server_that_is_gone_is_retryable_and_not_ready() -> None:
    """Nobody listens: it may start again."""
    async with OpenAIEngine(config(free_port())) as engine:
        with pytest.raises(RetryableError, match="ConnectError"):
            await engine.generate(prompt("x"), max_tokens=4)
        assert await engine.ready() is False


async def test_a_server_that_never_answers_is_retryable() -> None:
    """The timeout is ours to keep."""
    async with raw_server(None) as server, OpenAIEngine(config(server.port, timeout_s=0.2)) as engine:
        with pytest.raises(RetryableError, match="Timeout"):
            await engine.generate(prompt("x"), max_tokens=4)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": ',
        b'{"choices": [{"message": 7}]}',
        b"\xff",
    ],
)
async def test_a_body_that_is_no_completion_is_retryable(body: bytes) -> None:
    """A proxy's page or half a body says nothing about the ticket."""
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    async with raw_server(answer) as server, OpenAIEngine(config(server.port)) as engine:
        with pytest.raises(RetryableError, match="unreadable"):
            await engine.generate(prompt("x"), max_tokens=4)


async def test_the_key_is_sent_and_never_shown() -> None:
    """Hosted servers want one; no repr has it."""
    keyed = OpenAIConfig("http://127.0.0.1:1/v1", "base", 5.0, "sk-canary")
    assert "canary" not in repr(keyed)
    async with OpenAIEngine(keyed) as engine:
        assert engine._client.headers["authorization"] == "Bearer sk-canary"
