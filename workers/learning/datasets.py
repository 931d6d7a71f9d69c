"""Data sets from what the topics hold: a row a ticket, each with where it comes from, and a count of what was left out.

What is made here goes to disk and outlives the topics, so it holds no personal data: thresholds and the scorer learn
from numbers alone; the texts that tier-1 learns from are redacted (workers/learning/distillation.py).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from schemas.audits import Audit
from schemas.drafts import Draft
from schemas.generations import Usage
from schemas.labels import AUDIT_SOURCES, Label
from schemas.policy import Policy
from schemas.tickets import Attempt, Decision, Routed, Ticket, TicketKey, Tier
from workers.checker.features import NAMES, EmbeddedKnowledge, features
from workers.checker.gates import failed_gates
from workers.knowledge import Passage
from workers.learning.provenance import DataSet, Kept, Placed, Provenance, counted, in_order, read, ticket_digest
from workers.learning.review import counts, row_of
from workers.learning.scorer import LabelledDraft
from workers.learning.thresholds import Row
from workers.router.classifier import Classifier, ticket_text


class LeftOut(StrEnum):
    """Why a record made no row."""

    TIER2 = "a label of tier-2's answer"
    NOT_RANDOM = "a label of feedback or an escalation: no random sample"
    REPLACED = "replaced by a later label of the same draft"
    OTHER_ROUTER = "p_ok by another router model"
    OTHER_TIER1 = "a draft by another tier-1 model"
    OTHER_SCORER = "a score by another scorer"
    NO_P_OK = "no p_ok"
    BEFORE_ALARM = "from before its category's certificate fell"
    UNLABELLED = "an audit that nobody has judged"
    REPEATED = "an earlier record of the same ticket"
    AUDIT_GONE = "a label whose audit is no longer on a topic"
    GATE = "refused by a gate"
    TWIN = "the same text as another row"
    AGAIN = "another answer to a ticket that has one"
    BAD = "judged not acceptable"
    COMPLAINT = "complained about"
    UNJUDGED = "sent, and never judged"
    NEVER_TIER1 = "a rule keeps the ticket from tier-1"
    TICKET_GONE = "its ticket is no longer on a topic"
    ANSWERED_TWICE = "another answer to a ticket that was answered"
    TOO_LONG = "longer than tier-1 may answer"
    UNFOUNDED = "a figure that stands nowhere in tier-1's prompt"
    PERSONAL_DATA = "the answer holds personal data"
    FORGOTTEN = "a record of a customer who is forgotten"
    HELD_OUT_TWIN = "asks what a held-out ticket asks"


class Made(NamedTuple):
    """The models whose work the rows are about: scores of others can't be compared with theirs."""

    router: str
    """Decision.model_version"""
    tier1: str
    """The model's name in drafts."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A tier-1 draft as the checker got it, and whether it was acceptable."""

    draft: Draft
    acceptable: bool


def normalised(text: str) -> str:
    """What twins have in common: words in lower case, any number a 0."""
    return " ".join(re.sub(r"\d+(?:[.,:]\d+)*", "0", re.sub(r"[^\w.,:]|_", " ", text.casefold())).split()).strip(".,:")


def key_of(ticket: Ticket) -> TicketKey:
    """What names a ticket."""
    return ticket.tenant, ticket.ticket_id


def in_force(labels: Iterable[Placed[Label]], left_out: Counter[str]) -> dict[tuple[TicketKey, Tier], Placed[Label]]:
    """Of each draft the latest label, and of two of one moment the one that came last; counts the others."""
    latest: dict[tuple[TicketKey, Tier], Placed[Label]] = {}
    for label in labels:
        name = ((label.value.tenant, label.value.ticket_id), label.value.tier)
        left_out[LeftOut.REPLACED] += name in latest
        if name not in latest or label.value.at >= latest[name].value.at:
            latest[name] = label
    return latest


def newest(labels: Iterable[Placed[Label]]) -> Made:
    """The models of the latest audit of a tier-1 draft. Raises: ValueError if there is none."""
    of_audits = [each.value for each in labels if not _other_than_audits(each.value)]
    if not of_audits:
        raise ValueError("there is no label of an audited tier-1 draft")
    latest = max(of_audits, key=lambda label: label.at)
    return Made(latest.model_version, latest.model)


