"""A customer who is forgotten: what learning needs to leave the tickets out, and nothing that names anybody."""

from msgspec import Struct

from schemas.tickets import Moment


class Forgotten(Struct, frozen=True, kw_only=True):
    """Nothing may be learned from the tickets of one customer. The key is a digest of tenant and customer_id."""

    at: Moment
    """When it was last asked for."""
    tickets: tuple[str, ...] = ()
    """Digests of the tickets that were found, as data sets name them: labels and events don't say whose they are."""
