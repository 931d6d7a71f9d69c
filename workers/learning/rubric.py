"""A rubric: what an acceptable answer to one ticket must state and must not claim.

It is how quality is measured on the example company, by a program and not by
taste. The router, the checker and the tiers never see one: a rubric is the
answer key.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing an acceptable answer says: any of the patterns is found in it.

    A pattern is a regular expression, searched case-insensitively in the normalised answer.
    """

    fact: str
    any: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing an acceptable answer does not say: none of the patterns is found in it."""

    claim: str
    any: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rubric:
    """What is checked: facts stated, claims avoided, and no number out of thin air.

    `numbers` are the ones an answer may use: those of the reference answer, the
    ticket, its context and the company's knowledge on the ticket's subject.
    """

    states: tuple[Fact, ...]
    forbids: tuple[Claim, ...]
    numbers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Grade:
    """An answer against its rubric. Empty lists mean an acceptable answer."""

    missing: tuple[str, ...]
    claimed: tuple[str, ...]
    invented: tuple[str, ...]

    @property
    def acceptable(self) -> bool:
        return not (self.missing or self.claimed or self.invented)


_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def numbers_in(text: str) -> frozenset[str]:
    """The numbers of a text as written, less thousands separators and trailing zeros."""
    return frozenset(_plain(match) for match in _NUMBER.findall(text))


def _plain(number: str) -> str:
    plain = re.sub(r",(?=\d{3}\b)", "", number)
    return plain.removesuffix(".00")


_TYPOGRAPHY = {
    0x2018: "'",
    0x2019: "'",
    0x201C: '"',
    0x201D: '"',
    0x2013: "-",
    0x2014: "-",
    0x00A0: " ",
}
"""Quotes, dashes and the no-break space, by code point, with their plain forms."""


def normalised(text: str) -> str:
    """Typography and white space made plain, so that patterns stay simple."""
    return " ".join(text.translate(_TYPOGRAPHY).split())


def grade(answer: str, rubric: Rubric) -> Grade:
    """Check an answer against its rubric."""
    text = normalised(answer)
    return Grade(
        missing=tuple(f.fact for f in rubric.states if not _found(f.any, text)),
        claimed=tuple(c.claim for c in rubric.forbids if _found(c.any, text)),
        invented=tuple(sorted(numbers_in(text) - rubric.numbers)),
    )


def _found(patterns: tuple[str, ...], text: str) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)
