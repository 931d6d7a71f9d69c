"""`headgate certify`: labels and events -> policy. Withdraws certificates that audits contradict, certifies what they
prove, and ends the trial of a candidate that is slower or dearer than allowed.

One process for a scope. It keeps nothing of its own: every look is a pure function of what is on the topics
(workers/learning/review.py, workers/learning/guards.py), so that it may be killed at any moment.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from msgspec import structs
from rich.console import Console

from schemas.events import Event
from schemas.labels import Label
from schemas.policy import Evidence, Policy, Role
from schemas.topics import EVENTS, LABELS
from streams import certify_metrics, policy_records
from streams.policies import load_policy
from streams.policy_records import compared, differences, end_candidate, put_beside, put_in_force, read_shelf, table_of
from streams.read import Reader, raw, reader, records
from streams.runtime import metrics
from streams.runtime.clock import utc_now
from streams.settings import CertifySettings, KafkaSettings, Settings
from streams.trials import Trials, guards_of
from workers.learning.guards import Comparison
from workers.learning.lookout import Lookouts, complained
from workers.learning.review import Review, by_category, review, speaks_of
from workers.learning.thresholds import Goal
from workers.learning.trial import next_step
from workers.policies import Policies

COMMAND = "headgate certify"

LOOKBACK = timedelta(hours=6)
"""Verdicts before the process began that count for early warnings: a guess. Whoever reads more starts later."""

HANG_S = 300.0
"""A look that takes longer is reported by /healthz. Each goes through all labels (a guess)."""

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


async def all_labels(kafka: KafkaSettings) -> list[Label]:
    """All labels on the topic. Raises: TopicsError if the broker can't be reached or the topic is not there."""
    return [label async for label, _ in records(kafka, Label, LABELS)]


@dataclass(frozen=True, slots=True)
class Known:
    """What labels and events say of the policies that there are."""

    policies: Policies
    active: Review
    candidate: Review | None
    seen: Comparison
    """Of the candidate's tickets with those of the policy in force."""
    at: datetime

    def evidence(self, done: Review, role: Role, by: str, because: tuple[str, ...] = ()) -> Evidence:
        """What is known of one of them."""
        seen = self.seen if done is self.candidate else Comparison()
        return Evidence(
            role=role,
            at=self.at,
            by=by,
            because=because,
            labels=sum(done.labels.values()),
            drift_wealth={name: test.wealth for name, test in done.drift.items()},
            tickets=seen.tickets,
            control=seen.control,
            latency_ratio=seen.latency_ratio,
            cost_ratio=seen.cost_ratio,
        )

    def changes(self, promote_after: int | None) -> list[tuple[Review, Policy]]:
        """What follows: policies with the place that is theirs now in their evidence."""
        found = []
        if self.active.policy is not self.active.of:
            evidence = self.evidence(self.active, "in_force", COMMAND)
            found.append((self.active, structs.replace(self.active.policy, evidence=evidence)))
        if self.candidate:
            role, because = next_step(self.candidate, self.seen, promote_after)
            # What a review makes of a certificate that fell is no candidate: the one that had it is rolled back.
            policy = self.candidate.of if role == "rolled_back" else self.candidate.policy
            if role:
                evidence = self.evidence(self.candidate, role, COMMAND, because)
                found.append((self.candidate, structs.replace(policy, evidence=evidence)))
        return found


class Watch:
    """What `headgate certify` sees of labels, policies and events, look by look."""

    def __init__(self, settings: Settings, events: Reader | None, trials: Trials) -> None:
        """Without events no category has an early warning by the checker's verdicts.

        Raises: ValueError as `goal_of`.
        """
        self._kafka = settings.kafka
        self._start = load_policy(settings.policy)
        self._goal = goal_of(settings.certify)
        self._warning_share = settings.certify.warning_audit_share
        self._trials = trials
        self._events = events
        self._lookouts = Lookouts()

    async def policies(self) -> Policies:
        """What is in force now. Raises: as `look`."""
        return (await read_shelf(self._kafka, self._start.scope)).policies(self._start)

    async def look(self) -> Known:
        """Raises: TopicsError if the broker can't be reached or a topic is not there."""
        labels = await all_labels(self._kafka)
        active, candidate = policies = await self.policies()
        now = utc_now()
        # Scores of another scorer's can't be compared with this one's verdicts.
        self._lookouts.follow(active, candidate, by_category(label for label in labels if speaks_of(label, active)))
        if self._events:
            async for event, _ in self._events.decoded(Event):
                self._lookouts.add(event)
        by_feedback = complained(active, candidate, labels)
        warnings = {name: by_feedback[name] or self._lookouts.warnings.get(name, False) for name in by_feedback}
        certify_metrics.show_warnings(warnings)
        certify_metrics.show_quality(labels)
        warned = {name: self._warning_share for name, is_on in warnings.items() if is_on}
        return Known(
            policies,
            review(shipped_under(active, policies, labels), active, self._goal, now, warned),
            review(shipped_under(candidate, policies, labels), candidate, self._goal, now) if candidate else None,
            await self._trials.look(policies, now),
            now,
        )


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[Watch]:
    """Raises: ValueError for settings or a policy file that can't be used; TopicsError as `Watch.look`."""
    async with (
        Trials(settings.kafka, guards_of(settings.certify)) as trials,
        reader(settings.kafka, [raw(EVENTS)], since=utc_now() - LOOKBACK) as events,
    ):
        yield Watch(settings, events, trials)


