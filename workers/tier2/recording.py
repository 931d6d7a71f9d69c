"""What the recorded frontier replays and how it passes for a provider: answers, tokens, prompt cache, pace.

The answers are the example company's reference answers, written by the
project's authors; no provider made them. Asked as a judge it grades by the
ticket's rubric. Everything here is values: no clock, no I/O.
"""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import orjson

from workers.judge.prompts import parted
from workers.judge.rubric_judge import why
from workers.learning.company import Example
from workers.learning.rubric import grade
from workers.tier2.prompts import quoted
from workers.tier2.redaction import redact, restore

CHARS_PER_TOKEN = 4
"""English prose in the tokenizers in use: an estimate, so the recording's token counts and costs are estimates too."""

CACHEABLE_TOKENS = 1_024
"""The shortest prompt that providers cache (both vendors' documents; some models ask for more)."""

CACHE_LIFE_S = 300.0
"""Anthropic's default, renewed by every use; OpenAI says 5 to 10 minutes."""


def tokens_in(text: str) -> int:
    """Estimated tokens of a text."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)


class Recordings:
    """Recorded answers, found by the ticket's body within the user message, as it is and redacted."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._by_first_line: dict[str, list[tuple[str, Example]]] = {}
        self._count = 0
        for example in examples:
            self._count += 1
            for body in {quoted(text.body) for text in (example, _redacted(example))}:
                self._by_first_line.setdefault(body.partition("\n")[0], []).append((body, example))

    def __len__(self) -> int:
        return self._count

    def reply(self, message: str) -> tuple[Example, str] | None:
        """Whose ticket a message is about, and what is replayed to it: the reference answer, or a judge's reply."""
        given, answers = parted(message)
        example = self.find(given)
        if example is None:
            return None
        return example, _judged(example, answers) if answers else example.reference

    def find(self, message: str) -> Example | None:
        """The example whose body stands in the message as whole lines; with several, the one with most in common."""
        lines = f"\n{message.strip()}\n"
        begun = (body for line in dict.fromkeys(lines.split("\n")) for body in self._by_first_line.get(line, ()))
        found = [example for body, example in begun if f"\n{body}\n" in lines]

        def in_common(example: Example) -> tuple[int, int]:
            return len(example.body), max(_in_common(example, lines), _in_common(_redacted(example), lines))

        return max(found, key=in_common, default=None)


def _judged(example: Example, answers: Mapping[str, str]) -> str:
    """The reply of a judge who knows the rubric, in the form that judges are asked for."""
    hidden = redact(_texts(example)).placeholders
    grades = {letter: grade(restore(answer, hidden), example.rubric) for letter, answer in answers.items()}
    said = {letter: {"why": why(g) or "none", "acceptable": g.acceptable} for letter, g in grades.items()}
    return orjson.dumps(said).decode()


def _texts(example: Example) -> tuple[str, ...]:
    return example.subject, example.body, *example.context


def _redacted(example: Example) -> Example:
    """The example as tier-2 sends it unless it is told not to redact."""
    subject, body, *context = redact(_texts(example)).texts
    return replace(example, subject=subject, body=body, context=tuple(context))


def _in_common(example: Example, lines: str) -> int:
    """Characters of the example's other parts that stand in the lines."""
    others = (quoted(part) for part in (example.subject, *example.context) if part)
    return sum(len(part) for part in others if f"\n{part}\n" in lines)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a replayed answer takes, as a streaming model would: first a wait, then tokens at a rate."""

    first_token_s: float
    tokens_per_s: float

    def seconds(self, completion_tokens: int) -> float:
        return self.first_token_s + completion_tokens / self.tokens_per_s


def pace_of(ticket_id: str) -> Pace:
    """The same ticket always takes the same time; an answer of 100 tokens some 1.5 to 4 s.

    The numbers are a guess at a large hosted model's, not a measurement of any provider.
    """
    rng = random.Random(ticket_id)
    return Pace(first_token_s=min(3.0, rng.lognormvariate(math.log(1.0), 0.4)), tokens_per_s=rng.uniform(45.0, 85.0))


class PromptCache:
    """Which system prompts a provider would still hold."""

    def __init__(self) -> None:
        self._used_s: dict[int, float] = {}

    def read(self, model: str, system: str, now_s: float) -> bool | None:
        """Use the cache: True if the prompt was in it, False if it is now, None if it is too short for it."""
        if tokens_in(system) < CACHEABLE_TOKENS:
            return None
        key = hash((model, system))
        used_s, self._used_s[key] = self._used_s.get(key), now_s
        return used_s is not None and now_s - used_s <= CACHE_LIFE_S
