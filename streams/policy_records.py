"""`headgate policy`: what is in force and what it promises, and how another policy takes its place.

Every policy that was ever published is kept under its version, so that any of them can be put in force again. A
candidate gets a share of the tickets; to promote it is to put it in force for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from schemas.codec import PoisonError, decode, encode
from schemas.policy import CategoryPolicy, Evidence, Policy, Role
from schemas.topics import POLICY
from streams.publish import producer
from streams.read import raw, reader
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings
from workers.learning.guards import Comparison
from workers.learning.review import version_of
from workers.policies import CANDIDATE, VERSION, Policies, placed_at


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

    def earlier(self) -> list[Policy]:
        """What one can go back to: what once was in force for all and wasn't rolled back; the last that was, last."""
        kept = [p for p in self.versions.values() if self.active and p.version != self.active.version]
        return sorted((p for p in kept if p.evidence is None or p.evidence.role == "in_force"), key=_placed_at)

    @property
    def rolled_back(self) -> Policy | None:
        """The last that lost its place."""
        lost = [p for p in self.versions.values() if p.evidence and p.evidence.role == "rolled_back"]
        return max(lost, key=_placed_at, default=None)

    def policies(self, start: Policy) -> Policies:
        """Those in force; a company begins with the policy in its file."""
        return Policies(self.active or start, self.candidate)


def _placed_at(policy: Policy) -> datetime:
    return placed_at(policy) or datetime.fromtimestamp(0, UTC)


async def read_shelf(kafka: KafkaSettings, scope: str) -> Shelf:
    """What the topic says now.

    Raises: TopicsError if the broker can't be reached or the topic is not there.
    """
    shelf = Shelf(scope)
    async with reader(kafka, [raw(POLICY)]) as source:
        async for received in source.until_end():
            shelf.add((received.key or b"").decode(errors="replace"), received.raw)
    return shelf


async def put_in_force(kafka: KafkaSettings, policy: Policy, candidate: Policy | None = None) -> None:
    """Make a policy the one in force; the candidate that there is ends if it is this one."""
    records: dict[str, Policy | None] = {policy.scope: replace(policy, canary_share=0.0)}
    if candidate and candidate.version == policy.version:
        records[policy.scope + CANDIDATE] = None
    await keep(kafka, policy, records)


async def put_beside(kafka: KafkaSettings, policy: Policy, share: float) -> None:
    """Try a policy as a candidate on a share of the tickets."""
    await keep(kafka, policy, {policy.scope + CANDIDATE: replace(policy, canary_share=share)})


async def end_candidate(kafka: KafkaSettings, policy: Policy) -> None:
    """All tickets are the policy in force's again; the candidate is kept with its evidence."""
    await keep(kafka, policy, {policy.scope + CANDIDATE: None})


async def keep(kafka: KafkaSettings, policy: Policy, places: Mapping[str, Policy | None] = {}) -> None:
    """Keep a policy under its version, with the evidence that it has now; then fill or empty places, by their keys."""
    async with producer(kafka) as client:
        for key, value in {f"{policy.scope}{VERSION}{policy.version}": policy, **places}.items():
            raw_value = encode(value) if value else None
            await client.send_and_wait(kafka.topic_prefix + POLICY.name, raw_value, key=key.encode())


async def publish_policy(kafka: KafkaSettings, start: Policy, policy: Policy, share: float | None) -> Policy:
    """Publish a policy from outside: in force, or as a candidate with a share. Its version is made from its contents.

    Raises: PolicyError if it is of another scope.
    """
    if policy.scope != start.scope:
        raise PolicyError(f"it is of the scope {policy.scope!r}, and the settings' policy of {start.scope!r}")
    made = replace(policy, canary_share=0.0, made_at=policy.made_at or utc_now())
    evidence = Evidence(role=_role(share), at=utc_now(), by="headgate policy publish")
    made = replace(made, version=version_of(made), evidence=evidence)
    if share is None:
        await put_in_force(kafka, made, (await read_shelf(kafka, made.scope)).candidate)
    else:
        await put_beside(kafka, made, share)
    return made


