"""What leaves for a provider: the ticket as a message, with the customer's data replaced by placeholders."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from schemas.tickets import Ticket
from workers.tier2 import prompts
from workers.tier2.redaction import redact, restore


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The message, and what its placeholders stand for."""

    message: str = field(repr=False)
    placeholders: Mapping[str, str] = field(repr=False)

    def restored(self, answer: str) -> str:
        """The answer with the customer's data in it again."""
        return restore(answer, self.placeholders)


def outgoing(ticket: Ticket, redacting: bool, phone_region: str) -> Outgoing:
    """The user message for a ticket."""
    if not redacting:
        return Outgoing(prompts.user(ticket), {})
    thread = ticket.thread
    found = redact((ticket.subject, ticket.body, *(m.body for m in thread), *ticket.context), phone_region)
    subject, body, *others = found.texts
    hidden = msgspec.structs.replace(
        ticket,
        subject=subject,
        body=body,
        thread=tuple(msgspec.structs.replace(m, body=text) for m, text in zip(thread, others, strict=False)),
        context=tuple(others[len(thread) :]),
    )
    return Outgoing(prompts.user(hidden, tuple(found.placeholders)), found.placeholders)
