"""Both providers' wire formats as pure functions: what to send, and what came back.

Sources: Anthropic's Messages API (version 2023-06-01) and OpenAI's Chat Completions API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from schemas.generations import Usage
from workers.errors import PermanentError, RetryableError

Provider = Literal["anthropic", "openai"]
FinishReason = Literal["stop", "length", "refusal", "content_filter"]

R = TypeVar("R", bound=Struct)

ANTHROPIC_VERSION = "2023-06-01"

_RETRYABLE = frozenset({408, 409, 429})
_OF_THE_TARGET = frozenset({401, 403, 404})
_QUOTA_IS_GONE = "insufficient_quota"
"""OpenAI says 429 when the account's money is used up, too: no wait helps."""

_QUOTE_CHARS = 20
"""As many characters in common with the request are a quotation (a guess: half a key, four words)."""

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
}


class TurnedAwayError(RetryableError):
    """The provider took no work for the call, and charged nothing."""


class RateLimitedError(TurnedAwayError):
    """It was turned away for the rate of calls: nothing is wrong with it."""


class BrokenAnswerError(RetryableError):
    """The response is not an answer, though it may have been charged as one: worth one more try."""


class RejectedError(PermanentError):
    """The provider refuses this request, and charged nothing."""


class TargetError(RejectedError):
    """It refuses every request from here: its key, its model or its account is at fault, not the ticket."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP POST. What is private in it (key, prompt) stays out of its repr and out of every error."""

    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    private: str = field(repr=False)
    """Key and prompt: what no error message may quote."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model answered, whichever wire format it came over. The text may be empty."""

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage


def request(provider: Provider, *, api_key: str, model: str, system: str, user: str, max_tokens: int) -> Request:
    """The request for one answer."""
    if provider == "anthropic":
        path = "/v1/messages"
        body: dict[str, object] = {
            "model": model,
            "max_tokens": max_tokens,
            "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": user}],
        }
    else:
        path = "/v1/chat/completions"
        body = {
            "model": model,
            "max_completion_tokens": max_tokens,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        }
    headers = {**auth(provider, api_key), "content-type": "application/json"}
    return Request(path, headers, orjson.dumps(body), private=f"{api_key}\n{system}\n{user}")


def auth(provider: Provider, api_key: str) -> dict[str, str]:
    """The headers that every request carries."""
    if provider == "anthropic":
        return {"x-api-key": api_key, "anthropic-version": ANTHROPIC_VERSION}
    return {"authorization": f"Bearer {api_key}"}


def completion(provider: Provider, body: bytes) -> Completion:
    """The answer in the body of a 200 response.

    Raises: BrokenAnswerError if it isn't one; PermanentError if it ended in a way that plain text never ends.
    """
    return _from_anthropic(body) if provider == "anthropic" else _from_openai(body)


def same_model(asked: str, answered: str) -> bool:
    """Whether the model that answered is the one that was asked: providers add a date to the name, gateways put their
    own before it."""
    return answered.rsplit("/", 1)[-1].startswith(asked.rsplit("/", 1)[-1])


def failure(
    status: int, headers: Mapping[str, str], body: bytes, now_s: float, private: str | None
) -> RetryableError | PermanentError:
    """What a response other than 200 means. `headers` are looked up in lower case; `now_s` is seconds since the epoch.
    Without `private` nothing of the provider's message is told.

    408, 409, 429, 5xx (529 included) may go better later; the rest never will. 401, 403, 404 and an empty account are
    about the provider, the others about the ticket.
    """
    kind, message = _error_in(body)
    said = f"HTTP {status} {kind}".rstrip()
    may_go_better = status in _RETRYABLE or status >= 500
    if may_go_better and kind != _QUOTA_IS_GONE and headers.get("x-should-retry") != "false":
        wait_s = retry_after_s(headers, now_s)
        if status == 429:
            return RateLimitedError(said, wait_s)
        return TurnedAwayError(said, wait_s) if _charged_nothing(status) else RetryableError(said, wait_s)
    # A provider may quote the key it refuses, in part.
    shown = "" if status == 401 or private is None else _shown(message, private)
    reason = f"{said}: {shown}" if shown else said
    if status in _OF_THE_TARGET or kind == _QUOTA_IS_GONE:
        return TargetError(reason)
    return RejectedError(reason) if _charged_nothing(status) else PermanentError(reason)


