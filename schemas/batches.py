"""Batches at a provider, as the process that submits them remembers them: the key is the batch's own, made here."""

from msgspec import Struct

from schemas.spend import MicroUsd
from schemas.tickets import Moment


class BatchTicket(Struct, frozen=True, array_like=True):
    """A ticket of a batch: where its record stands, and the money that is set aside for it."""

    offset: int
    reservation: str
    micro_usd: MicroUsd


class Batch(Struct, frozen=True, kw_only=True):
    """Tickets that are in one batch or on their way into it. They are this record's and no longer their partition's
    unfinished ones; a tombstone says that none is left."""

    partition: int
    """Of the slow lane, in which the tickets stand."""
    target: str
    """Provider and model."""
    phone_region: str
    """The country of phone numbers in what was sent; empty where personal data was not replaced."""
    tickets: tuple[BatchTicket, ...]
    """Those that have no result yet, by offset."""
    at: Moment
    """When it was decided on; it is not submitted before."""
    number: int = 1
    """How many batches its tickets have been in, this one included."""
    id: str = ""
    """The provider's; empty until it is known, which doesn't mean that there is no such batch."""
