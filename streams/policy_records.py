"""`headgate policy`: what is in force and what it promises, and how another policy takes its place.

Every policy that was ever published is kept under its version, so that any of them can be put in force again. A
candidate gets a share of the tickets; to promote it is to put it in force for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed

from aiokafka import AIOKafkaProducer
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from schemas.codec import PoisonError, decode, encode
from schemas.policy import CategoryPolicy, Policy
from schemas.topics import POLICY
from streams.publish import producer
from streams.read import reader
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings
from workers.learning.review import version_of
from workers.policies import CANDIDATE, VERSION, Policies


class PolicyError(Exception):
    """Nothing was changed: why."""


@dataclass(slots=True)
class Shelf:
    """All policies of a scope on the topic."""

    scope: str
    active: Policy | None = None
    candidate: Policy | None = None
    versions: dict[str, Policy] = field(default_factory=dict)
    unreadable: int = 0

    def add(self, key: str, raw: bytes | None) -> None:
        try:
            policy = decode(Policy, raw) if raw is not None else None
        except PoisonError:
            self.unreadable += 1
            return
        if key == self.scope:
            self.active = policy
        elif key == self.scope + CANDIDATE:
            self.candidate = policy
        elif key.startswith(self.scope + VERSION) and policy:
            self.versions[key.removeprefix(self.scope + VERSION)] = policy

    def get(self, version: str) -> Policy:
        """A policy by the start of its version.

        Raises: PolicyError if there is none, or more than one.
        """
        found = [policy for name, policy in self.versions.items() if name.startswith(version)]
        if len(found) != 1:
            raise PolicyError(f"{len(found) or 'no'} policies begin with {version!r}: headgate policy list")
        return found[0]

    def policies(self, start: Policy) -> Policies:
        """Those in force; a company begins with the policy in its file."""
        return Policies(self.active or start, self.candidate)


async def read_shelf(kafka: KafkaSettings, scope: str) -> Shelf:
    """What the topic says now.

    Raises: TopicsError if the broker can't be reached or the topic is not there.
    """
    shelf = Shelf(scope)
    async with reader(kafka, [changed(POLICY, value=None)]) as source:
        async for received in source.until_end():
            shelf.add((received.key or b"").decode(errors="replace"), received.raw)
    return shelf


async def put_in_force(kafka: KafkaSettings, policy: Policy) -> None:
    """Make a policy the one in force, and keep it under its version; a candidate beside it ends if it is the same."""
    async with producer(kafka) as client:
        await _send(client, kafka, f"{policy.scope}{VERSION}{policy.version}", policy)
        await _send(client, kafka, policy.scope, replace(policy, canary_share=0.0))


async def put_beside(kafka: KafkaSettings, policy: Policy, share: float) -> None:
    """Try a policy as a candidate on a share of the tickets."""
    async with producer(kafka) as client:
        await _send(client, kafka, f"{policy.scope}{VERSION}{policy.version}", policy)
        await _send(client, kafka, policy.scope + CANDIDATE, replace(policy, canary_share=share))


async def end_candidate(kafka: KafkaSettings, scope: str) -> None:
    """All tickets are the policy in force's again."""
    async with producer(kafka) as client:
        await _send(client, kafka, scope + CANDIDATE, None)


async def _send(client: AIOKafkaProducer, kafka: KafkaSettings, key: str, policy: Policy | None) -> None:
    value = encode(policy) if policy else None
    await client.send_and_wait(kafka.topic_prefix + POLICY.name, value, key=key.encode())


async def publish_policy(kafka: KafkaSettings, start: Policy, policy: Policy, share: float | None) -> Policy:
    """Publish a policy from outside: in force, or as a candidate with a share. Its version is made from its contents.

    Raises: PolicyError if it is of another scope.
    """
    if policy.scope != start.scope:
        raise PolicyError(f"it is of the scope {policy.scope!r}, and the settings' policy of {start.scope!r}")
    made = replace(policy, canary_share=0.0, made_at=policy.made_at or utc_now())
    made = replace(made, version=version_of(made))
    if share is None:
        await put_in_force(kafka, made)
    else:
        await put_beside(kafka, made, share)
    return made