async def run(settings: Settings, once: bool, dry_run: bool, console: Console) -> None:
    """Look, publish, wait, until cancelled; or look once.

    Raises: SettingsError for a port that is taken; as `watching`.
    """
    async with watching(settings) as watch:
        if once:
            await act(watch, settings, dry_run, console)
            return
        began_s = looked_s = time.monotonic()
        server = metrics.serve(
            settings.health_port,
            metrics.Health(
                alive=lambda: time.monotonic() - looked_s < settings.certify.interval_s + HANG_S,
                ready=lambda: looked_s > began_s,
            ),
        )
        log.info("certify_started", health_port=server.server_port)
        try:
            while True:
                await act(watch, settings, dry_run, console)
                looked_s = time.monotonic()
                await asyncio.sleep(settings.certify.interval_s)
        finally:
            server.shutdown()
            server.server_close()


async def act(watch: Watch, settings: Settings, dry_run: bool, console: Console) -> None:
    """One look, and what follows from it. Raises: as `Watch.look`."""
    known = await watch.look()
    certify_metrics.show_policy(known.active.of, known.at)
    certify_metrics.show_review(known.active)
    changes = list(known.changes(settings.certify.promote_after))
    if changes and await watch.policies() != known.policies:
        # An operator's word during the look: what the look says is of other policies.
        log.info("policies_changed_during_look", next="looking again")
        return
    for done, policy in changes:
        _tell(done.of, policy, console)
        if not dry_run:
            await _publish(settings.kafka, known.policies, done.of, policy)


def shipped_under(policy: Policy, policies: Policies, labels: Sequence[Label]) -> list[Label]:
    """The labels, with what another policy shipped as if nobody had: that is no evidence on this one's certificates."""
    if policies.candidate is None:
        return list(labels)
    is_candidate, version = policy is policies.candidate, policies.candidate.version
    return [
        label if (label.policy_version == version) == is_candidate else structs.replace(label, shipped=None)
        for label in labels
    ]


async def _publish(kafka: KafkaSettings, policies: Policies, of: Policy, policy: Policy) -> None:
    """Give a policy the place that its evidence names, instead of the one that it comes from."""
    evidence, candidate = policy.evidence, policies.candidate
    because = list(evidence.because if evidence and evidence.because else policy.because)
    if evidence and evidence.role == "rolled_back":
        await end_candidate(kafka, policy)
        log.warning("candidate_rolled_back", version=policy.version, because=because)
        return
    if candidate and evidence and evidence.role == "candidate":
        await put_beside(kafka, policy, candidate.canary_share)
    else:
        await put_in_force(kafka, policy, candidate)
    log.info("policy_published", version=policy.version, instead_of=of.version, because=because)


def _tell(before: Policy, after: Policy, console: Console) -> None:
    role = after.evidence.role.replace("_", " ") if after.evidence else ""
    console.print(f"policy {before.version} -> {after.version}: {role}", highlight=False)
    for line in (*(after.evidence.because if after.evidence else ()), *differences(before, after)):
        console.print(f"  {line}", highlight=False, markup=False)
    console.print(table_of(after, {}))


async def show(settings: Settings, console: Console) -> None:
    """`headgate policy show`."""
    start = load_policy(settings.policy)
    shelf = await read_shelf(settings.kafka, start.scope)
    counts = {name: len(each) for name, each in by_category(await all_labels(settings.kafka)).items()}
    policies = shelf.policies(start)
    policy_records.show(policies, counts, console, shelf.rolled_back)
    if policies.candidate:
        async with Trials(settings.kafka, guards_of(settings.certify)) as trials:
            seen = await trials.look(policies, utc_now())
        console.print(compared(seen), *seen.breaches, sep="; ", highlight=False, markup=False)


async def promote(settings: Settings, version: str, share: float | None) -> Policy:
    """`headgate policy promote`, with what is known of the candidate as evidence.

    Raises: PolicyError if there is no such policy.
    """
    async with Trials(settings.kafka, guards_of(settings.certify)) as trials:
        # Hours of events would be read, and only for early warnings.
        known = await Watch(settings, None, trials).look()
    candidate = known.candidate
    is_meant = candidate is not None and candidate.of.version.startswith(version)
    evidence = known.evidence(candidate, "in_force", COMMAND) if candidate and is_meant else None
    return await policy_records.promote(settings.kafka, load_policy(settings.policy), version, share, evidence)
