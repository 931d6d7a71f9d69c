"""A judge's question and its word: which of these answers to a ticket are acceptable?

A judge is blind: a case holds texts, and nothing of which tier or model wrote
them, what the checker said or which one was sent. It sees them under letters,
in an order that is drawn from the ticket's id alone, so that a redo asks the same.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import msgspec
from msgspec import Struct

from schemas.tickets import Ticket
from workers.tier2.wire import BrokenAnswerError

Letter = Literal["A", "B"]
LETTERS: tuple[Letter, ...] = get_args(Letter)

WHY_CHARS = 300
"""A reason is cut here: it was asked for in one sentence (a guess)."""

_FENCED = re.compile(r"```(?:json)?\n(.*)\n```", re.S)
"""Models put JSON into a Markdown fence, whatever they are told."""


class UnreadableReplyError(BrokenAnswerError):
    """The reply is not the judgement that was asked for, and is paid for: worth one more try, as any broken answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """A ticket and one or two answers to it, in the asker's order, which no judge learns."""

    ticket: Ticket = field(repr=False)
    answers: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Raises: ValueError if there are no answers or too many."""
        if not 1 <= len(self.answers) <= len(LETTERS):
            raise ValueError(f"a case has 1 to {len(LETTERS)} answers, not {len(self.answers)}")


class Verdict(Struct, frozen=True, forbid_unknown_fields=True):
    """The word on one answer."""

    acceptable: bool
    why: str
    """May quote the ticket."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The word on a case's answers, in the case's order, and what it cost."""

    judge: str
    """Who judged: its errors are measured under this name."""
    acceptable: tuple[bool, ...]
    why: tuple[str, ...] = field(repr=False)
    """May quote the ticket, with placeholders for what was kept from a provider."""
    cost_usd: float = 0.0
    exposure_usd: float = 0.0
    """What calls whose outcome is unknown may have cost on top, at most."""
    calls: int = 0


class Judge(Protocol):
    """Whoever judges."""

    async def judge(self, case: Case) -> Judgement:
        """Raises: PermanentError if there is no judgement on this case; HeldError if there may be one later."""


@dataclass(frozen=True, slots=True)
class Blind:
    """A case as its judge sees it."""

    ticket: Ticket = field(repr=False)
    texts: Mapping[Letter, str] = field(repr=False)
    """In the order of the letters."""
    order: tuple[int, ...]
    """Which of the case's answers stands under each letter."""

    def judgement(
        self,
        verdicts: Mapping[Letter, Verdict],
        judge: str,
        cost_usd: float = 0.0,
        exposure_usd: float = 0.0,
        calls: int = 0,
    ) -> Judgement:
        """The verdicts back in the case's order. Raises: KeyError if a letter has none."""
        letter_of = {index: letter for letter, index in zip(self.texts, self.order, strict=True)}
        said = [verdicts[letter_of[index]] for index in range(len(self.order))]
        acceptable = tuple(verdict.acceptable for verdict in said)
        why = tuple(verdict.why[:WHY_CHARS] for verdict in said)
        return Judgement(judge, acceptable, why, cost_usd, exposure_usd, calls)


def blind(case: Case) -> Blind:
    """The case's answers under letters, in the order that belongs to the ticket."""
    # Its own seed: audits and their propensities are drawn from ticket ids, too.
    rng = random.Random(f"judge {case.ticket.ticket_id}")
    # Only random() promises the same draws in every version of Python; shuffle() doesn't.
    order = tuple(sorted(range(len(case.answers)), key=lambda _: rng.random()))
    texts = {letter: case.answers[index] for letter, index in zip(LETTERS, order, strict=False)}
    return Blind(case.ticket, texts, order)


def read(reply: str, letters: Sequence[Letter]) -> dict[Letter, Verdict]:
    """A judge's reply: one JSON object, `{"A": {"acceptable": true, "why": "..."}}`, with exactly these letters.

    Raises: UnreadableReplyError, which quotes nothing.
    """
    fenced = _FENCED.fullmatch(reply.strip())
    try:
        text = fenced[1] if fenced else reply
        # msgspec refuses half a character, which no record can hold; but it takes the last of two values for one key,
        # and an answer must not get two words.
        verdicts = msgspec.json.decode(text, type=dict[str, Verdict])
        json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, msgspec.DecodeError, RecursionError):
        # Without its cause, whose text may quote the reply.
        raise UnreadableReplyError("the judge's reply is not the JSON that was asked for") from None
    if verdicts.keys() != set(letters):
        raise UnreadableReplyError(f"the judge's reply is not about {' and '.join(letters)}, and nothing else")
    return {letter: verdicts[letter] for letter in letters}


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found
