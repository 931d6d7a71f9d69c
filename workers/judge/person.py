"""A person as the judge: a blind case as a page of text for a terminal, and what the person typed as a verdict.

Values only: whoever asks prints and reads. Foreign text can neither steer the terminal nor pass for the page's own
lines.
"""

import unicodedata
from collections.abc import Iterator

from workers.judge.judgement import WHY_CHARS, Blind, Verdict

_MARGIN = "  | "
"""Before every line of foreign text, and before no other."""

_UNSEEN = "\N{REPLACEMENT CHARACTER}"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the order in which a line is shown."""

_YES, _NO = frozenset({"y", "yes"}), frozenset({"n", "no"})


def page(case: Blind) -> str:
    """What the person sees: the ticket, then the answers under their letters."""
    ticket = case.ticket
    parts = [("Subject", ticket.subject)]
    parts += [(f"Earlier, by the {m.author}", m.body) for m in ticket.thread]
    parts.append(("The customer's message", ticket.body))
    parts += [("Account fact", fact) for fact in ticket.context]
    parts += [(f"Answer {letter}", text) for letter, text in case.texts.items()]
    # An empty answer is one, too; an empty subject is none.
    shown = [(name, text) for name, text in parts if text or name.startswith("Answer")]
    return "\n\n".join(f"{name}\n{_quoted(text)}" for name, text in shown)


def verdict(typed: str) -> Verdict:
    """ "y" or "n", and after it the reason, if any.

    Raises: ValueError if it is neither.
    """
    word, _, why = typed.strip().partition(" ")
    if word.lower() not in _YES | _NO:
        raise ValueError("answer y (acceptable) or n (not acceptable), and a reason after it if you like")
    return Verdict(acceptable=word.lower() in _YES, why=why.strip()[:WHY_CHARS])


def _quoted(text: str) -> str:
    return "\n".join(_MARGIN + "".join(_harmless(line)) for line in text.strip().splitlines() or [""])


def _harmless(line: str) -> Iterator[str]:
    for char in line:
        if char == "\t":
            yield " "
        elif char in _BIDI or unicodedata.category(char) in ("Cc", "Cs"):
            yield _UNSEEN
        else:
            yield char