def _role(share: float | None) -> Role:
    return "in_force" if share is None else "candidate"


async def promote(
    kafka: KafkaSettings, start: Policy, version: str, share: float | None, known: Evidence | None = None
) -> Policy:
    """Give a known policy a share of the tickets, or all of them; `known` is what is known of it.

    Raises: PolicyError if there is no such policy.
    """
    shelf = await read_shelf(kafka, start.scope)
    policy = shelf.get(version) if version else shelf.candidate
    if policy is None:
        raise PolicyError("there is no candidate: name a version (headgate policy list)")
    by = "headgate policy promote"
    evidence = replace(known or Evidence(role="in_force", at=utc_now(), by=by), role=_role(share), at=utc_now(), by=by)
    policy = replace(policy, evidence=evidence)
    if share is not None:
        await put_beside(kafka, policy, share)
        return policy
    await put_in_force(kafka, policy, shelf.candidate)
    return policy


async def rollback(kafka: KafkaSettings, start: Policy, version: str) -> Policy:
    """End the candidate, if there is one and no version is named; else put an earlier policy in force again.

    Raises: PolicyError if there is nothing to go back to.
    """
    shelf = await read_shelf(kafka, start.scope)
    evidence = Evidence(role="rolled_back", at=utc_now(), by="headgate policy rollback")
    if not version and shelf.candidate:
        await end_candidate(kafka, replace(shelf.candidate, evidence=evidence))
        return shelf.policies(start).active
    earlier = shelf.earlier()
    if not version and not earlier:
        raise PolicyError("there is no earlier policy on the topic")
    policy = shelf.get(version) if version else earlier[-1]
    await put_in_force(kafka, replace(policy, evidence=replace(evidence, role="in_force")), shelf.candidate)
    if shelf.active and shelf.active.version != policy.version:
        # So that the next rollback goes further back, and not to this one.
        await keep(kafka, replace(shelf.active, evidence=evidence))
    return policy


def show(policies: Policies, labels: Mapping[str, int], console: Console, lost: Policy | None = None) -> None:
    """What is in force: by category, what is certified, to what bound, until when, and what is missing. `lost` is the
    policy that was rolled back last."""
    for role, policy in (("in force", policies.active), ("candidate", policies.candidate)):
        if policy is None:
            continue
        share = f", {policy.canary_share:.0%} of the tickets" if role == "candidate" else ""
        made = f" of {minute(policy.made_at)}" if policy.made_at else ""
        console.print(f"{role}: policy {policy.version}{made}{share}", highlight=False)
        for line in (*policy.because, *said(policy.evidence)):
            console.print(f"  {line}", highlight=False, markup=False)
        console.print(table_of(policy, labels))
    if lost:
        console.print(f"no longer: policy {lost.version}", highlight=False)
        for line in said(lost.evidence):
            console.print(f"  {line}", highlight=False, markup=False)


def said(evidence: Evidence | None) -> list[str]:
    """What a policy got its place on, in lines."""
    if evidence is None:
        return []
    role = evidence.role.replace("_", " ")
    lines = [f"{role} since {minute(evidence.at)} by {evidence.by}", *evidence.because]
    if evidence.labels:
        wealth = max(evidence.drift_wealth.values(), default=0.0)
        lines.append(f"on {evidence.labels} labels; evidence against its certificates {wealth:.2g} of 20")
    if evidence.tickets:
        lines.append(compared(evidence))
    return lines


def minute(at: datetime) -> str:
    """A moment for people; policy files may have any time zone."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def compared(seen: Evidence | Comparison) -> str:
    """A candidate's tickets beside those of the policy in force, in a line."""
    latency, cost = ("unknown" if r is None else f"{r:.2f} times" for r in (seen.latency_ratio, seen.cost_ratio))
    return f"{seen.tickets} tickets beside {seen.control} of the policy in force: p95 {latency}, cost {cost}"


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
    skip = {"categories", "default", "version", "made_at", "because", "canary_share", "evidence"}
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
