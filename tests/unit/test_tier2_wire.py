"""Both providers' wire formats, as values."""

from typing import Any

import orjson
import pytest

from schemas.generations import Usage
from workers.errors import PermanentError, RetryableError
from workers.tier2 import wire
from workers.tier2.wire import Completion, Provider, RejectedError, Request, TargetError, TurnedAwayError

BOTH: tuple[Provider, ...] = ("anthropic", "openai")

FREE = (TurnedAwayError, RejectedError)

KEY = "sk-test-0123456789abcdef"


def _request(provider: Provider) -> Request:
    return wire.request(provider, api_key=KEY, model="m", system="Rules.", user="Why $54?", max_tokens=300)


def _anthropic(**changes: Any) -> bytes:
    answer = {
        "model": "claude-x",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": " It is $54.\n"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 300,
            "output_tokens": 7,
        },
    }
    return orjson.dumps(answer | changes)


def _openai(message: dict[str, Any] | None = None, finish_reason: str = "stop", **changes: Any) -> bytes:
    answer = {
        "model": "gpt-x",
        "choices": [{"message": message or {"content": " It is $54.\n"}, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": 330,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 20},
        },
    }
    return orjson.dumps(answer | changes)


def test_an_anthropic_request_marks_the_system_prompt_for_the_cache() -> None:
    """The system block carries cache_control; the user message follows it."""
    request = _request("anthropic")
    assert request.path == "/v1/messages"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert orjson.loads(request.body) == {
        "model": "m",
        "max_tokens": 300,
        "system": [{"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Why $54?"}],
    }


def test_an_openai_request_starts_with_the_system_prompt() -> None:
    """The stable part is first, which is what OpenAI's automatic cache needs."""
    request = _request("openai")
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert orjson.loads(request.body) == {
        "model": "m",
        "max_completion_tokens": 300,
        "messages": [{"role": "system", "content": "Rules."}, {"role": "user", "content": "Why $54?"}],
    }


@pytest.mark.parametrize("provider", BOTH)
def test_a_requests_repr_holds_neither_key_nor_prompt(provider: Provider) -> None:
    """A request in a traceback or a log line gives nothing away."""
    assert KEY not in repr(_request(provider))
    assert "Why" not in repr(_request(provider))


def test_anthropics_prompt_tokens_are_all_input_tokens() -> None:
    """Plain, written and read tokens add up; thinking is no part of the text."""
    assert wire.completion("anthropic", _anthropic()) == Completion(
        text="It is $54.",
        finish_reason="stop",
        model="claude-x",
        usage=Usage(prompt_tokens=330, completion_tokens=7, cached_tokens=300, cache_write_tokens=20),
    )


def test_openais_cached_tokens_are_part_of_the_prompt_tokens() -> None:
    """prompt_tokens is taken as it comes."""
    assert wire.completion("openai", _openai()) == Completion(
        text="It is $54.",
        finish_reason="stop",
        model="gpt-x",
        usage=Usage(prompt_tokens=330, completion_tokens=7, cached_tokens=300, cache_write_tokens=20),
    )


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
    ],
)
def test_anthropics_finish_reasons_are_normalised(reason: str, expected: str) -> None:
    """One vocabulary, whichever wire format."""
    assert wire.completion("anthropic", _anthropic(stop_reason=reason)).finish_reason == expected


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter")]
)
def test_openais_finish_reasons_are_normalised(reason: str, expected: str) -> None:
    """One vocabulary, whichever wire format."""
    assert wire.completion("openai", _openai(finish_reason=reason)).finish_reason == expected


def test_an_openai_refusal_is_a_refusal_although_it_says_stop() -> None:
    """The refusal field decides, and its text is kept."""
    refused = wire.completion("openai", _openai(message={"content": None, "refusal": "I can't."}))
    assert (refused.finish_reason, refused.text) == ("refusal", "I can't.")


def test_empty_content_is_an_empty_text() -> None:
    """The checker refuses it; the wire only reports it."""
    assert wire.completion("anthropic", _anthropic(content=[])).text == ""
    assert wire.completion("openai", _openai(message={"content": None})).text == ""


