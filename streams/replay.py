"""`headgate replay`: a past window under another policy, from what the topics hold of it. Calls no model that is paid.

events    what every stage did with the window's tickets
labels    what audits said of their drafts, up to now
tickets   texts, and only where the router's decision needs them: other rules, or another router model
policy    the candidate by its version, and the policies that the tickets were under
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from schemas.events import Event
from schemas.labels import Label
from schemas.policy import Policy
from schemas.replays import Replay
from schemas.tickets import Ticket, TicketKey
from schemas.topics import EVENTS, LABELS
from streams.labels import ALL_TICKETS
from streams.policies import load_policy
from streams.policy_records import PolicyError, Shelf, read_shelf
from streams.read import records
from streams.reporting.replay_page import page
from streams.settings import KafkaSettings, Settings
from workers.learning.datasets import key_of
from workers.learning.replay import replay
from workers.learning.replay_fates import Reading, is_rescored, needs_text
from workers.learning.replay_log import ENDS_WITHIN, Log, Logged
from workers.router.classifier import Classifier, Scores, ticket_text
from workers.router.policy import by_ticket

BATCH = 64
"""Tickets of one pass through the router model."""

NO_NUMBERS = np.empty(0, np.float32)


class ReplayError(Exception):
    """There is nothing to replay, or not with what is here."""


async def run(settings: Settings, start: datetime, end: datetime, candidate: str, out: Path) -> Replay:
    """Replay the tickets that were routed from `start` to before `end`; writes replay.json and replay.html to `out`.

    Raises: ReplayError if there is nothing to replay, or the candidate's router model is not here; PolicyError if
    there is no such candidate; TopicsError if the broker can't be reached or a topic is not there.
    """
    if end <= start:
        raise ReplayError(f"the window ends at {end:%Y-%m-%d %H:%M:%S} and begins at {start:%Y-%m-%d %H:%M:%S}")
    file = load_policy(settings.policy)
    shelf = await read_shelf(settings.kafka, file.scope)
    policy, known = candidate_of(candidate, shelf), policies_of(shelf, file)
    log, unreadable = await read_log(settings.kafka, start, end)
    tickets = log.tickets()
    texts = await read_texts(settings, tickets, policy, known)
    left_out = log.left_out() | ({"records that can't be read": unreadable} if unreadable else {})
    try:
        found = replay(tickets, policy, known, texts, (start, end), left_out)
    except ValueError as exc:
        raise ReplayError(str(exc)) from exc
    write(found, out)
    return found


def candidate_of(name: str, shelf: Shelf) -> Policy:
    """A policy file, or the policy whose version on the topic begins so.

    Raises: PolicyError for a file that can't be used or is of another scope, or if there is no such policy, or more
    than one.
    """
    if not Path(name).is_file():
        return shelf.get(name)
    try:
        policy = load_policy(Path(name))
    except ValueError as exc:
        raise PolicyError(str(exc)) from exc
    if policy.scope != shelf.scope:
        raise PolicyError(f"{name} is of the scope {policy.scope!r}, and the settings' policy of {shelf.scope!r}")
    return policy


def policies_of(shelf: Shelf, file: Policy) -> dict[str, Policy]:
    """Every policy that a ticket may have been under, by its version."""
    places = [policy for policy in (shelf.active, shelf.candidate) if policy]
    return {policy.version: policy for policy in (file, *shelf.versions.values(), *places)}


async def read_log(kafka: KafkaSettings, start: datetime, end: datetime) -> tuple[Log, int]:
    """What the topics say of the window, and how many of the records could not be read."""
    log, unreadable = Log(start, end), list[str]()
    last = end + ENDS_WITHIN
    async for event, _ in records(kafka, Event, EVENTS, unreadable=unreadable, since=start, before=last):
        log.add(event)
    # A person may judge much later.
    async for label, _ in records(kafka, Label, LABELS, unreadable=unreadable, since=start):
        log.add_label(label)
    return log, len(unreadable)


async def read_texts(
    settings: Settings, tickets: Sequence[Logged], candidate: Policy, known: Mapping[str, Policy]
) -> dict[TicketKey, Reading]:
    """What texts say where they are needed and still there. Of a ticket that was published twice the first counts.

    Raises: ReplayError if tickets must be scored by the candidate's router model, and the settings' is another.
    """
    needed = {ticket.key: ticket for ticket in tickets if needs_text(ticket, candidate, known)}
    if not needed:
        return {}
    again = {key for key, ticket in needed.items() if is_rescored(ticket, candidate)}
    classifier = await asyncio.to_thread(classifier_of, settings, candidate) if again else None
    found: dict[TicketKey, Ticket] = {}
    async for ticket, _ in records(settings.kafka, Ticket, *ALL_TICKETS, unreadable=[]):
        if (key := key_of(ticket)) in needed:
            found.setdefault(key, ticket)
    to_score = {key: found[key] for key in found if key in again}
    scores = await asyncio.to_thread(scored, classifier, to_score) if classifier else {}
    return {key: Reading(by_ticket(ticket, candidate), scores.get(key)) for key, ticket in found.items()}


def scored(classifier: Classifier, tickets: Mapping[TicketKey, Ticket]) -> dict[TicketKey, Scores]:
    """What the router's model says of tickets; without embeddings, which would fill the memory. Blocks."""
    texts, found = [ticket_text(ticket) for ticket in tickets.values()], list[Scores]()
    for first in range(0, len(texts), BATCH):
        made = classifier.classify(texts[first : first + BATCH])
        found += [replace(each, passage_probs=NO_NUMBERS, embedding=NO_NUMBERS) for each in made]
    return dict(zip(tickets, found, strict=True))


def classifier_of(settings: Settings, candidate: Policy) -> Classifier:
    """The candidate's router model. Blocks while it loads.

    Raises: ReplayError if the settings' file is another, or can't be used.
    """
    wanted, path = candidate.router_model, settings.router.model
    try:
        classifier = Classifier(path, device=settings.router.device, threads=settings.router.threads)
    except (ValueError, RuntimeError) as exc:
        raise ReplayError(str(exc)) from exc
    if classifier.version != wanted:
        raise ReplayError(
            f"the candidate is for router model {wanted}, which did not score these tickets, and router.model "
            f"({path}) is {classifier.version}: let router.model name a file of {wanted} (headgate model pull router)"
        )
    return classifier


def write(found: Replay, out: Path) -> None:
    """As JSON and as a page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "replay.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    (out / "replay.html").write_text(page(found), "utf-8")
