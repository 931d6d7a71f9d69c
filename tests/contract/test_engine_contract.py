"""The shared suite on any OpenAI-compatible server, a real llama.cpp one and the fake that other tests use instead; and
what is a server's own: statuses, broken bodies, connections."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest

from streams.doctor import providers
from streams.local.ports import free_port
from streams.settings import Settings, Tier1Settings
from tests.contract import engine_suite
from tests.contract.engine_suite import asking
from tests.fakes import FakeChatServer, raw_server
from workers.errors import PermanentError, RetryableError
from workers.tier1.engine import ContextExceededError, Engine, Request
from workers.tier1.models import ServedModel
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine

READY_S = 60.0
ADAPTER = Path(__file__).parents[2] / "examples" / "fernway" / "tier1" / "adapter.gguf"
BASE = ServedModel(name="base", extra={"lora": [{"id": 0, "scale": 0}]})
"""The server's base model: its adapter is in force for whoever doesn't say otherwise."""
TUNED = ServedModel(name="tuned", extra={"lora": [{"id": 0, "scale": 1}]})
X = asking(ServedModel(name="m"), "x", 4)


def config(port: int, timeout_s: float = 5.0) -> OpenAIConfig:
    return OpenAIConfig(f"http://127.0.0.1:{port}/v1", timeout_s)


@pytest.fixture(scope="session")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo's server with its adapter; its log is shown where it does not start."""
    pytest.importorskip("xllamacpp", reason="the demo extra is not installed")
    port = free_port()
    log_path = tmp_path_factory.mktemp("tier1") / "log"
    with log_path.open("wb") as log:
        argv = [sys.executable, "-m", "workers.tier1.local_server", "--port", str(port)]
        # With two, its threads and those of another test's server would spin for each other's core.
        argv += ["--threads", "1", "--parallel", "4", "--adapter", str(ADAPTER)]
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
        async with OpenAIEngine(OpenAIConfig(request.getfixturevalue("llama_cpp"), 60.0)) as real:
            yield real
    else:
        async with FakeChatServer().serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as fake:
            yield fake


@pytest.fixture
async def llama(llama_cpp: str) -> AsyncIterator[OpenAIEngine]:
    async with OpenAIEngine(OpenAIConfig(llama_cpp, 60.0)) as engine:
        yield engine


@pytest.mark.parametrize("check", engine_suite.CHECKS, ids=lambda check: check.__name__)
async def test_a_server_passes_the_suite(
    engine: Engine, check: Callable[[Engine, ServedModel], Awaitable[None]]
) -> None:
    """What every engine must do."""
    await check(engine, BASE)


async def test_an_answer_follows_its_schema(llama: OpenAIEngine) -> None:
    """llama.cpp makes a grammar of it."""
    await engine_suite.check_an_answer_follows_its_schema(llama, BASE)


async def test_a_cancelled_call_frees_its_slot(llama: OpenAIEngine) -> None:
    """Closing the connection stops llama.cpp when it looks: after a second in which no request got anything."""
    async with httpx.AsyncClient(base_url=llama.config.base_url.removesuffix("v1")) as client:

        async def unfinished() -> int:
            # The metrics are such a request, too.
            await asyncio.sleep(1.5)
            metrics = dict(
                line.split() for line in (await client.get("metrics")).text.splitlines() if not line.startswith("#")
            )
            return sum(int(metrics[f"llamacpp:requests_{state}"]) for state in ("processing", "deferred"))

        await engine_suite.check_a_cancelled_call_is_aborted(llama, BASE, unfinished)


async def test_two_adapters_side_by_side_answer_as_each_does_alone(llama: OpenAIEngine) -> None:
    """A canary beside the model in force: neither hears of the other, nor of its cached prompts."""
    questions = [f"Where is my order {n}?" for n in range(2)]
    requests = [asking(model, question, 8) for question in questions for model in (BASE, TUNED)]
    alone = [await llama.generate(request) for request in requests]
    together = await asyncio.gather(*(llama.generate(request) for request in requests))
    assert [made.text for made in together] == [made.text for made in alone]
    assert [made.model for made in together] == ["base", "tuned"] * len(questions)
    assert all(base.text != tuned.text for base, tuned in zip(together[::2], together[1::2], strict=True))


async def test_an_answer_that_the_window_cuts_off_is_told_apart(llama: OpenAIEngine) -> None:
    """llama.cpp takes a prompt that just fits and stops where its window of 768 tokens ends; a shorter prompt helps."""
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    messages = engine_suite.prompt("river " * 720)
    with pytest.raises(ContextExceededError, match="cut off"):
        await llama.generate(Request(messages=messages, model=BASE, max_tokens=300, schema=endless))