def _charged_nothing(status: int) -> bool:
    """Whether a response with this status is certainly free of charge.

    Behind a 500, 502 or 504 the model may have worked for us; 503 and 529 turn the request away at the door.
    """
    return status != 200 and (status < 500 or status in (503, 529))


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """How long the provider asks us to wait: `retry-after-ms`, else `Retry-After` in seconds or as an HTTP date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if seconds < float("inf") else None
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now_s)


_Tokens = Annotated[int, Meta(ge=0)]
"""A negative count would give money back to the spend ledger."""


class _Block(Struct):
    type: str
    text: str = ""


class _AnthropicUsage(Struct):
    input_tokens: _Tokens
    output_tokens: _Tokens
    cache_creation_input_tokens: _Tokens | None = None
    cache_read_input_tokens: _Tokens | None = None


class _AnthropicMessage(Struct):
    model: str
    content: list[_Block]
    stop_reason: str
    usage: _AnthropicUsage


def _from_anthropic(body: bytes) -> Completion:
    answer = _decoded(_AnthropicMessage, body)
    written = answer.usage.cache_creation_input_tokens or 0
    read = answer.usage.cache_read_input_tokens or 0
    return Completion(
        text="".join(block.text for block in answer.content if block.type == "text").strip(),
        finish_reason=_finish_reason(answer.stop_reason),
        model=answer.model,
        usage=Usage(
            # Anthropic's input_tokens are only those after the last cache breakpoint.
            prompt_tokens=answer.usage.input_tokens + written + read,
            completion_tokens=answer.usage.output_tokens,
            cached_tokens=read,
            cache_write_tokens=written,
        ),
    )


class _OpenAIMessage(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    message: _OpenAIMessage
    finish_reason: str


class _PromptDetails(Struct):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None


class _OpenAIUsage(Struct):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    prompt_tokens_details: _PromptDetails | None = None


class _ChatCompletion(Struct):
    model: str
    choices: list[_Choice]
    usage: _OpenAIUsage


def _from_openai(body: bytes) -> Completion:
    answer = _decoded(_ChatCompletion, body)
    if not answer.choices:
        raise BrokenAnswerError("the response holds no choice")
    choice, details = answer.choices[0], answer.usage.prompt_tokens_details
    refusal = choice.message.refusal
    return Completion(
        text=(refusal or choice.message.content or "").strip(),
        finish_reason="refusal" if refusal else _finish_reason(choice.finish_reason),
        model=answer.model,
        usage=Usage(
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            cache_write_tokens=(details.cache_write_tokens or 0) if details else 0,
        ),
    )


def _decoded(shape: type[R], body: bytes) -> R:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        # msgspec's text names fields and types, never values.
        raise BrokenAnswerError(f"the response is not an answer: {exc}") from exc


def _finish_reason(reason: str) -> FinishReason:
    try:
        return _FINISH_REASONS[reason]
    except KeyError:
        raise PermanentError(f"the answer ended with {reason[:40]!r}, which only tools or pauses do") from None


class _Error(Struct):
    type: str | None = None
    code: str | int | None = None
    message: str | None = None


class _ErrorBody(Struct):
    error: _Error


def _error_in(body: bytes) -> tuple[str, str]:
    """Type and message of an error body in either format; both empty for anything else."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""
    # OpenAI's code says more than its type where there is one.
    return str(error.code or error.type or "")[:60], error.message or ""


def _shown(message: str, private: str) -> str:
    """The message on one line, cut, or nothing of it if it quotes the request."""
    message = message[:300]
    if any(message[i : i + _QUOTE_CHARS] in private for i in range(len(message) - _QUOTE_CHARS + 1)):
        return "[the provider's message quotes the request]"
    return " ".join(message.split())