@pytest.mark.parametrize("provider", BOTH)
def test_an_end_for_tools_is_permanent(provider: Provider) -> None:
    """We offer no tools, so asking again would end the same way."""
    body = _anthropic(stop_reason="tool_use") if provider == "anthropic" else _openai(finish_reason="tool_calls")
    with pytest.raises(PermanentError, match="tool"):
        wire.completion(provider, body)


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b"\xff", b'{"model": "m", "choices": []', b"null", b"[" * 100_000]
)
def test_a_body_that_is_no_answer_may_go_better(provider: Provider, body: bytes) -> None:
    """Half a body or another's page: retryable."""
    with pytest.raises(RetryableError, match="not an answer"):
        wire.completion(provider, body)


def test_negative_token_counts_are_no_answer() -> None:
    """They would give money back to the spend ledger."""
    with pytest.raises(RetryableError, match="output_tokens"):
        wire.completion("anthropic", _anthropic(usage={"input_tokens": 1, "output_tokens": -5}))


def test_a_response_without_a_choice_may_go_better() -> None:
    """An empty list of choices is no answer."""
    with pytest.raises(RetryableError, match="no choice"):
        wire.completion("openai", _openai(choices=[]))


def _failure(status: int, body: object = None, private: str = "", **headers: str) -> RetryableError | PermanentError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.failure(status, named, orjson.dumps(body), 1_000.0, private)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_busy_and_broken_providers_may_go_better(status: int) -> None:
    """Retryable, with the provider's word for it."""
    error = _failure(status, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert isinstance(error, RetryableError)
    assert error.reason == f"HTTP {status} overloaded_error"


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 301])
def test_refused_requests_never_go_better(status: int) -> None:
    """Permanent, with the provider's type and message."""
    error = _failure(status, {"error": {"type": "invalid_request_error", "message": "max_tokens: too\nlarge"}})
    assert isinstance(error, PermanentError)
    assert error.reason == f"HTTP {status} invalid_request_error: max_tokens: too large"


def test_an_empty_account_never_goes_better() -> None:
    """OpenAI says 429 for it, and no wait helps."""
    error = _failure(429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Pay."}})
    assert isinstance(error, PermanentError)


def test_the_providers_own_word_on_retrying_is_taken() -> None:
    """x-should-retry: false ends it."""
    assert isinstance(_failure(500, x_should_retry="false"), PermanentError)


def test_a_refused_keys_message_is_not_shown() -> None:
    """Providers quote the key there in part."""
    error = _failure(401, {"error": {"type": "authentication_error", "message": "Incorrect API key: sk-te...cdef"}})
    assert error.reason == "HTTP 401 authentication_error"


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize("quoted", [KEY, "please cancel my contract from March"])
def test_a_message_that_quotes_the_request_is_not_shown(provider: Provider, quoted: str) -> None:
    """Neither key nor prompt gets into an error."""
    user = "Hello, please cancel my contract from March on, Ann Field"
    request = wire.request(provider, api_key=KEY, model="m", system="Rules.", user=user, max_tokens=9)
    error = _failure(400, {"error": {"type": "bad", "message": f"can't read '{quoted}'"}}, request.private)
    assert error.reason == "HTTP 400 bad: [the provider's message quotes the request]"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "later"}, None),
    ],
)
def test_the_asked_for_wait_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    """Milliseconds first, then seconds or a date; the clock stands at 1,000 s after the epoch."""
    assert wire.retry_after_s(headers, 1_000.0) == expected


def test_only_certain_refusals_are_free_of_charge() -> None:
    """A gateway's 502 may hide an answer that was paid for."""
    free = [s for s in (400, 401, 404, 429, 500, 502, 503, 504, 529) if isinstance(_failure(s), FREE)]
    assert free == [400, 401, 404, 429, 503, 529]


def test_a_fault_of_the_target_is_told_from_one_of_the_ticket() -> None:
    """Another provider may do better with the former; with the latter none would."""
    assert [s for s in (400, 401, 403, 404, 413, 422) if isinstance(_failure(s), TargetError)] == [401, 403, 404]


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("claude-x", "claude-x", True),
        ("claude-x", "claude-x-20260901", True),
        ("claude-x", "anthropic/claude-x", True),
        ("anthropic/claude-x", "claude-x-20260901", True),
        ("claude-x", "claude-y", False),
        ("gpt-6.1-sol", "gpt-6-luna", False),
        ("claude-x", "", False),
    ],
)
def test_another_model_than_the_asked_one_is_told(asked: str, answered: str, same: bool) -> None:
    """A date behind the name, or a gateway's prefix, is no other model."""
    assert wire.same_model(asked, answered) == same
