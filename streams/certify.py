"""`headgate certify`: labels -> policy. Withdraws certificates that audits contradict, and certifies what they prove.

One process for a scope. It keeps nothing of its own: every look is a pure function of all labels and of the policy in
force (workers/learning/review.py), so that it may be killed at any moment.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog
from msgspec import structs
from prometheus_client import Gauge
from rich.console import Console

from schemas.codec import PoisonError, decode
from schemas.labels import Label
from schemas.policy import Policy
from schemas.topics import LABELS
from streams.policies import load_policy
from streams.policy_records import differences, end_candidate, put_beside, put_in_force, read_shelf, table_of
from streams.policy_records import show as show_policies
from streams.read import reader
from streams.runtime.clock import utc_now
from streams.settings import CertifySettings, KafkaSettings, Settings
from workers.learning.review import Review, by_category, review
from workers.learning.thresholds import Goal
from workers.policies import Policies

DRIFT = Gauge("headgate_drift_wealth", "Evidence against a certificate; it falls at 20.", ["category"])
COUNTED = Gauge("headgate_labels", "Labels that count towards a category's next look.", ["category"])

log = structlog.get_logger()


def goal_of(config: CertifySettings) -> Goal:
    """What is asked of the thresholds. Raises: ValueError if judge_delta leaves nothing of delta."""
    if config.judge_delta >= config.delta:
        raise ValueError(f"certify.judge_delta {config.judge_delta:g} leaves nothing of certify.delta")
    return Goal(
        alpha=config.alpha,
        delta=config.delta,
        tier1_usd=config.tier1_usd,
        tier2_usd=config.tier2_usd,
        own_from=config.own_from,
        judge_miss=config.judge_miss,
        judge_delta=config.judge_delta,
        audit_share=config.audit_share,
        shadow_audit_share=config.shadow_audit_share,
        valid_for=timedelta(days=config.valid_days),
    )


async def read_labels(kafka: KafkaSettings) -> list[Label]:
    """All labels on the topic. Raises: TopicsError if the broker can't be reached or the topic is not there."""
    found: list[Label] = []
    async with reader(kafka, [replace(LABELS, value=None)]) as source:
        async for received in source.until_end():
            try:
                found.append(decode(Label, received.raw))
            except PoisonError as exc:
                log.warning("label_unreadable", partition=received.partition, offset=received.offset, error=exc.reason)
    return found


async def run(settings: Settings, once: bool, dry_run: bool, console: Console) -> None:
    """Look, publish, wait, until cancelled; or look once."""
    goal, start = goal_of(settings.certify), load_policy(settings.policy)
    while True:
        labels = await read_labels(settings.kafka)
        shelf = await read_shelf(settings.kafka, start.scope)
        policies = shelf.policies(start)
        for policy in filter(None, policies):
            done = review(shipped_under(policy, policies, labels), policy, goal, utc_now())
            if policy is policies.active:
                _measure(done)
            if done.policy is not policy:
                _tell(policy, done.policy, console)
                if not dry_run:
                    await _publish(settings.kafka, policies, done)
        if once:
            return
        await asyncio.sleep(settings.certify.interval_s)


def shipped_under(policy: Policy, policies: Policies, labels: Sequence[Label]) -> list[Label]:
    """The labels, with what another policy shipped as if nobody had: that is no evidence on this one's certificates."""
    if policies.candidate is None:
        return list(labels)
    is_candidate, version = policy is policies.candidate, policies.candidate.version
    return [
        label if (label.policy_version == version) == is_candidate else structs.replace(label, shipped=None)
        for label in labels
    ]


async def _publish(kafka: KafkaSettings, policies: Policies, done: Review) -> None:
    """In the place of the one that it comes from; a candidate that fails its test is rolled back."""
    after, candidate = done.policy, policies.candidate
    if done.of is not candidate:
        await put_in_force(kafka, after)
    elif any(test.is_alarm for test in done.drift.values()):
        await end_candidate(kafka, after.scope)
        log.warning("candidate_rolled_back", version=candidate.version, because=list(after.because))
        return
    else:
        await put_beside(kafka, after, candidate.canary_share)
    log.info("policy_published", version=after.version, instead_of=done.of.version, because=list(after.because))


def _tell(before: Policy, after: Policy, console: Console) -> None:
    console.print(f"policy {before.version} -> {after.version}", highlight=False)
    for line in differences(before, after):
        console.print(f"  {line}", highlight=False, markup=False)
    console.print(table_of(after, {}))


def _measure(done: Review) -> None:
    for category, test in done.drift.items():
        DRIFT.labels(category).set(test.wealth)
    for category, count in done.labels.items():
        COUNTED.labels(category).set(count)


async def show(settings: Settings, console: Console) -> None:
    """`headgate policy show`."""
    start = load_policy(settings.policy)
    shelf = await read_shelf(settings.kafka, start.scope)
    counts = {name: len(each) for name, each in by_category(await read_labels(settings.kafka)).items()}
    show_policies(shelf.policies(start), counts, console)
