"""`headgate feedback`: feedback and answers -> labels, and who complains about what.

Answers came before the feedback on them, so each run joins what is on the topics: feedback first, and of the answers
only those that it is about. A label is made by what was said alone, so that a run that is killed, or two at a time, do
no harm: the same label twice is one label.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from schemas.answers import Answer
from schemas.codec import encode
from schemas.labels import Feedback, Label
from schemas.tickets import TicketKey
from schemas.topics import ANSWERS, FEEDBACK, LABELS
from streams.publish import producer
from streams.read import records
from streams.settings import KafkaSettings
from workers.learning.complaints import label_of


@dataclass(slots=True)
class Joined:
    """Feedback, then answers, as they come from the topics."""

    feedback: dict[TicketKey, list[Feedback]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[TicketKey, Answer] = field(default_factory=dict)

    def add_answer(self, answer: Answer) -> None:
        """Of a ticket that was answered again the last counts."""
        key = (answer.tenant, answer.ticket_id)
        known = self.answers.get(key)
        if key in self.feedback and (known is None or answer.answered_at >= known.answered_at):
            self.answers[key] = answer

    def labels(self) -> list[Label]:
        """In the order in which feedback came."""
        made = (label_of(self.answers[key], said) for key, said in self.feedback.items() if key in self.answers)
        return [label for label in made if label]


async def label_feedback(kafka: KafkaSettings, dry_run: bool, console: Console) -> int:
    """Publish the labels that are missing; returns how many.

    Raises: TopicsError if the broker can't be reached or a topic is not there.
    """
    joined, unreadable = Joined(), list[str]()
    async for feedback, _ in records(kafka, Feedback, FEEDBACK, unreadable=unreadable):
        joined.feedback[feedback.tenant, feedback.ticket_id].append(feedback)
    async for answer, _ in records(kafka, Answer, ANSWERS, unreadable=unreadable):
        joined.add_answer(answer)
    labels = records(kafka, Label, LABELS, unreadable=unreadable)
    known = {label async for label, _ in labels if label.source == "feedback"}
    found = joined.labels()
    missing = [label for label in found if label not in known]
    if not dry_run:
        async with producer(kafka) as client:
            for label in missing:
                await client.send_and_wait(
                    kafka.topic_prefix + LABELS.name, encode(label), key=label.ticket_id.encode()
                )
    console.print(table_of(found))
    console.print(
        f"{len(joined.feedback)} tickets with feedback: {len(joined.feedback) - len(joined.answers)} have no answer on "
        f"the topic, {len(joined.answers) - len(found)} say nothing of it; {len(missing)} new labels; "
        f"{len(unreadable)} records that can't be read",
        highlight=False,
    )
    return len(missing)


def table_of(labels: Iterable[Label]) -> Table:
    """Who complains about what: a row a category, tier and policy."""
    rows: dict[tuple[str, str, str], list[Label]] = defaultdict(list)
    for label in labels:
        rows[label.category, label.tier, label.policy_version].append(label)
    table = Table("category", "tier", "policy", "feedback", "complaints", "why")
    for key, each in sorted(rows.items()):
        why = Counter(reason.split()[0] for label in each if label.why for reason in label.why.split(", "))
        said = ", ".join(f"{reason} {count}" for reason, count in why.most_common())
        table.add_row(*key, str(len(each)), str(sum(not label.acceptable for label in each)), said)
    return table
