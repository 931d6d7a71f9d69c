"""`headgate forget`: nothing is learned from a customer any more, and what remains is told, with until when.

What topics keep by time can't be taken out record by record: it is counted. Then the customer goes on the list, first,
so that a run that is killed has stopped the learning, and the compacted topics get tombstones. May be repeated.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.codec import encode
from schemas.forgotten import Forgotten
from schemas.topics import FORGOTTEN, POLICY
from streams.erasure import BY_CUSTOMER, BY_TICKET, KEYS, Found, Remains, all_of, remains
from streams.forgotten import read_forgotten
from streams.learn import learning
from streams.policies import load_policy
from streams.policy_records import read_shelf
from streams.publish import producer
from streams.read import reader
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings, Settings
from streams.topics import configs_of
from workers.learning.forgetting import customer_digest
from workers.learning.provenance import HELD_OUT, ROWS, TRAIN, Provenance, read
from workers.store import ModelStore


class _Row(Struct):
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Report:
    """What was found and done. No id of the customer's, and nothing of a ticket."""

    dry_run: bool
    tickets: int
    """Known ones, those of earlier runs included."""
    remains: Sequence[Remains]
    notes: Sequence[str]
    """What this command can't do, and somebody must."""


async def forget(settings: Settings, tenant: str, customer_id: str, dry_run: bool, data: Iterable[Path]) -> Report:
    """Forget one customer, as far as that goes.

    Raises: TopicsError if the broker can't be reached or a topic is not there; LearnError for a data set's file that
    can't be read; StoreError.
    """
    kafka, digest = settings.kafka, customer_digest(tenant, customer_id)
    known = (await read_forgotten(kafka)).get(digest)
    found = Found(tenant, customer_id, set(known.tickets if known else ()))
    for topics in (BY_CUSTOMER, BY_TICKET):
        async with reader(kafka, all_of(topics)) as source:
            async for received in source.until_end():
                found.take(received)
    rows = [*await _remains(kafka, found), *(await _policies(settings, customer_id)), *_data_sets(data, found.tickets)]
    report = Report(dry_run, len(found.tickets), rows, _notes(settings, found))
    if not dry_run:
        await _write(kafka, digest, found)
    return report


async def _write(kafka: KafkaSettings, digest: str, found: Found) -> None:
    forgotten = Forgotten(at=utc_now(), tickets=tuple(sorted(found.tickets)))
    async with producer(kafka) as client:
        await client.send_and_wait(kafka.topic_prefix + FORGOTTEN.name, encode(forgotten), key=digest.encode())
        sent = [await client.send(kafka.topic_prefix + t, None, key=key, partition=p) for t, p, key in found.keys]
        await asyncio.gather(*sent)


async def _remains(kafka: KafkaSettings, found: Found) -> list[Remains]:
    # As the table has them, a ticket's way.
    held = [topic.name for topic in all_of((*BY_CUSTOMER, *BY_TICKET)) if topic.name in found.held]
    full = {kafka.topic_prefix + topic: topic for topic in held}
    configs = await configs_of(kafka, full, KEYS)
    tombstones = Counter(topic for topic, *_ in found.keys)
    now = utc_now()
    return [remains(topic, found.held[topic], configs[name], tombstones[topic], now) for name, topic in full.items()]


async def _policies(settings: Settings, customer_id: str) -> list[Remains]:
    """A policy may name customers who always get tier-2; those on the topic are kept for ever."""
    with learning():
        start = load_policy(settings.policy)
    shelf = await read_shelf(settings.kafka, start.scope)
    on_topic = {p.version: p for p in (*shelf.versions.values(), *filter(None, (shelf.active, shelf.candidate)))}
    found = []
    if customer_id in start.tier2_customers:
        found.append(Remains(str(settings.policy), 1, None, None, "tier2_customers names the customer: take it out"))
    if naming := sum(customer_id in policy.tier2_customers for policy in on_topic.values()):
        said = "tier2_customers names the customer: publish a policy without; the versions stay"
        found.append(Remains(POLICY.name, naming, None, None, said))
    return found


def _data_sets(folders: Iterable[Path], tickets: set[str]) -> list[Remains]:
    """Rows of the customer's tickets in the folders that `headgate dataset` wrote."""
    found = []
    for folder in folders:
        files = [folder / name for name in (ROWS, TRAIN, HELD_OUT) if (folder / name).is_file()]
        with learning():
            if not files:
                raise ValueError(f"{folder}: no data set of headgate dataset")
            # One of the parts may have no rows.
            lines = (line for file in files if file.stat().st_size for _, line in read(file, _Row))
            rows = sum(line.provenance.ticket in tickets for line in lines)
        if rows:
            said = "make it anew with headgate dataset, and what was learned from it"
            found.append(Remains(str(folder), rows, None, None, said))
    return found


def _notes(settings: Settings, found: Found) -> list[str]:
    notes = []
    if not found.held and not found.tickets:
        notes.append("no record that can be read names this customer: is the id, and the tenant, right?")
    if found.unreadable:
        notes.append(f"{found.unreadable} dead letters can't be read: headgate dead-letters show says whose they are")
    oldest_s = min((held.oldest_s for held in found.held.values()), default=None)
    if oldest_s is not None and not (isinstance(settings.store, Path) and not settings.store.exists()):
        later = [m for m in ModelStore(str(settings.store)).list() if m.made_at.timestamp() >= oldest_s]
        if later:
            notes.append(f"{len(later)} versions in the model store were made since the oldest record: learn them anew")
    return notes


def show(report: Report, out: Console) -> None:
    """As a table and lines."""
    table = Table("where", "records", "oldest", "gone by", "what becomes of them")
    for each in report.remains:
        oldest, gone_by = (f"{at:%Y-%m-%d}" if at else "-" for at in (each.oldest, each.gone_by))
        table.add_row(Text(each.place), str(each.records), oldest, gone_by, Text(each.said))
    out.print(table)
    for note in report.notes:
        out.print(Text(note))
    did = "dry run: nothing was written" if report.dry_run else "data sets made from now on leave the customer out"
    out.print(Text(f"{report.tickets} tickets; {did}"))


def print_json(report: Report) -> None:
    """One line."""
    sys.stdout.write(orjson.dumps(report).decode() + "\n")
