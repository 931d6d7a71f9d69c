"""The customer's addresses and numbers out of what a provider sees, and back into its answer.

The same value has the same placeholder everywhere in a ticket, so that the
model can still tell who is who. A placeholder that the customer wrote himself
is never one of ours: it would be answered with somebody's data.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workers.tier2.personal_data import find

_PLACEHOLDER = re.compile(r"\[[ ]?(EMAIL|IBAN|CARD|PHONE|ACCOUNT)[ _\\-]{0,3}([0-9]{1,6})[ ]?\]", re.I | re.A)
"""Models change case and spacing, and escape the underscore for Markdown."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """Texts without personal data, in the order in which they came."""

    texts: tuple[str, ...]
    placeholders: Mapping[str, str] = field(repr=False)
    """What each placeholder stands for, in the order of appearance, as the customer first wrote it."""


def redact(texts: Sequence[str], region: str = "US") -> Redacted:
    """One ticket's texts with [EMAIL_1], [PHONE_1], [CARD_1], [IBAN_1], [ACCOUNT_1] for what they stand for.

    `region` (ISO 3166) is the country of phone numbers without a prefix.
    """
    foreign = {_named(match) for text in texts for match in _PLACEHOLDER.finditer(text)}
    names: dict[tuple[str, str], str] = {}
    placeholders: dict[str, str] = {}
    last: dict[str, int] = {}
    redacted = []
    for text in texts:
        parts, done = [], 0
        for found in find(text, region):
            key = found.kind, found.value
            if key not in names:
                names[key] = _next_name(found.kind, last, foreign)
                placeholders[names[key]] = text[found.start : found.end]
            parts += [text[done : found.start], names[key]]
            done = found.end
        redacted.append("".join([*parts, text[done:]]))
    return Redacted(tuple(redacted), placeholders)


def restore(answer: str, placeholders: Mapping[str, str]) -> str:
    """The answer with the values for the placeholders; one that stands for nothing stays as it is."""
    if not placeholders:
        return answer
    return _PLACEHOLDER.sub(lambda match: placeholders.get(_named(match), match[0]), answer)


def _next_name(kind: str, last: dict[str, int], foreign: set[str]) -> str:
    """The kind's next placeholder that the customer didn't write."""
    while True:
        last[kind] = last.get(kind, 0) + 1
        name = f"[{kind}_{last[kind]}]"
        if name not in foreign:
            return name


def _named(match: re.Match[str]) -> str:
    return f"[{match[1].upper()}_{int(match[2])}]"