def threshold_rows(labels: Iterable[Placed[Label]], made: Made, policy: Policy) -> DataSet[Row]:
    """What `thresholds.solve` takes: audits alone, which are a random sample with known propensities.

    Labels that certify nothing under the policy in force, since its alarm came later, are left out here, too.
    Twins in text stay: in a sample of the traffic a question that is asked twice counts twice.
    """
    left_out: Counter[str] = Counter()
    kept = []
    audited = _audited(labels, left_out).values()
    scored = [label.value for label in audited if label.value.scorer]
    scorer = max(scored, key=lambda label: label.at).scorer if scored else ""
    for label in audited:
        if reason := _unusable(label.value, made, scorer, policy):
            left_out[reason] += 1
        else:
            kept.append(Kept(row_of(label.value), provenance(label.value, label.place)))
    return DataSet(in_order(kept), counted(left_out))


def _unusable(label: Label, made: Made, scorer: str, policy: Policy) -> LeftOut | None:
    if reason := _other_models(label, made):
        return reason
    # A draft that a gate refused has no score.
    if label.scorer not in ("", scorer):
        return LeftOut.OTHER_SCORER
    if label.p_ok is None:
        return LeftOut.NO_P_OK
    return None if counts(label, policy.categories.get(label.category)) else LeftOut.BEFORE_ALARM


def _audited(labels: Iterable[Placed[Label]], left_out: Counter[str]) -> dict[TicketKey, Placed[Label]]:
    """The labels in force of audited tier-1 drafts, by ticket."""
    found = []
    for label in labels:
        if reason := _other_than_audits(label.value):
            left_out[reason] += 1
        else:
            found.append(label)
    return {key: label for (key, _), label in in_force(found, left_out).items()}


def _other_than_audits(label: Label) -> LeftOut | None:
    if label.tier != "tier1":
        return LeftOut.TIER2
    return None if label.source in AUDIT_SOURCES else LeftOut.NOT_RANDOM


def _other_models(label: Label, made: Made) -> LeftOut | None:
    if label.model_version != made.router:
        return LeftOut.OTHER_ROUTER
    return None if label.model == made.tier1 else LeftOut.OTHER_TIER1


def judged_drafts(
    audits: Iterable[Placed[Audit]], labels: Iterable[Placed[Label]], made: Made, knowledge: str
) -> DataSet[Judged]:
    """What a scorer is fitted on: audited tier-1 drafts that pass the gates, as the checker got them, and their labels.

    `knowledge` is the text of the company's passages, which some gates ask for. Of twins, the same question with the
    same draft, the latest stays: in two folds they would be a leak.
    """
    left_out: Counter[str] = Counter()
    by_ticket = _audited(labels, left_out)
    latest = latest_audits(audits, left_out)
    left_out[LeftOut.AUDIT_GONE] = len(by_ticket.keys() - latest.keys())
    kept: dict[tuple[str, str], Kept[Judged]] = {}
    for key, audit in latest.items():
        label = by_ticket.get(key)
        if label is None:
            left_out[LeftOut.UNLABELLED] += 1
            continue
        draft = as_draft(audit.value.ticket, audit.value.decision, audit.value.draft, audit.value.at)
        reason = _other_models(label.value, made) or (LeftOut.GATE if failed_gates(draft, knowledge) else None)
        if reason:
            left_out[reason] += 1
            continue
        twins = normalised(ticket_text(audit.value.ticket)), normalised(draft.text)
        left_out[LeftOut.TWIN] += twins in kept
        judged = Judged(draft, label.value.acceptable)
        kept[twins] = Kept(judged, provenance(label.value, audit.place, label.place))
    return DataSet(in_order(kept.values()), counted(left_out))


def latest_audits(audits: Iterable[Placed[Audit]], left_out: Counter[str]) -> dict[TicketKey, Placed[Audit]]:
    """One a ticket, oldest first; of a ticket that ran twice the last counts, and the other is left out."""
    found: dict[TicketKey, Placed[Audit]] = {}
    for audit in sorted(audits, key=lambda each: (each.value.at, each.place)):
        key = key_of(audit.value.ticket)
        left_out[LeftOut.REPEATED] += found.pop(key, None) is not None
        found[key] = audit
    return found


