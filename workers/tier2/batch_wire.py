"""Both providers' batch formats as pure functions: what to submit, and what each line of the results says.

Sources: Anthropic's Message Batches API and OpenAI's Batch API, read 2026-11-30.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import orjson
from msgspec import Raw, Struct

from workers.errors import PermanentError, RetryableError
from workers.tier2 import wire
from workers.tier2.wire import Provider

ENDPOINT = "/v1/chat/completions"
"""Of OpenAI's batches: what every line asks."""
METADATA_KEY = "headgate_batch"
"""OpenAI keeps it with the batch, so that a batch whose id was lost can be found. Anthropic has no such place."""

Outcome = wire.Completion | RetryableError | PermanentError
"""What became of one request; an error's class says whether it was charged, as in wire.py."""

S = TypeVar("S", bound=Struct)

_MAY_GO_BETTER = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})
"""Anthropic's errors that aren't about the request."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One request of a batch."""

    custom_id: str
    """1 to 64 of A-Z, a-z, 0-9, _ and -, as Anthropic has it."""
    body: bytes = field(repr=False)
    """As for a single call."""


def submission(provider: Provider, requests: Sequence[BatchRequest]) -> bytes:
    """The body of Anthropic's POST, or the lines of OpenAI's input file."""
    if provider == "anthropic":
        return orjson.dumps(
            {"requests": [{"custom_id": r.custom_id, "params": orjson.Fragment(r.body)} for r in requests]}
        )
    lines = (
        {"custom_id": r.custom_id, "method": "POST", "url": ENDPOINT, "body": orjson.Fragment(r.body)} for r in requests
    )
    return b"\n".join(map(orjson.dumps, lines))


def outcomes(provider: Provider, lines: Iterable[bytes]) -> dict[str, Outcome]:
    """The results by custom_id; providers give them in any order.

    Raises: BrokenAnswerError for a line that is no result.
    """
    read = _anthropics if provider == "anthropic" else _openais
    return dict(read(line) for line in lines if line.strip())


def custom_id(line: bytes) -> str:
    """Of a line of results. Raises: BrokenAnswerError."""
    return _decoded(_Line, line).custom_id


class _Line(Struct):
    custom_id: str


class _Error(Struct, frozen=True):
    type: str | None = None
    code: str | int | None = None


class _AnthropicError(Struct, frozen=True):
    error: _Error


class _AnthropicResult(Struct):
    type: str
    message: Raw = Raw()
    error: _AnthropicError = _AnthropicError(_Error())


class _AnthropicLine(_Line):
    result: _AnthropicResult


class _OpenAIResponse(Struct):
    status_code: int
    body: Raw


class _OpenAILine(_Line):
    response: _OpenAIResponse | None = None
    error: _Error | None = None


def _anthropics(line: bytes) -> tuple[str, Outcome]:
    read = _decoded(_AnthropicLine, line)
    result, kind = read.result, read.result.error.error.type
    if result.type == "succeeded":
        return read.custom_id, _completion("anthropic", result.message)
    if result.type == "errored" and kind not in _MAY_GO_BETTER:
        return read.custom_id, wire.RejectedError(f"in a batch: {kind}")
    return read.custom_id, wire.TurnedAwayError(f"in a batch: {kind or result.type}")


def _openais(line: bytes) -> tuple[str, Outcome]:
    read = _decoded(_OpenAILine, line)
    if read.response is None:
        # batch_expired, batch_cancelled: it was not executed.
        code = read.error.code if read.error else None
        return read.custom_id, wire.TurnedAwayError(f"in a batch: {code}")
    if read.response.status_code != 200:
        return read.custom_id, wire.failure(read.response.status_code, {}, bytes(read.response.body), 0.0, None)
    return read.custom_id, _completion("openai", read.response.body)


def _completion(provider: Provider, body: Raw) -> Outcome:
    try:
        return wire.completion(provider, bytes(body))
    except (RetryableError, PermanentError) as exc:
        return exc


def _decoded(shape: type[S], line: bytes) -> S:
    try:
        return msgspec.json.decode(line, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise wire.BrokenAnswerError(f"a line of the results is none: {exc}") from exc
