"""Who is forgotten: their records make no rows.

Digests, so that the list names nobody. They hide an id from whoever reads the list, not from whoever guesses the id: a
key would, but each process that learns would need it, and with it lost the list would be.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import sha256

from msgspec import Struct

from schemas.answers import Answer
from schemas.audits import Audit
from schemas.tickets import Ticket
from workers.learning.provenance import ticket_digest


def customer_digest(tenant: str, customer_id: str) -> str:
    """A customer's name on the list."""
    return sha256("\0".join((tenant, customer_id)).encode()).hexdigest()


@dataclass(slots=True)
class Suppressed:
    """The list, and how many records it has kept out."""

    customers: AbstractSet[str] = field(default_factory=set)
    """By `customer_digest`: also of tickets that a helpdesk publishes later, or again."""
    tickets: AbstractSet[str] = field(default_factory=set)
    """By `ticket_digest`: of records that don't say whose they are."""
    left_out: int = 0

    def holds(self, record: Struct) -> bool:
        """Whether a ticket, or what carries or names one, is of somebody on the list."""
        named = record.ticket if isinstance(record, Audit) else record
        tenant, ticket_id = getattr(named, "tenant", ""), getattr(named, "ticket_id", "")
        if ticket_digest((tenant, ticket_id)) in self.tickets:
            return True
        customer = named.customer_id if isinstance(named, Ticket | Answer) else ""
        return bool(customer) and customer_digest(tenant, customer) in self.customers