def as_draft(ticket: Ticket, decision: Decision, attempt: Attempt, at: datetime) -> Draft:
    """An attempt as the checker got it, but for what it doesn't look at: token counts, and when the ticket came."""
    tokens = attempt.logprobs.tokens if attempt.logprobs else 0
    return Draft(
        routed=Routed(ticket=ticket, decision=decision, received_at=at),
        tier=attempt.tier,
        text=attempt.text,
        # Audits of the first days have none.
        finish_reason=attempt.finish_reason or "stop",
        model=attempt.model,
        provider=attempt.tier,
        usage=Usage(prompt_tokens=0, completion_tokens=tokens),
        logprobs=attempt.logprobs,
        cost_usd=attempt.cost_usd,
        duration_s=attempt.duration_s,
    )


def scorer_rows(judged: DataSet[Judged], classifier: Classifier, passages: Sequence[Passage]) -> DataSet[LabelledDraft]:
    """The drafts as numbers, as the checker sees them. Blocks on the CPU."""
    drafts = [each.draft for each in judged.rows]
    if not drafts:
        return DataSet((), judged.left_out)
    knowledge = EmbeddedKnowledge.of(passages, classifier)
    tickets = classifier.classify([ticket_text(draft.routed.ticket) for draft in drafts])
    answers = classifier.classify([draft.text for draft in drafts])
    kept = [
        Kept(
            LabelledDraft(
                features(each.row.draft, ticket, answer, knowledge),
                each.row.draft.routed.decision.p_ok,
                each.row.acceptable,
            ),
            each.provenance,
        )
        for each, ticket, answer in zip(judged.kept, tickets, answers, strict=True)
    ]
    return DataSet(tuple(kept), judged.left_out)


def plain_row(row: Row) -> dict[str, str | float | bool]:
    """A threshold row as JSON takes it."""
    return row._asdict()


def plain_draft(row: LabelledDraft) -> dict[str, Any]:
    """A scorer row as JSON takes it: its features by name, so that a reader with others notices."""
    return {
        "features": dict(zip(NAMES, map(float, row.features), strict=True)),
        "p_ok": row.p_ok,
        "acceptable": row.acceptable,
    }


class _DraftLine(Struct, frozen=True):
    features: dict[str, float]
    p_ok: float
    acceptable: bool


class _RowLine(Struct, frozen=True):
    category: str
    p_ok: float
    score: float
    acceptable: bool
    propensity: float
    provenance: Provenance


def read_rows(path: Path) -> tuple[list[Row], Made]:
    """What `plain_row` made JSON lines of, and whose work they are about.

    Raises: ValueError naming file and line of what is none, or if the rows are about several models.
    """
    lines = [line for _, line in read(path, _RowLine)]
    made = {Made(line.provenance.model_version, line.provenance.model) for line in lines}
    if len(made) > 1:
        raise ValueError(f"{path}: rows of {len(made)} pairs of router and tier-1 model: scores can't be compared")
    rows = [Row(line.category, line.p_ok, line.score, line.acceptable, line.propensity) for line in lines]
    return rows, made.pop()


def read_drafts(path: Path) -> list[LabelledDraft]:
    """What `plain_draft` made JSON lines of.

    Raises: ValueError naming file and line of what is none, or has other features than the scorer.
    """
    found = []
    for where, line in read(path, _DraftLine):
        if line.features.keys() != set(NAMES):
            raise ValueError(f"{where}: has other features than the scorer: make the data set anew")
        values = np.array([line.features[name] for name in NAMES], dtype=np.float32)
        found.append(LabelledDraft(values, line.p_ok, line.acceptable))
    return found


def provenance(label: Label, *places: str) -> Provenance:
    """Of a row that rests on a label."""
    return Provenance(
        ticket=ticket_digest((label.tenant, label.ticket_id)),
        records=places,
        at=label.at,
        category=label.category,
        policy_version=label.policy_version,
        model=label.model,
        model_version=label.model_version,
        tier=label.tier,
        label_source=label.source,
        judge=label.judge,
    )
