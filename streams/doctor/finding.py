"""What a check finds: a verdict, what was seen, and in a line what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "wrong"]
"""wrong: a stage will not start, or tickets are lost, stay or are answered otherwise than the settings say."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    name: str
    verdict: Verdict
    said: str
    """What was found. Never a key, and nothing of a ticket."""
    fix: str = ""
    """What to do: a command or a setting. Empty where nothing is to be done."""


def shortened(names: Sequence[str], most: int = 4) -> str:
    """A list for one line."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
