"""Which policy a ticket is under, and what of it still holds. Pure: the router and the checker both ask it."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Literal, NamedTuple

from msgspec.structs import replace

from schemas.policy import CategoryPolicy, Policy

CANDIDATE = "/candidate"
"""After the scope: the key of a policy that is tried on a part of the tickets."""

VERSION = "@"
"""Between scope and version: the key under which every policy that was ever published is kept."""

Part = Literal["router_model", "scorer", "tier1_model"]


class Policies(NamedTuple):
    """The policy in force, and the candidate beside it, if there is one."""

    active: Policy
    candidate: Policy | None = None

    def of_ticket(self, ticket_id: str) -> Policy:
        """The policy that decides a new ticket: the same for the same id. When the candidate's share grows, tickets
        move to it and none back."""
        if self.candidate is not None and _drawn(ticket_id) < self.candidate.canary_share:
            return self.candidate
        return self.active

    def is_control(self, ticket_id: str) -> bool:
        """Whether a ticket is compared with the candidate's: about as many as it has, by chance, of the others."""
        return self.candidate is not None and (
            self.candidate.canary_share <= _drawn(ticket_id) < 2 * self.candidate.canary_share
        )

    def of_version(self, version: str) -> Policy:
        """The policy that judges a draft that was routed under `version`. One that is gone has lost its certificates,
        so the policy in force judges instead."""
        if self.candidate is not None and self.candidate.version == version:
            return self.candidate
        return self.active


def placed_at(policy: Policy) -> datetime | None:
    """When a policy got the place that it has, or lost it; None where nobody knows."""
    return policy.evidence.at if policy.evidence else policy.made_at


def _drawn(ticket_id: str) -> float:
    """Evenly distributed over [0, 1)."""
    return int.from_bytes(blake2b(f"canary\0{ticket_id}".encode(), digest_size=8).digest()) / 2**64


def holding(policy: Policy, now: datetime, models: Mapping[Part, str]) -> Policy:
    """What still holds: nothing under other models than the thresholds were solved for, nor after a certificate's
    end. The rest is in the shadow."""
    parts: tuple[Part, ...] = ("router_model", "scorer", "tier1_model")
    for part in parts:
        wanted, found = getattr(policy, part), models.get(part, "")
        if wanted and found and wanted != found:
            why = f"solved for {part} {wanted}, and {found} is at work"
            categories = {name: shadowed(each, why) for name, each in policy.categories.items()}
            return replace(policy, default=shadowed(policy.default, why), categories=categories)
    ended = {name: each for name, each in policy.categories.items() if _has_ended(each, now)}
    if not ended and not _has_ended(policy.default, now):
        return policy
    why = "the certificate has ended"
    default = shadowed(policy.default, why) if _has_ended(policy.default, now) else policy.default
    return replace(
        policy, default=default, categories={**policy.categories, **{n: shadowed(e, why) for n, e in ended.items()}}
    )


def _has_ended(category: CategoryPolicy, now: datetime) -> bool:
    until = category.certificate.valid_until if category.certificate else None
    return until is not None and until <= now


def shadowed(category: CategoryPolicy, why: str) -> CategoryPolicy:
    """Nothing ships from tier-1."""
    return replace(category, state="shadow", certificate=None, why=why)
