"""What tier-1 is asked: short, since prompt tokens are dear on a CPU, the stable part first, so that it is cached.

A prompt that is too long for the model's window is cut by one rule: the less likely passages go, the last first; then
the middle of the customer's text, so that its first and last sentences stay. The system line, the likeliest passage and
the account facts stay whole.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from schemas.tickets import Ticket

SYSTEM = "You answer customers of {company}."

CHARS_PER_TOKEN = 3
"""A guess on the safe side for English, which has 4 or more; where it is wrong the engine says so."""

GAP = "\n[...]\n"
"""Stands for the middle of a text that was cut."""

LEAST_CHARS = 200
"""So much of the customer's text always stays (a guess): of less no model could tell what was asked."""


class ChatMessage(TypedDict):
    """One message of a chat prompt, as OpenAI-compatible servers take it."""

    role: str
    content: str


class Fitted(NamedTuple):
    """A prompt, and how many characters of the passages and of the customer's text it lacks."""

    messages: list[ChatMessage]
    cut_chars: int

    @property
    def chars(self) -> int:
        """Its length, as `room_chars` counts."""
        return _chars(self.messages)


def fit(ticket: Ticket, company: str, passages: Sequence[str], room_chars: int) -> Fitted:
    """The chat prompt of one ticket, cut to `room_chars` of content by the rule above.

    It is longer still where what stays whole leaves no room for LEAST_CHARS of the customer's text.
    """
    kept, asked = list(passages), _asked(ticket)
    while len(kept) > 1 and _chars(_messages(ticket, company, kept, asked)) > room_chars:
        kept.pop()
    over = _chars(_messages(ticket, company, kept, asked)) - room_chars
    text = _without_middle(asked, max(LEAST_CHARS, len(asked) - over)) if over > 0 else asked
    left_out = sum(len(passage) for passage in passages[len(kept) :])
    lost = len(asked) - (len(text) - len(GAP)) if text != asked else 0
    return Fitted(_messages(ticket, company, kept, text), left_out + lost)


def chat(ticket: Ticket, company: str, passages: Sequence[str]) -> list[ChatMessage]:
    """The whole chat prompt of one ticket. The model's own chat template turns it into tokens.

    `passages` are texts from the company's knowledge, likeliest first. They come
    before the ticket: tickets about the same thing then share a cached prefix.
    """
    return _messages(ticket, company, passages, _asked(ticket))


def _messages(ticket: Ticket, company: str, passages: Sequence[str], asked: str) -> list[ChatMessage]:
    # Subject and body, then the facts that the helpdesk gave.
    question = "\n".join((asked, *ticket.context))
    return [
        {"role": "system", "content": SYSTEM.format(company=company)},
        {"role": "user", "content": "\n\n".join((*passages, question))},
    ]


def _asked(ticket: Ticket) -> str:
    """The customer's text."""
    return "\n".join(part for part in (ticket.subject, ticket.body) if part)


def _chars(messages: Sequence[ChatMessage]) -> int:
    return sum(len(message["content"]) for message in messages)


def _without_middle(text: str, most_chars: int) -> str:
    """Its head and its tail, equally long, with GAP between; the text itself if it is short enough."""
    if len(text) <= most_chars:
        return text
    stays = most_chars - len(GAP)
    tail = stays // 2
    return text[: stays - tail] + GAP + text[len(text) - tail :]
