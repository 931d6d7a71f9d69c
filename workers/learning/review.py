"""What the labels say of the policy in force: which certificates fall, and which categories can be certified.

A pure function of all labels and of the policy, so that a process that starts again comes to the same result.
Certifying whenever a label comes in would be one more chance each time to be lucky. So a group of categories is looked
at when it has 100, 200, 400, ... labels, on exactly the first so many, and these looks share delta.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from schemas.labels import AUDIT_SOURCES, Label
from schemas.policy import CategoryPolicy, Certificate, Policy
from workers.learning.drift import DriftTest, observe
from workers.learning.thresholds import Goal, Row, solve
from workers.policies import shadowed

FIRST_LOOK = 100
"""Labels at a group's first look. Fewer than 45 shipped answers prove nothing at the usual alpha."""

DRIFT_DELTA = 0.05
"""Chance of a false alarm in a certificate's whole life."""

Labelled = Mapping[str, Sequence[Label]]
"""The labels that count, by category, in the order in which they came."""


class Review(Struct, frozen=True):
    """What becomes of a policy."""

    of: Policy
    policy: Policy
    """The same value if nothing changed, else one with a version of its own."""
    drift: Mapping[str, DriftTest]
    """The test on each certified category's answers; categories that share a certificate share it."""
    labels: Mapping[str, int]
    """How many labels count towards each category's next look."""

    @property
    def is_alarm(self) -> bool:
        """Whether a certificate fell."""
        return any(test.is_alarm for test in self.drift.values())


def review(
    labels: Iterable[Label],
    policy: Policy,
    goal: Goal,
    now: datetime,
    warned: Mapping[str, float] | None = None,
) -> Review:
    """Withdraw what the audits contradict, then certify what they prove.

    `warned` are the categories with an early warning, each with the share of tickets to audit while it is on; the
    others have their usual share again. None: nobody looked, and the shares stay.
    """
    of = by_category(label for label in labels if speaks_of(label, policy))
    drift = {n: drift_test(n, each.certificate, of) for n, each in policy.categories.items() if each.certificate}
    changes: dict[str, CategoryPolicy] = {}
    because: list[str] = []
    for name, test in drift.items():
        if test.is_alarm:
            why = f"withdrawn: too many bad answers among {test.alarmed_at} audited"
            because.append(f"{name}: {why}")
            fallen = shadowed(policy.categories[name], why)
            changes[name] = replace(
                fallen, since=now, labels=0, audit_share=goal.shadow_audit_share, usual_audit_share=None
            )
    known = {**policy.categories, **changes}
    fresh = {name: [label for label in each if counts(label, known.get(name))] for name, each in of.items()}
    for names in groups({name: len(each) for name, each in fresh.items()}, goal.own_from):
        together = sorted((label for name in names for label in fresh[name]), key=_order)
        found = looked(names, together, known, goal, now)
        changes |= found
        if any(each.certificate for each in found.values()):
            because.append(f"{', '.join(found)}: certified on {next(iter(found.values())).labels} labels")
    if warned is not None:
        for name in sorted(policy.categories.keys() - changes.keys()):
            if audited := with_warning(policy.categories[name], warned.get(name)):
                changes[name] = audited
                why = "an early warning" if name in warned else "the early warning is over"
                because.append(f"{name}: {audited.audit_share:.0%} audited, {why}")
    counted = {name: len(each) for name, each in fresh.items()}
    if not changes:
        return Review(policy, policy, drift, counted)
    categories = dict(sorted({**policy.categories, **changes}.items()))
    made = replace(policy, version="", categories=categories, made_at=now, because=tuple(because))
    return Review(policy, replace(made, version=version_of(made)), drift, counted)


def with_warning(category: CategoryPolicy, share: float | None) -> CategoryPolicy | None:
    """The category with the share of audits that a warning asks for, or with its usual one where there is none; None
    if it has that already. A warning never lowers a share."""
    usual = category.usual_audit_share
    if share is None:
        return None if usual is None else replace(category, audit_share=usual, usual_audit_share=None)
    if usual is not None or category.certificate is None or category.audit_share >= share:
        return None
    return replace(category, audit_share=share, usual_audit_share=category.audit_share)


def version_of(policy: Policy) -> str:
    """A name that says what is in it: the same policy has the same, whatever place it has."""
    return sha256(msgspec.json.encode(replace(policy, version="", evidence=None))).hexdigest()[:12]


