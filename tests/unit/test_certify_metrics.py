"""What operators see of the policy in force and of the audits."""

from datetime import timedelta

from prometheus_client import REGISTRY

from schemas.labels import Label
from schemas.policy import CategoryPolicy, Certificate, Policy
from schemas.tickets import TicketId
from streams import certify_metrics
from tests.records import AT

PROVED = Certificate(
    method="learn_then_test",
    alpha=0.05,
    delta=0.1,
    labels=400,
    shipped=300,
    bad=3,
    upper_bound=0.03,
    solved_at=AT,
    valid_until=AT + timedelta(days=30),
)
OPEN = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.5)
SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")
CERTIFIED = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.5, certificate=PROVED)


def seen(name: str, category: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"category": category, **labels})


def test_a_category_is_active_while_its_answers_ship() -> None:
    """The default is `*`; a certificate that has ended no longer counts, and one that is gone leaves nothing behind."""
    policy = Policy(scope="s", version="v", default=SHADOW, categories={"billing": CERTIFIED, "orders": OPEN})
    certify_metrics.show_policy(policy, AT)
    active = {name: seen("headgate_category_active", name) for name in ("*", "billing", "orders")}
    assert active == {"*": 0.0, "billing": 1.0, "orders": 1.0}
    assert seen("headgate_certificate_upper_bound_ratio", "billing") == 0.03
    assert seen("headgate_certificate_upper_bound_ratio", "orders") is None
    assert seen("headgate_certificate_expiry_timestamp_seconds", "billing") == PROVED.valid_until.timestamp()  # type: ignore[union-attr]
    certify_metrics.show_policy(policy, AT + timedelta(days=31))
    assert seen("headgate_category_active", "billing") == 0.0
    assert seen("headgate_certificate_upper_bound_ratio", "billing") is None


def test_of_two_labels_of_one_draft_the_later_counts() -> None:
    """As on the console; labels that are no audit's say nothing about the share."""

    def label(ticket: str, acceptable: bool, later_s: int, source: str = "judge") -> Label:
        return Label(
            ticket_id=TicketId(ticket),
            category="moving",
            acceptable=acceptable,
            source=source,  # type: ignore[arg-type]
            propensity=1.0,
            at=AT + timedelta(seconds=later_s),
            shipped=True,
        )

    certify_metrics.show_quality(
        [label("a", True, 0), label("b", True, 5, "person"), label("b", False, 1), label("c", False, 0, "feedback")]
    )
    assert seen("headgate_bad_answers_ratio", "moving", tier="tier1") == 0.0
    high = seen("headgate_bad_answers_high_ratio", "moving", tier="tier1")
    assert high is not None
    assert high > 0.5
