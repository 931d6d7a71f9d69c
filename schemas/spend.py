"""Spending as all tier-2 processes see it: one log of steps, whose order is the only truth, and its snapshots."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Period = Literal["minute", "day", "month"]
"""A UTC calendar minute, day or month, by the time at which the broker wrote the record."""
Scope = Literal["all", "tenant"]
MicroUsd = Annotated[int, Meta(ge=0)]


class Limit(Struct, frozen=True, array_like=True):
    """The most that all tenants together, or the reservation's tenant, may spend in one period."""

    scope: Scope
    period: Period
    micro_usd: MicroUsd


class Reserve(Struct, frozen=True, kw_only=True, tag="reserve"):
    """Asks for a call's worst case. Granted if it fits its limits where it stands in the log, else it counts nothing.

    It carries the limits that it is judged by, so that every reader decides the same whatever its own settings.
    """

    id: str
    tenant: str
    micro_usd: MicroUsd
    limits: tuple[Limit, ...] = ()


class Settle(Struct, frozen=True, kw_only=True, tag="settle"):
    """What a granted call cost, in place of its worst case. One whose id is not reserved says nothing but the time."""

    id: str
    micro_usd: MicroUsd


Step = Reserve | Settle


class SpendEntry(Struct, frozen=True, kw_only=True):
    """One step of the log."""

    step: Step


class SpendWindow(Struct, frozen=True, array_like=True):
    """What counts in one period: costs, and the worst cases of calls that are not settled."""

    tenant: str | None
    """None for all tenants together."""
    period: Period
    start_s: int
    micro_usd: int


class Pending(Struct, frozen=True, array_like=True):
    """A granted reservation that is not settled."""

    id: str
    tenant: str
    micro_usd: MicroUsd
    at_s: float


class SpendSnapshot(Struct, frozen=True, kw_only=True):
    """The book as it stands before the log's record at `offset`."""

    offset: int
    newest_s: float
    """Time of the newest step in it, seconds since the epoch."""
    windows: tuple[SpendWindow, ...]
    pending: tuple[Pending, ...]
    """In the log's order."""