def speaks_of(label: Label, policy: Policy) -> bool:
    """Whether a label is about the models that the policy is for; where either names none, it is."""
    pairs = (
        (policy.router_model, label.model_version),
        (policy.scorer, label.scorer),
        (policy.tier1_model, label.model),
    )
    return all(not wanted or not found or wanted == found for wanted, found in pairs)


def by_category(labels: Iterable[Label]) -> dict[str, list[Label]]:
    """Of each audited tier-1 draft its latest label."""
    latest: dict[tuple[str, str], Label] = {}
    for label in labels:
        key = (label.tenant, label.ticket_id)
        counts = label.tier == "tier1" and label.source in AUDIT_SOURCES
        if counts and (key not in latest or label.at >= latest[key].at):
            latest[key] = label
    of: dict[str, list[Label]] = defaultdict(list)
    for label in sorted(latest.values(), key=_order):
        of[label.category].append(label)
    return of


def _order(label: Label) -> tuple[datetime, str, str]:
    return label.at, label.tenant, label.ticket_id


def drift_test(name: str, certificate: Certificate, of: Labelled) -> DriftTest:
    """The test on what was shipped under a category's certificate, by all that share it."""
    shipped = [
        label
        for each in certificate.pooled or (name,)
        for label in of.get(each, ())
        if label.shipped and label.at > certificate.solved_at
    ]
    test = DriftTest.start(certificate.alpha * (1 - certificate.judge_miss), DRIFT_DELTA)
    for label in sorted(shipped, key=_order):
        test = observe(test, not label.acceptable)
    return test


def counts(label: Label, category: CategoryPolicy | None) -> bool:
    """Whether a label is about the present: it isn't from before its category was withdrawn."""
    return category is None or category.since is None or label.at > category.since


def groups(labels: Mapping[str, int], own_from: int) -> list[tuple[str, ...]]:
    """Categories that are certified together: those with labels enough by themselves, the others as one."""
    own: list[tuple[str, ...]] = [(name,) for name in sorted(labels) if labels[name] >= own_from]
    pool = tuple(name for name in sorted(labels) if 0 < labels[name] < own_from)
    return [*own, pool] if pool else own


def looks(count: int, first: int = FIRST_LOOK) -> int:
    """How many looks there were at so many labels, or at whatever is counted: at the first so many, twice that, ..."""
    return (count // first).bit_length()


def share_of(look: int) -> float:
    """Of delta: a quarter for each of the first three looks, then an eighth, a sixteenth, ...: 1 in all."""
    return 0.25 if look <= 3 else 0.5 ** (look - 1)


def looked(
    names: tuple[str, ...], labels: Sequence[Label], known: Mapping[str, CategoryPolicy], goal: Goal, now: datetime
) -> dict[str, CategoryPolicy]:
    """A group's policies by its latest look, those that it changes."""
    look = looks(len(labels))
    used = FIRST_LOOK * 2 ** (look - 1) if look else 0
    pooled = names if len(names) > 1 else ()
    if not look or all(_is_of(known.get(name), used, pooled) for name in names):
        return {}
    # The judge's own error is one event, which all looks share.
    delta = goal.judge_delta + (goal.delta - goal.judge_delta) * share_of(look)
    at_this_look = dataclasses.replace(goal, delta=delta, own_from=used + 1 if pooled else 0)
    solved = solve([row_of(label) for label in labels[:used]], at_this_look, now)
    found: dict[str, CategoryPolicy] = {}
    for name in names:
        before = known.get(name)
        made = replace(solved.categories.get(name, solved.unseen), labels=used, since=before.since if before else None)
        if made.certificate is None and before and before.certificate and before.certificate.pooled == pooled:
            # The older certificate stands: it has its own share of delta, and no alarm was raised.
            made = replace(before, labels=used)
        elif made.certificate is None:
            made = replace(made, why=f"{used} labels don't prove it")
        found[name] = made
    return found


def _is_of(policy: CategoryPolicy | None, used: int, pooled: tuple[str, ...]) -> bool:
    """Whether a category has its policy from a look at so many labels of this group."""
    if policy is None or policy.labels != used:
        return False
    return policy.certificate is None or policy.certificate.pooled == pooled


def row_of(label: Label) -> Row:
    """What the thresholds are solved on. A draft that a gate refused has no score and ships under no threshold."""
    return Row(label.category, label.p_ok or 0.0, label.score or 0.0, label.acceptable, label.propensity)
