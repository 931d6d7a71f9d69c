"""An early warning for each certificate, from the checker's verdicts on all drafts and from feedback: while it is on,
more is audited.

It says that drafts are refused more or less often than among the labels of the certificate. Those are judged drafts, a
random sample; so the checker's verdicts on whatever went to tier-1 can be compared with them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from schemas.answers import GateReason
from schemas.events import Event
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Certificate, Policy
from workers.learning.drift import EarlyWarning, observe_check
from workers.learning.review import Labelled, counts

DELTA = 0.05
"""Chance of a false warning by one test, ever. A test begins with the certificate, and again after each warning."""

CALM_DRAFTS = 500
"""A warning is on for so many drafts at least: a guess. Audits of one in four of them are enough for the drift test."""

CALM_FEEDBACK = 100
"""The same where feedback is what is watched, which is rarer: a guess."""


class Lookout(Struct, frozen=True, kw_only=True):
    """Whether the checker's verdicts under one certificate are what they were, verdict by verdict."""

    start: EarlyWarning
    test: EarlyWarning
    """Since the certificate began, or since the last time that it warned."""
    is_warning: bool = False

    @classmethod
    def from_labels(cls, refused: int, drafts: int) -> Self:
        """From the certificate's labels. Raises: ValueError if there are none."""
        start = EarlyWarning.start(refused, drafts, DELTA)
        return cls(start=start, test=start)


def checked(lookout: Lookout, refused: bool, calm: int = CALM_DRAFTS) -> Lookout:
    """After one more verdict; a warning is on for `calm` of them at least.

    At a warning the test begins anew. The warning is over when this one has seen enough drafts and has lost money on
    both of its bets: nothing speaks for a change any more.
    """
    test = observe_check(lookout.test, refused)
    if test.is_warning:
        return replace(lookout, test=lookout.start, is_warning=True)
    is_calm = test.more.tickets >= calm and max(test.more.wealth, test.fewer.wealth) < 1
    return replace(lookout, test=test, is_warning=lookout.is_warning and not is_calm)


def baseline(names: tuple[str, ...], category: CategoryPolicy, labels: Labelled) -> tuple[int, int]:
    """Of the labels before a certificate: how many drafts it would have sent to tier-1 and then refused, and how many
    it would have sent there at all."""
    certificate = category.certificate
    drafts = [
        label
        for name in names
        for label in labels.get(name, ())
        if certificate and label.at <= certificate.solved_at and counts(label, category)
        if (label.p_ok or 0.0) >= category.p_ok_threshold
    ]
    return sum(label.score is None or label.score < category.score_threshold for label in drafts), len(drafts)


def has_complaints(names: tuple[str, ...], certificate: Certificate, feedback: Iterable[Label]) -> bool:
    """Whether more, or less, of the feedback on tier-1's answers complains than before the certificate: the same test.

    Compared with other feedback alone, since those who say nothing are not counted anywhere."""
    said = sorted((f for f in feedback if f.tier == "tier1" and f.category in names), key=lambda f: f.at)
    before = [not f.acceptable for f in said if f.at <= certificate.solved_at]
    if not before:
        return False
    lookout = Lookout.from_labels(sum(before), len(before))
    for label in said[len(before) :]:
        lookout = checked(lookout, refused=not label.acceptable, calm=CALM_FEEDBACK)
    return lookout.is_warning


CertificateKey = tuple[tuple[str, ...], datetime]
"""A certificate: its categories, and when it was solved."""


@dataclass(slots=True)
class Lookouts:
    """One lookout a certificate of the policy in force."""

    by_certificate: dict[CertificateKey, Lookout] = field(default_factory=dict)
    _of_category: dict[str, CertificateKey] = field(default_factory=dict)
    _not_mine: str | None = None

    def follow(self, policy: Policy, candidate: Policy | None, labels: Labelled) -> None:
        """Watch the certificates of a policy from now on: those that it had before, on; no others. One whose labels
        are gone isn't watched."""
        before, self.by_certificate, self._of_category = self.by_certificate, {}, {}
        self._not_mine = candidate.version if candidate else None
        for name, category in policy.categories.items():
            if category.certificate is None:
                continue
            names = category.certificate.pooled or (name,)
            key = names, category.certificate.solved_at
            if key not in self.by_certificate:
                refused, drafts = baseline(names, category, labels)
                if key not in before and not drafts:
                    continue
                self.by_certificate[key] = before.get(key) or Lookout.from_labels(refused, drafts)
            self._of_category[name] = key

    def add(self, event: Event) -> None:
        """A verdict on a draft that could have been sent; what ran in the shadow couldn't."""
        key = self._of_category.get(event.category)
        if key is None or event.stage != "checker" or event.tier != "tier1" or event.at <= key[1]:
            return
        if GateReason.SHADOW in event.reasons or event.policy_version == self._not_mine:
            return
        self.by_certificate[key] = checked(self.by_certificate[key], refused=event.outcome != "answered")

    @property
    def warnings(self) -> dict[str, bool]:
        """By category that is watched: whether its certificate has a warning."""
        return {name: self.by_certificate[key].is_warning for name, key in self._of_category.items()}


def complained(policy: Policy, candidate: Policy | None, labels: Iterable[Label]) -> dict[str, bool]:
    """By category with a certificate: whether the feedback on its answers has changed. Pure, of all labels."""
    other = candidate.version if candidate else None
    said = (label for label in labels if label.source == "feedback" and label.policy_version != other)
    # What a helpdesk says later of the same answer counts instead.
    feedback = {(f.tenant, f.ticket_id, f.tier): f for f in sorted(said, key=lambda f: f.at)}
    certificates = {name: each.certificate for name, each in policy.categories.items()}
    return {
        name: has_complaints(certificate.pooled or (name,), certificate, feedback.values())
        for name, certificate in certificates.items()
        if certificate
    }
