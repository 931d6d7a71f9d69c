"""The engine that is any OpenAI-compatible server: `vllm serve`, a llama.cpp server, a hosted small model."""

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
import msgspec
from msgspec import Struct

from schemas.drafts import LogProbs, Usage
from workers.errors import PermanentError, RetryableError
from workers.tier1.engine import Generation
from workers.tier1.prompts import ChatMessage

RECOVERY_S = 1.0
"""How long a full or lost server gets no new prompt, where it doesn't say (a guess)."""

_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """Where the server is and how long to wait for it."""

    base_url: str
    model: str
    timeout_s: float
    api_key: str | None = field(default=None, repr=False)


class OpenAIEngine:
    """An Engine over HTTP. Batching happens in the server: every ticket is a request of its own."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self._client = httpx.AsyncClient(
            base_url=config.base_url.rstrip("/") + "/",
            timeout=httpx.Timeout(config.timeout_s, connect=5.0),
            headers={"authorization": f"Bearer {config.api_key}"} if config.api_key else {},
            # The number in flight is the stage's to bound: a pool limit here would only hide the waiting.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._recovers_s = 0.0
        """Until when it is left alone, by time.monotonic."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def generate(self, prompt: list[ChatMessage], max_tokens: int) -> Generation:
        """See Engine."""
        body = {
            "model": self.config.model,
            "messages": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 1,
        }
        try:
            response = await self._client.post("chat/completions", content=msgspec.json.encode(body), headers=_JSON)
        except httpx.TransportError as exc:
            self._leave_alone(RECOVERY_S)
            raise RetryableError(f"tier-1 server: {type(exc).__name__}") from exc
        if response.status_code in (429, 503):
            self._leave_alone(_retry_after_s(response) or RECOVERY_S)
        _raise_for_status(response)
        # By the configured name: a llama.cpp server answers with the path of its file.
        return msgspec.structs.replace(parse_completion(response.content), model=self.config.model)

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


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    reason = f"tier-1 server: HTTP {response.status_code}"
    if response.status_code in (408, 409, 429) or response.status_code >= 500:
        raise RetryableError(reason, _retry_after_s(response))
    raise PermanentError(reason)


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


def summarised(logprobs: list[float]) -> LogProbs | None:
    """Quantiles of the answer's token log-probabilities: one bad token hides in a mean, not in a minimum."""
    if not logprobs:
        return None
    ordered = sorted(logprobs)
    count = len(ordered)
    return LogProbs(
        mean=sum(ordered) / count, minimum=ordered[0], q10=ordered[count // 10], q50=ordered[count // 2], tokens=count
    )
