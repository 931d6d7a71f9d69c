"""The providers' side of both wire formats, as pure functions: the recorded frontier reads requests and words replies.

Only what tier-2's client and the vendors' own clients rely on. Sources: the
API references of Anthropic's Messages and OpenAI's Chat Completions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.generations import Usage
from workers.tier2.enforced_limits import Window, WindowState
from workers.tier2.wire import Provider

_STATUS_OF = {
    "authentication_error": 401,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
    # OpenAI's word for the same, with its own status.
    "service_unavailable": 503,
}


class RefusedError(Exception):
    """The request gets an error reply; `kind` is Anthropic's word for it."""

    def __init__(self, kind: str, message: str, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.code = code
        """OpenAI's word for it, where it has one."""
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        return _STATUS_OF[self.kind]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whichever format it came in."""

    model: str
    system: str
    user: str
    """The last message, which is the user's."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to be worded."""

    id: str
    model: str
    text: str
    complete: bool
    """False if max_tokens cut it."""
    usage: Usage
    created_s: int


class _Text(Struct):
    type: Literal["text"]
    text: str


_Content = str | list[_Text]


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content


class _Asked(Struct):
    model: str
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool = False


class _AnthropicAsked(_Asked, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1)]
    system: _Content = ""


class _OpenAIAsked(_Asked, kw_only=True):
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


def authenticate(provider: Provider, headers: Mapping[str, str]) -> None:
    """Any key will do, none won't. Raises: RefusedError."""
    if provider == "anthropic":
        if not headers.get("x-api-key"):
            raise RefusedError("authentication_error", "x-api-key header is required")
        if not headers.get("anthropic-version"):
            raise RefusedError("invalid_request_error", "anthropic-version: header is required")
    elif not headers.get("authorization", "").removeprefix("Bearer").strip():
        raise RefusedError("authentication_error", "You didn't provide an API key.", code="invalid_api_key")


def read(provider: Provider, body: bytes) -> Asked:
    """Read a request. Raises: RefusedError naming the field that is missing or wrong."""
    try:
        if provider == "anthropic":
            anthropic = msgspec.json.decode(body, type=_AnthropicAsked)
            system, max_tokens, asked = _text(anthropic.system), anthropic.max_tokens, anthropic
            return _asked(asked, system, max_tokens)
        openai = msgspec.json.decode(body, type=_OpenAIAsked)
        system = "\n".join(_text(m.content) for m in openai.messages if m.role in ("system", "developer"))
        return _asked(openai, system, openai.max_completion_tokens or openai.max_tokens or 4_096)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RefusedError("invalid_request_error", str(exc)) from exc


def _asked(asked: _Asked, system: str, max_tokens: int) -> Asked:
    if asked.stream:
        raise RefusedError("invalid_request_error", "stream: this recording answers in one piece only")
    if asked.messages[-1].role != "user":
        raise RefusedError("invalid_request_error", "messages: the last one must be the user's")
    return Asked(asked.model, system, _text(asked.messages[-1].content), max_tokens)


def _text(content: _Content) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def reply_body(provider: Provider, reply: Reply) -> dict[str, object]:
    """An answer in the provider's shape."""
    return _anthropic_message(reply) if provider == "anthropic" else _chat_completion(reply)


def _anthropic_message(reply: Reply) -> dict[str, object]:
    usage = reply.usage
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [{"type": "text", "text": reply.text}],
        "stop_reason": "end_turn" if reply.complete else "max_tokens",
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
            "cache_creation_input_tokens": usage.cache_write_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        },
    }


def _chat_completion(reply: Reply) -> dict[str, object]:
    usage = reply.usage
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    return {
        "id": f"chatcmpl-{reply.id}",
        "object": "chat.completion",
        "created": reply.created_s,
        "model": reply.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop" if reply.complete else "length"}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


def error_body(provider: Provider, refused: RefusedError, request_id: str) -> dict[str, object]:
    """An error in the provider's shape."""
    if provider == "anthropic":
        error: dict[str, object] = {"type": refused.kind, "message": refused.message}
        return {"type": "error", "error": error, "request_id": request_id}
    return {"error": {"message": refused.message, "type": _openais_kind(refused), "param": None, "code": refused.code}}


def _openais_kind(refused: RefusedError) -> str:
    if refused.status == 429:
        return "rate_limit_error"
    return "server_error" if refused.status >= 500 else "invalid_request_error"


def headers(
    provider: Provider, request_id: str, windows: Mapping[Window, WindowState], now: datetime
) -> dict[str, str]:
    """Request id and rate-limit headers. The vendors round what remains; the recording doesn't."""
    if provider == "openai":
        figures = {f"x-ratelimit-{what}-{w}": value for w, s in windows.items() for what, value in _openais(s).items()}
        return {"x-request-id": request_id, **figures}
    both = windows["input-tokens"], windows["output-tokens"]
    # Anthropic's fourth window is the other two together.
    tokens = WindowState(sum(s.limit for s in both), sum(s.remaining for s in both), max(s.full_in_s for s in both))
    shown = {**windows, "tokens": tokens}.items()
    figures = {
        f"anthropic-ratelimit-{w}-{what}": value for w, s in shown for what, value in _anthropics(s, now).items()
    }
    return {"request-id": request_id, **figures}


def _openais(state: WindowState) -> dict[str, str]:
    return {"limit": str(state.limit), "remaining": str(state.remaining), "reset": duration(state.full_in_s)}


def _anthropics(state: WindowState, now: datetime) -> dict[str, str]:
    # In whole seconds; by then it is full.
    full_at = now.astimezone(UTC) + timedelta(seconds=state.full_in_s)
    reset = (full_at + timedelta(microseconds=999_999)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"limit": str(state.limit), "remaining": str(state.remaining), "reset": reset}


def duration(seconds: float) -> str:
    """As OpenAI's headers write it: "20ms", "1.5s", "6m0s", "1h2m3.5s"; to the millisecond, rounded up."""
    ms = math.ceil(round(seconds * 1_000, 3))
    if ms < 1_000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms / 1_000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