async def promote(kafka: KafkaSettings, start: Policy, version: str, share: float | None) -> Policy:
    """Give a known policy a share of the tickets, or all of them.

    Raises: PolicyError if there is no such policy.
    """
    shelf = await read_shelf(kafka, start.scope)
    policy = shelf.get(version) if version else shelf.candidate
    if policy is None:
        raise PolicyError("there is no candidate: name a version (headgate policy list)")
    if share is not None:
        await put_beside(kafka, policy, share)
        return policy
    await put_in_force(kafka, policy)
    if shelf.candidate and shelf.candidate.version == policy.version:
        await end_candidate(kafka, start.scope)
    return policy


async def rollback(kafka: KafkaSettings, start: Policy, version: str) -> Policy:
    """End the candidate, if there is one and no version is named; else put an earlier policy in force again.

    Raises: PolicyError if there is nothing to go back to.
    """
    shelf = await read_shelf(kafka, start.scope)
    if not version and shelf.candidate:
        await end_candidate(kafka, start.scope)
        return shelf.policies(start).active
    earlier = sorted(
        (p for p in shelf.versions.values() if shelf.active and p.version != shelf.active.version and p.made_at),
        key=lambda p: p.made_at or utc_now(),
    )
    if not version and not earlier:
        raise PolicyError("there is no earlier policy on the topic")
    policy = shelf.get(version) if version else earlier[-1]
    await put_in_force(kafka, policy)
    return policy


def show(policies: Policies, labels: Mapping[str, int], console: Console) -> None:
    """What is in force: by category, what is certified, to what bound, until when, and what is missing."""
    for role, policy in (("in force", policies.active), ("candidate", policies.candidate)):
        if policy is None:
            continue
        share = f", {policy.canary_share:.0%} of the tickets" if role == "candidate" else ""
        made = f" of {policy.made_at:%Y-%m-%d %H:%M} UTC" if policy.made_at else ""
        console.print(f"{role}: policy {policy.version}{made}{share}", highlight=False)
        for line in policy.because:
            console.print(f"  {line}", highlight=False, markup=False)
        console.print(table_of(policy, labels))


def table_of(policy: Policy, labels: Mapping[str, int]) -> Table:
    """A row a category; those that have labels and no policy of their own are named, too."""
    table = Table("category", "tier-1", "p_ok", "score", "bound", "labels", "until", "missing")
    names = sorted({*policy.categories, *labels})
    for name, category in [(n, policy.of(n)) for n in names] + [("any other", policy.default)]:
        table.add_row(name, *_row(category, labels.get(name)))
    return table


def _row(category: CategoryPolicy, labels: int | None) -> tuple[str, ...]:
    certificate, ships = category.certificate, category.state == "active"
    bound, until = "-", "-"
    if certificate:
        pooled = f" of {len(certificate.pooled)} together" if certificate.pooled else ""
        bound = f"at most {certificate.upper_bound:.1%} bad{pooled}, at {1 - certificate.delta:.0%}"
        until = f"{certificate.valid_until:%Y-%m-%d}" if certificate.valid_until else "for ever"
    elif ships:
        bound = "none: not certified"
    missing = "" if ships else "?" if category.labels_missing is None else f"about {category.labels_missing}"
    counted = str(category.labels) + (f" ({labels} now)" if labels is not None and labels != category.labels else "")
    state = "ships" if ships else f"shadow{f': {category.why}' if category.why else ''}"
    thresholds = (f"{category.p_ok_threshold:.3f}", f"{category.score_threshold:.3f}") if ships else ("-", "-")
    return state, *thresholds, bound, counted, until, missing


def differences(before: Policy, after: Policy) -> list[str]:
    """What another policy would change, a line each."""
    lines = []
    for name in sorted({*before.categories, *after.categories}):
        lines += _changes(name, before.of(name), after.of(name))
    lines += _changes("any other", before.default, after.default)
    skip = {"categories", "default", "version", "made_at", "because", "canary_share"}
    for name in (f for f in Policy.__struct_fields__ if f not in skip):
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            lines.append(f"{name}: {one!r} -> {other!r}")
    return lines


def _changes(name: str, before: CategoryPolicy, after: CategoryPolicy) -> list[str]:
    fields = ("state", "p_ok_threshold", "score_threshold", "least_gain", "audit_share")
    found = [(f, getattr(before, f), getattr(after, f)) for f in fields]
    lines = [f"{name}: {f} {one} -> {other}" for f, one, other in found if one != other]
    bounds = [c.certificate.upper_bound if c.certificate else None for c in (before, after)]
    if bounds[0] != bounds[1]:
        one, other = ("none" if b is None else f"{b:.2%}" for b in bounds)
        lines.append(f"{name}: bound {one} -> {other}")
    return lines
