"""What operators see of `headgate certify`: what each category may ship, what is promised of it, and what audits say.

The policy's default, which holds for all categories without a row of their own, is the category `*`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from prometheus_client import Gauge

from schemas.labels import Label
from schemas.policy import Policy
from streams.scoreboard.quality import Judged, in_force, judged, qualities
from workers.learning.review import Review
from workers.policies import holding

ALL = "*"

ACTIVE = Gauge(
    "headgate_category_active", "1 while tier-1's answers of the category ship, 0 in the shadow.", ["category"]
)
BOUND = Gauge(
    "headgate_certificate_upper_bound_ratio", "Bad answers among those shipped: what is proved, 0 to 1.", ["category"]
)
ALPHA = Gauge(
    "headgate_certificate_alpha_ratio", "Bad answers among those shipped: what is tolerated, 0 to 1.", ["category"]
)
EXPIRY = Gauge(
    "headgate_certificate_expiry_timestamp_seconds", "When the category's certificate ends, by itself.", ["category"]
)
BAD = Gauge(
    "headgate_bad_answers_ratio",
    "Bad answers among those that customers got, estimated from all audits, 0 to 1.",
    ["category", "tier"],
)
BAD_HIGH = Gauge(
    "headgate_bad_answers_high_ratio", "The upper end of that estimate's 95 % interval.", ["category", "tier"]
)
DRIFT = Gauge("headgate_drift_wealth", "Evidence against a certificate; it falls at 20.", ["category"])
COUNTED = Gauge("headgate_labels", "Labels that count towards a category's next look.", ["category"])
WARNING = Gauge("headgate_early_warning", "1 while drafts are refused more or less often than usual.", ["category"])


def show_policy(policy: Policy, now: datetime) -> None:
    """What holds now of the policy in force."""
    held = holding(policy, now, {})
    categories = {ALL: held.default, **held.categories}
    for gauge in (ACTIVE, BOUND, ALPHA, EXPIRY):
        gauge.clear()
    for name, category in categories.items():
        ACTIVE.labels(name).set(category.state == "active")
        if (certificate := category.certificate) is not None:
            BOUND.labels(name).set(certificate.upper_bound)
            ALPHA.labels(name).set(certificate.alpha)
            if certificate.valid_until is not None:
                EXPIRY.labels(name).set(certificate.valid_until.timestamp())


def show_review(review: Review) -> None:
    """The tests on the certificates, and how many labels there are."""
    for category, test in review.drift.items():
        DRIFT.labels(category).set(test.wealth)
    for category, count in review.labels.items():
        COUNTED.labels(category).set(count)


def show_quality(labels: Sequence[Label]) -> None:
    """The same estimates as the console's; the category `*` is all of them together."""
    latest: dict[tuple[str, str, str], Judged] = {}
    for number, label in enumerate(labels):
        if (found := judged(label, number)) is not None:
            draft = label.tenant, label.ticket_id, label.tier
            latest[draft] = in_force(latest.get(draft), found)
    for (category, tier), good in qualities(latest.values()).items():
        BAD.labels(category or ALL, tier).set(1 - good.value)
        BAD_HIGH.labels(category or ALL, tier).set(1 - good.low)


def show_warnings(warnings: Mapping[str, bool]) -> None:
    """Which categories have an early warning."""
    for category, is_on in warnings.items():
        WARNING.labels(category).set(is_on)
