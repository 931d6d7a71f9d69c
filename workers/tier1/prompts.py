"""What tier-1 is asked: short, since prompt tokens are dear on a CPU, the stable part first, so that it is cached."""

from collections.abc import Sequence
from typing import TypedDict

from schemas.tickets import Ticket

SYSTEM = "You answer customers of {company}."

MAX_TICKET_CHARS = 1_600
"""About 400 tokens. The router sends longer tickets to tier-2; a forced one is cut here, at its end."""


class ChatMessage(TypedDict):
    """One message of a chat prompt, as OpenAI-compatible servers take it."""

    role: str
    content: str


def chat(ticket: Ticket, company: str, passages: Sequence[str]) -> list[ChatMessage]:
    """The chat prompt of one ticket. The model's own chat template turns it into tokens.

    `passages` are texts from the company's knowledge, likeliest first. They come
    before the ticket: tickets about the same thing then share a cached prefix.
    """
    return [
        {"role": "system", "content": SYSTEM.format(company=company)},
        {"role": "user", "content": "\n\n".join((*passages, question(ticket)))},
    ]


def question(ticket: Ticket) -> str:
    """The ticket as the model reads it: subject, body, then the facts the helpdesk gave."""
    asked = "\n".join(part for part in (ticket.subject, ticket.body) if part)[:MAX_TICKET_CHARS]
    return "\n".join((asked, *ticket.context))
