"""What the recorded frontier answers and charges, whichever of its interfaces is asked."""

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.generations import Usage
from workers.tier2.prices import Price, Prices
from workers.tier2.provider_side import Asked, RefusedError, Reply
from workers.tier2.recording import CHARS_PER_TOKEN, PromptCache, Recordings, tokens_in
from workers.tier2.wire import Provider


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was made, or the empty one where none is recorded."""

    ticket_id: str | None
    """Of the recording; None where there is none."""
    reply: Reply


class RecordedAnswers:
    """Recordings, prices, and the prompt cache that a provider would have."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings
        self._prices = Prices.load()
        self._cache = PromptCache()

    def __len__(self) -> int:
        return len(self._recordings)

    def price(self, provider: Provider, model: str) -> Price:
        """What the model costs today. Raises: RefusedError if it isn't the provider's."""
        try:
            price = self._prices.of(model, datetime.now(UTC).date())
        except ValueError:
            price = None
        if price is None or price.provider != provider:
            raise RefusedError("not_found_error", f"model: {model}", code="model_not_found")
        return price

    def answer(self, provider: Provider, asked: Asked) -> Answer:
        """Find the answer, and say what it takes."""
        recorded = self._recordings.reply(asked.user)
        whole = recorded[1] if recorded else ""
        text = whole[: asked.max_tokens * CHARS_PER_TOKEN]
        usage, complete = self._usage(provider, asked, text), len(text) == len(whole)
        reply = Reply(uuid.uuid4().hex, asked.model, text, complete, usage, created_s=int(time.time()))
        return Answer(recorded[0].ticket_id if recorded else None, reply)

    def _usage(self, provider: Provider, asked: Asked, text: str) -> Usage:
        system_tokens = tokens_in(asked.system)
        in_cache = self._cache.read(asked.model, asked.system, time.monotonic())
        # OpenAI caches in steps of 128 tokens and doesn't report what it writes.
        cached_tokens = system_tokens if provider == "anthropic" else system_tokens // 128 * 128
        return Usage(
            prompt_tokens=system_tokens + tokens_in(asked.user),
            completion_tokens=tokens_in(text),
            cached_tokens=cached_tokens if in_cache else 0,
            cache_write_tokens=system_tokens if in_cache is False and provider == "anthropic" else 0,
        )


def no_recording() -> RefusedError:
    """What is said where no answer is recorded."""
    return RefusedError("invalid_request_error", "no recording for this ticket", code="no_recording")