@pytest.mark.parametrize(
    "error",
    [
        {"message": "This model's maximum context length is 2048 tokens. However, your messages are 3000."},
        {"message": "The prompt (length 3000) is longer than the maximum model length of 2048."},
        {"message": "Too long.", "code": "context_length_exceeded"},
    ],
)
async def test_servers_say_in_their_own_ways_that_a_prompt_is_too_long(error: dict[str, str]) -> None:
    """vllm serve and OpenAI; llama.cpp's is in the suite."""
    body = msgspec.json.encode({"error": error})
    answer = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    async with raw_server(answer) as server, OpenAIEngine(config(server.port)) as engine:
        with pytest.raises(ContextExceededError):
            await engine.generate(X)


async def test_the_body_is_the_requests_and_a_models_own_fields_come_on_top() -> None:
    """They can't replace what a request is: its messages and limits."""
    server = FakeChatServer()
    model = ServedModel(name="m", extra={"lora": [{"id": 1, "scale": 1}], "max_tokens": 9, "messages": []})
    request = Request(messages=engine_suite.prompt("x"), model=model, max_tokens=4, schema={"type": "object"})
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as engine:
        await engine.generate(request)
    assert server.bodies == [
        {
            "model": "m",
            "messages": request.messages,
            "max_tokens": 4,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 1,
            "lora": [{"id": 1, "scale": 1}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
            },
        }
    ]


async def test_a_priority_is_sent_until_a_server_turns_out_to_know_none() -> None:
    """OpenAI's own API refuses fields that it doesn't know: backfill must not go to tier-2 for that."""
    behind = msgspec.structs.replace(X, priority=1)
    takes, refuses = FakeChatServer(), FakeChatServer()
    refuses.unknown = "priority"
    async with takes.serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as engine:
        for request in (behind, X):
            await engine.generate(request)
    assert [body.get("priority") for body in takes.bodies] == [1, None]
    async with refuses.serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as engine:
        for request in (behind, X, behind):
            assert (await engine.generate(request)).text
    assert [body.get("priority") for body in refuses.bodies] == [1, None, None, None]


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
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as engine:
        with pytest.raises(error, match=str(status)):
            await engine.generate(X)


async def test_a_busy_server_may_say_when_to_come_back() -> None:
    """Retry-After is kept for the one who decides."""
    server = FakeChatServer()
    server.status, server.headers = 429, {"retry-after": "7"}
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as engine:
        with pytest.raises(RetryableError) as caught:
            await engine.generate(X)
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(("status", "saturated"), [(200, False), (400, False), (500, False), (429, True), (503, True)])
async def test_a_full_server_is_left_alone_for_a_while(status: int, saturated: bool) -> None:
    """The stage asks before it begins more; a server that fails on one prompt may well take the next."""
    server = FakeChatServer()
    server.status = status
    async with server.serving() as url, OpenAIEngine(OpenAIConfig(url, 5.0)) as engine:
        with suppress(RetryableError, PermanentError):
            await engine.generate(X)
        assert engine.saturated() == saturated


async def test_a_server_that_is_gone_is_retryable_and_not_ready() -> None:
    """Nobody listens: it may start again."""
    async with OpenAIEngine(config(free_port())) as engine:
        with pytest.raises(RetryableError, match="ConnectError"):
            await engine.generate(X)
        assert await engine.ready() is False


async def test_a_server_that_never_answers_is_retryable() -> None:
    """The timeout is ours to keep."""
    async with raw_server(None) as server, OpenAIEngine(config(server.port, timeout_s=0.2)) as engine:
        with pytest.raises(RetryableError, match="Timeout"):
            await engine.generate(X)


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
            await engine.generate(X)


async def test_the_key_is_sent_and_never_shown() -> None:
    """Hosted servers want one; no repr has it."""
    keyed = OpenAIConfig("http://127.0.0.1:1/v1", 5.0, "sk-canary")
    assert "canary" not in repr(keyed)
    async with OpenAIEngine(keyed) as engine:
        assert engine._client.headers["authorization"] == "Bearer sk-canary"


async def test_the_doctor_takes_llama_cpp_for_a_server_of_any_model(llama_cpp: str) -> None:
    """It lists its file, and answers to whichever name it is asked by."""
    settings = Settings().model_copy(update={"tier1": Tier1Settings(base_url=llama_cpp, model="any")})
    (found,) = await providers.tier1(settings)
    assert (found.verdict, "model any" in found.said) == ("ok", True)
