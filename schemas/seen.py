"""What the router remembers of a ticket, so that a helpdesk that publishes it again is not answered twice."""

from msgspec import Struct

from schemas.tickets import Moment


class Seen(Struct, frozen=True, kw_only=True):
    """A ticket was taken in. Its key is the ticket's identity."""

    at: Moment
    """When the ticket was written."""
    origin: str
    """Topic, partition and offset of the ticket that counts."""
