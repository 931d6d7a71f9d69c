"""The engine that is any OpenAI-compatible server: `vllm serve`, a llama.cpp server, a hosted small model.

Batching happens in the server: every ticket is a request of its own. A call that is cancelled or out of time closes its
connection, which makes the server abort it: vllm serve at once, llama.cpp when no request got an answer for a second,
so that on a busy one it runs to its end (measured). Streaming would tell it at once, but costs us an event a token.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
from msgspec import Struct

from schemas.generations import Usage
from workers.errors import PermanentError, RetryableError
from workers.tier1.engine import ContextExceededError, Generation, Request
from workers.tier1.logprobs import summarised
from workers.tier1.models import ServedModel

RECOVERY_S = 1.0
"""How long a full or lost server gets no new prompt, where it doesn't say (a guess)."""

CONTEXT_EXCEEDED = (
    b"maximum context length",  # vllm serve, by its message
    b"maximum model length",  # vllm serve, where the prompt alone is too long
    b"exceed_context_size_error",  # llama.cpp, by its type
    b"context_length_exceeded",  # OpenAI, by its code
)
"""What a 400 says when the prompt is too long. A ticket echoed by another 400 may say it, too: then a shorter prompt is
tried in vain."""

OURS = frozenset(
    "model messages max_tokens temperature logprobs top_logprobs response_format priority stream".split()  # noqa: SIM905
)
"""Fields of the request's body that a model's `extra` can't set."""

_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """Where the server is and how long to wait for it."""

    base_url: str
    timeout_s: float
    """For one answer, from the request to its last byte."""
    api_key: str | None = field(default=None, repr=False)


class OpenAIEngine:
    """An Engine over HTTP."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self._client = httpx.AsyncClient(
            base_url=config.base_url.rstrip("/") + "/",
            # Of the whole answer the timeout is ours: httpx would count from byte to byte.
            timeout=httpx.Timeout(None, connect=5.0),
            headers={"authorization": f"Bearer {config.api_key}"} if config.api_key else {},
            # The number in flight is the stage's to bound: a pool limit here would only hide the waiting.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._recovers_s = 0.0
        """Until when it is left alone, by time.monotonic."""
        self._knows_priority = True
        """Until it rejects one: vllm serve takes them, llama.cpp passes over them, OpenAI's own API refuses them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def generate(self, request: Request) -> Generation:
        """See Engine."""
        body = request_body(request)
        if request.priority and self._knows_priority:
            response = await self._post(body | {"priority": request.priority})
            if response.status_code != 400 or _exceeds_context(response):
                return _generation(request, response)
            # Is it the priority? Else a server that knows none would send all backfill to tier-2.
            response = await self._post(body)
            self._knows_priority = not response.is_success
        else:
            response = await self._post(body)
        return _generation(request, response)

    async def load(self, models: Sequence[ServedModel]) -> None:
        """See Engine. Whoever runs a server loads its models; here it is only seen whether they can be asked for."""
        for model in models:
            if model.adapter:
                raise ValueError(f"model {model.name}: the server loads its adapters itself; leave `adapter` out")
            if taken := sorted(OURS & set(model.extra)):
                raise ValueError(f"model {model.name}: extra can't set {', '.join(taken)}")

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        content = msgspec.json.encode(body)
        try:
            async with asyncio.timeout(self.config.timeout_s):
                response = await self._client.post("chat/completions", content=content, headers=_JSON)
        except (httpx.TransportError, TimeoutError) as exc:
            self._leave_alone(RECOVERY_S)
            raise RetryableError(f"tier-1 server: {type(exc).__name__}") from exc
        if response.status_code in (429, 503):
            self._leave_alone(_retry_after_s(response) or RECOVERY_S)
        return response

    async def ready(self) -> bool:
        """See Engine."""
        try:
            response = await self._client.get("models", timeout=2.0)
        except httpx.TransportError:
            return False
        return response.is_success

    def saturated(self) -> bool:
        """See Engine."""
        return time.monotonic() < self._recovers_s

    def _leave_alone(self, recovery_s: float) -> None:
        self._recovers_s = max(self._recovers_s, time.monotonic() + recovery_s)


def request_body(request: Request) -> dict[str, Any]:
    """The body of a chat completion, without a priority."""
    body: dict[str, Any] = {
        **request.model.extra,
        "model": request.model.name,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 1,
    }
    if request.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _generation(request: Request, response: httpx.Response) -> Generation:
    _raise_for_status(response)
    made = parse_completion(response.content)
    if made.finish_reason == "length" and 0 < made.usage.completion_tokens < request.max_tokens:
        # llama.cpp takes a prompt that just fits, and stops where its window ends.
        raise ContextExceededError("tier-1 server: the answer was cut off at the end of the model's window")
    # By the name that was asked for: a llama.cpp server answers with the path of its file.
    return msgspec.structs.replace(made, model=request.model.name)


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    reason = f"tier-1 server: HTTP {response.status_code}"
    if response.status_code in (408, 409, 429) or response.status_code >= 500:
        raise RetryableError(reason, _retry_after_s(response))
    if _exceeds_context(response):
        raise ContextExceededError(f"{reason}: the prompt is too long for the model's window")
    raise PermanentError(reason)


def _exceeds_context(response: httpx.Response) -> bool:
    return response.status_code == 400 and any(said in response.content for said in CONTEXT_EXCEEDED)


def _retry_after_s(response: httpx.Response) -> float | None:
    after = response.headers.get("retry-after", "")
    return float(after) if after.isdigit() else None


class _TokenLogProb(Struct):
    logprob: float


class _LogProbContent(Struct):
    content: list[_TokenLogProb] | None = None


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _LogProbContent | None = None


class _PromptDetails(Struct):
    cached_tokens: int | None = 0


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Completion(Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage = msgspec.field(default_factory=_Usage)


def parse_completion(body: bytes) -> Generation:
    """Read a chat completion.

    Raises: RetryableError if it is not one (a proxy's error page, half a body).
    """
    try:
        completion = msgspec.json.decode(body, type=_Completion)
        choice = completion.choices[0]
    except (msgspec.DecodeError, IndexError) as exc:
        raise RetryableError(f"tier-1 server: unreadable completion ({type(exc).__name__})") from exc
    details = completion.usage.prompt_tokens_details
    logprobs = [t.logprob for t in (choice.logprobs.content or [])] if choice.logprobs else []
    return Generation(
        text=(choice.message.content or "").strip(),
        finish_reason=choice.finish_reason or "",
        model=completion.model,
        usage=Usage(
            prompt_tokens=completion.usage.prompt_tokens,
            completion_tokens=completion.usage.completion_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
        ),
        logprobs=summarised(logprobs),
    )
