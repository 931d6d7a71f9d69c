"""`/api/policy`: what is in force and what it promises, category by category, and how near each certificate is to its
end. The same as `headgate policy show` says, from the same records."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from streams.certify import all_labels, goal_of, shipped_under
from streams.policies import load_policy
from streams.policy_records import read_shelf
from streams.runtime.clock import utc_now
from streams.scoreboard.views import CategoryView, DriftView, PoliciesView, PolicyView
from streams.settings import Settings
from workers.learning.drift import DriftTest
from workers.learning.review import Review, review
from workers.learning.thresholds import Goal
from workers.policies import Policies, holding


async def read_policies(settings: Settings) -> PoliciesView:
    """From the policy topic and all labels.

    Raises: TopicsError if the broker can't be reached or a topic is not there; ValueError for settings that can't be.
    """
    start, goal = load_policy(settings.policy), goal_of(settings.certify)
    shelf = await read_shelf(settings.kafka, start.scope)
    labels = await all_labels(settings.kafka)
    # Drift tests go through all labels: not on the loop that counts events.
    return await asyncio.to_thread(policies_view, shelf.policies(start), labels, goal, utc_now())


def policies_view(policies: Policies, labels: Sequence[Label], goal: Goal, now: datetime) -> PoliciesView:
    """What is shown of them."""
    active, *candidate = (_policy_view(policy, policies, labels, goal, now) for policy in policies if policy)
    return PoliciesView(active=active, candidate=candidate[0] if candidate else None)


def _policy_view(policy: Policy, policies: Policies, labels: Sequence[Label], goal: Goal, now: datetime) -> PolicyView:
    seen = review(shipped_under(policy, policies, labels), policy, goal, now)
    # As the stages take it: what has ended is in the shadow, whatever the record says.
    held = holding(policy, now, {})
    names = sorted({*held.categories, *seen.labels})
    named = tuple(_category_view(name, held.of(name), seen) for name in names)
    share = policies.candidate.canary_share if policies.candidate else 0.0
    return PolicyView(
        version=policy.version,
        made_at=policy.made_at,
        because=policy.because,
        share=share if policy is policies.candidate else 1.0 - share,
        categories=(*named, _category_view("", held.default, seen)),
    )


def _category_view(name: str, category: CategoryPolicy, seen: Review) -> CategoryView:
    certificate = category.certificate
    return CategoryView(
        name=name,
        state=category.state,
        why=category.why,
        p_ok_threshold=category.p_ok_threshold,
        score_threshold=category.score_threshold,
        alpha=certificate.alpha if certificate else None,
        upper_bound=certificate.upper_bound if certificate else None,
        confidence=1 - certificate.delta if certificate else None,
        method=certificate.method if certificate else "",
        pooled=certificate.pooled if certificate else (),
        valid_until=certificate.valid_until if certificate else None,
        labels=seen.labels.get(name, 0),
        labels_missing=category.labels_missing,
        audit_share=category.audit_share,
        drift=_drift_view(seen.drift[name]) if certificate and name in seen.drift else None,
    )


def _drift_view(test: DriftTest) -> DriftView:
    return DriftView(wealth=test.wealth, alarm_at=1 / test.delta, tickets=test.tickets)
