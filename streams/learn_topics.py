"""`headgate dataset`: from the topics to data sets, which `headgate learn ... --data` learns from.

thresholds   audited drafts as p_ok, score and label                 from labels, and the policy in force
checker      audited drafts as the scorer's features, with labels    from audits and labels
tier1        chats with good answers, to train on and to test with   from audits, labels, answers and tickets

The topics are read to where they end when reading starts. What can't be read or used is counted in the manifest.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from schemas.answers import Answer
from schemas.audits import Audit
from schemas.labels import Label
from schemas.policy import Policy
from schemas.tickets import Ticket, TicketKey
from schemas.topics import ANSWERS, LABELS, Topic
from streams.audits import ALL_AUDITS
from streams.forgotten import learnable, suppressed
from streams.labels import ALL_TICKETS
from streams.learn import LearnError, learning
from streams.policies import load_policy
from streams.policy_records import read_shelf
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings, Settings
from workers.knowledge import load_knowledge
from workers.learning.datasets import (
    LeftOut,
    judged_drafts,
    key_of,
    newest,
    plain_draft,
    plain_row,
    scorer_rows,
    threshold_rows,
)
from workers.learning.distillation import HELD_OUT_SHARE, Plan, Sent, candidates, distil, plain
from workers.learning.forgetting import Suppressed
from workers.learning.provenance import (
    HELD_OUT,
    POLICY,
    ROWS,
    TRAIN,
    Contents,
    Manifest,
    Placed,
    Setting,
    contents,
    counted,
    write,
)
from workers.router.classifier import Classifier
from workers.tier1.prompts import CHARS_PER_TOKEN

Kind = Literal["thresholds", "checker", "tier1"]

ANSWER_CHARS_PER_TOKEN = 4
"""Of English, about (a guess). Fewer, as for prompts, would be safe, and keep good answers out."""

S = TypeVar("S", bound=Struct)


class _Set(NamedTuple):
    files: Mapping[str, Contents]
    left_out: Mapping[str, int]
    settings: Mapping[str, Setting]
    beside: Mapping[str, bytes] = {}


async def make(kind: Kind, settings: Settings, out: Path, command: str) -> Manifest:
    """Read the topics, and write a data set to a folder.

    Raises: LearnError if there is nothing to write, the folder can't be written, or a knowledge file or a router model
    can't be used; TopicsError if the broker can't be reached or a topic is not there.
    """
    topics = Topics(settings.kafka, await suppressed(settings.kafka))
    labels = await topics.read(Label, LABELS)
    with learning():
        match kind:
            case "thresholds":
                found = _thresholds(labels, await _in_force(settings))
            case "checker":
                found = _checker(await topics.read(Audit, *ALL_AUDITS), labels, settings)
            case "tier1":
                found = await _tier1(topics, labels, settings)
        if not any(each.file.rows for each in found.files.values()):
            reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
            raise LearnError(f"there is nothing to learn from; left out: {reasons or 'nothing'}")
        manifest = Manifest(
            kind=kind,
            made_at=utc_now(),
            command=command,
            files={name: each.file for name, each in found.files.items()},
            left_out=dict(found.left_out) | topics.left_out(),
            unreadable=len(topics.unreadable),
            settings=dict(found.settings),
        )
        write(out, found.files, found.beside, manifest)
    return manifest


async def _in_force(settings: Settings) -> Policy:
    start = load_policy(settings.policy)
    return (await read_shelf(settings.kafka, start.scope)).policies(start).active


def _thresholds(labels: Sequence[Placed[Label]], in_force: Policy) -> _Set:
    made = newest(labels)
    found = threshold_rows(labels, made, in_force)
    files, said = {ROWS: contents(found.kept, plain_row)}, {**made._asdict(), "policy": in_force.version}
    # What is solved on the rows takes its place.
    return _Set(files, found.left_out, said, {POLICY: msgspec.json.encode(in_force)})


def _checker(audits: Sequence[Placed[Audit]], labels: Sequence[Placed[Label]], settings: Settings) -> _Set:
    made = newest(labels)
    passages = load_knowledge(settings.knowledge)
    classifier = Classifier(settings.router.model)
    judged = judged_drafts(audits, labels, made, "\n".join(passage.text for passage in passages))
    found = scorer_rows(judged, classifier, passages)
    # The features are as this graph reads the texts, whichever gave p_ok.
    read_by = {"features_by": classifier.version}
    return _Set({ROWS: contents(found.kept, plain_draft)}, found.left_out, made._asdict() | read_by)


async def _tier1(topics: "Topics", labels: Sequence[Placed[Label]], settings: Settings) -> _Set:
    audits = await topics.read(Audit, *ALL_AUDITS)
    sent, left_out = await topics.sent()
    plan = Plan(
        company=settings.company,
        passages={passage.id: passage.text for passage in load_knowledge(settings.knowledge)},
        room_chars=(settings.tier1.context_tokens - settings.tier1.max_tokens) * CHARS_PER_TOKEN,
        most_answer_chars=settings.tier1.max_tokens * ANSWER_CHARS_PER_TOKEN,
        phone_region=settings.tier2.phone_region,
    )
    found = distil(candidates(audits, sent, labels), plan)
    files = {TRAIN: contents(found.train, plain), HELD_OUT: contents(found.held_out, plain)}
    said: dict[str, Setting] = {
        "company": plan.company,
        "room_chars": plan.room_chars,
        "most_answer_chars": plan.most_answer_chars,
        "held_out_share": HELD_OUT_SHARE,
    }
    return _Set(files, {**found.left_out, **left_out}, said)


class Topics:
    """Reads the topics' committed records; counts those that are none of ours."""

    def __init__(self, settings: KafkaSettings, without: Suppressed) -> None:
        self.unreadable: list[str] = []
        self._settings = settings
        self._without = without

    def left_out(self) -> dict[str, int]:
        """Records of customers who are forgotten."""
        return counted({LeftOut.FORGOTTEN: self._without.left_out})

    async def read(self, record_type: type[S], *topics: Topic) -> list[Placed[S]]:
        """All that is there. Raises: TopicsError if the broker can't be reached or a topic is not there."""
        return [record async for record in self._records(record_type, topics)]

    async def sent(self) -> tuple[list[Placed[Sent]], dict[str, int]]:
        """Tier-2's answers with their tickets, and how many are left out.

        Tickets are kept for a shorter time than answers. Of a ticket that was published twice the first counts, as it
        does for the router; of its answers, too.
        """
        answers: dict[TicketKey, Placed[Answer]] = {}
        repeated = 0
        async for answer in self._records(Answer, (ANSWERS,)):
            if answer.value.tier == "tier2":
                answered = answer.value.tenant, answer.value.ticket_id
                repeated += answered in answers
                answers.setdefault(answered, answer)
        tickets: dict[TicketKey, Ticket] = {}
        async for ticket in self._records(Ticket, ALL_TICKETS):
            if (key := key_of(ticket.value)) in answers:
                tickets.setdefault(key, ticket.value)
        found = [Placed(Sent(tickets[k], each.value), each.place) for k, each in answers.items() if k in tickets]
        left_out = {LeftOut.TICKET_GONE: len(answers) - len(found), LeftOut.ANSWERED_TWICE: repeated}
        return found, {str(reason): count for reason, count in left_out.items() if count}

    async def _records(self, record_type: type[S], topics: Sequence[Topic]) -> AsyncIterator[Placed[S]]:
        found = learnable(self._settings, record_type, *topics, without=self._without, unreadable=self.unreadable)
        async for value, received in found:
            yield Placed(value, received.place)
