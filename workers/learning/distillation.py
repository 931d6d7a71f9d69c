"""What tier-1 is taught of real traffic: tier-2's answers and tier-1's own good drafts, as chats with tier-1's prompt.

A chat is one that tier-1 could have had: the prompt is the one that it would be given now, with its passages and its
cut, and the answer tells no figure that stands nowhere in it. Tier-2 answers from all of the company's knowledge, and
from what it was then: the rest would teach a small model to make figures up. No ticket and no question comes twice.
Personal data has placeholders, as it has for tier-2; an answer that needs one is left out, since the checker refuses
drafts with placeholders. Names stay: nothing here finds them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from schemas.answers import Answer
from schemas.audits import Audit
from schemas.drafts import Draft
from schemas.labels import AUDIT_SOURCES, Label
from schemas.tickets import Attempt, Ticket, TicketKey
from workers.checker.gates import failed_gates
from workers.learning.adapter import Chat
from workers.learning.datasets import LeftOut, as_draft, in_force, key_of, latest_audits, normalised
from workers.learning.provenance import DataSet, Kept, Placed, Provenance, counted, in_order, read, ticket_digest
from workers.router.policy import AUDITABLE
from workers.tier1.prompts import ChatMessage, fit
from workers.tier2.redaction import redact, restore

HELD_OUT_SHARE = 0.1
"""Of the customers, to measure an adapter on. Drawn by their ids, so that each stays on a side as data comes in."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes a chat of a ticket."""

    company: str
    passages: Mapping[str, str]
    """Texts of the company's knowledge, by their ids."""
    room_chars: int
    """Of tier-1's prompt."""
    most_answer_chars: int
    """Tier-1 would be cut short in a longer answer, and the checker would refuse it."""
    phone_region: str = "US"
    """The country of phone numbers that are written without one."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer that went out, with its ticket."""

    ticket: Ticket
    answer: Answer


@dataclass(frozen=True, slots=True)
class Distilled:
    """Both sides, and how many records made no chat, by the reason."""

    train: tuple[Kept[Chat], ...]
    held_out: tuple[Kept[Chat], ...]
    left_out: Mapping[str, int]


def candidates(
    audits: Iterable[Placed[Audit]], sent: Iterable[Placed[Sent]], labels: Iterable[Placed[Label]]
) -> DataSet[Draft]:
    """For each ticket the best answer of those that an audit found acceptable, or that tier-2 gave and nobody judged:
    first tier-2's audited ones, then tier-1's, then those.

    What else is said of an answer, by a helpdesk's feedback say, can only speak against it.
    """
    left_out: Counter[str] = Counter()
    known = list(labels)
    judged = in_force((each for each in known if each.value.source in AUDIT_SOURCES), left_out)
    said = in_force((each for each in known if each.value.source not in AUDIT_SOURCES), left_out)
    best: dict[TicketKey, Kept[Draft]] = {}
    for draft, place in _drafts(latest_audits(audits, left_out).values(), sent):
        key = key_of(draft.routed.ticket)
        label, other = judged.get((key, draft.tier)), said.get((key, draft.tier))
        if reason := _unwanted(draft, label.value if label else None, other.value if other else None):
            left_out[reason] += 1
            continue
        found = Kept(draft, _provenance(draft, place, label))
        if key in best:
            left_out[LeftOut.AGAIN] += 1
        if key not in best or _rank(found) < _rank(best[key]):
            best[key] = found
    return DataSet(in_order(best.values()), counted(left_out))


def _drafts(audits: Iterable[Placed[Audit]], sent: Iterable[Placed[Sent]]) -> Iterator[tuple[Draft, str]]:
    """Every answer as the checker got it, and where it stands."""
    seen = set()
    for audit in audits:
        it = audit.value
        for attempt in filter(None, (it.other, it.draft)):
            seen.add((key_of(it.ticket), attempt.tier))
            yield as_draft(it.ticket, it.decision, attempt, it.at), audit.place
    for each in sent:
        answer = each.value.answer
        # Of an audited ticket the answer is in the audit.
        if answer.tier == "tier2" and (key_of(each.value.ticket), "tier2") not in seen:
            made = Attempt(
                tier="tier2", text=answer.text, reason="", score=None, cost_usd=0.0, duration_s=0.0, model=answer.model
            )
            yield as_draft(each.value.ticket, answer.decision, made, answer.answered_at), each.place


def _unwanted(draft: Draft, label: Label | None, said: Label | None) -> LeftOut | None:
    if draft.routed.decision.reason not in AUDITABLE:
        return LeftOut.NEVER_TIER1
    if said is not None and not said.acceptable:
        return LeftOut.COMPLAINT
    if label is not None:
        return None if label.acceptable else LeftOut.BAD
    return None if draft.tier == "tier2" else LeftOut.UNJUDGED


def _rank(kept: Kept[Draft]) -> int:
    if not kept.provenance.label_source:
        return 2
    return 0 if kept.row.tier == "tier2" else 1


def _provenance(draft: Draft, place: str, label: Placed[Label] | None) -> Provenance:
    decision = draft.routed.decision
    return Provenance(
        ticket=ticket_digest(key_of(draft.routed.ticket)),
        records=(place, label.place) if label else (place,),
        at=label.value.at if label else draft.routed.received_at,
        category=decision.category,
        policy_version=decision.policy_version,
        model=draft.model,
        model_version=decision.model_version,
        tier=draft.tier,
        label_source=label.value.source if label else "",
        judge=label.value.judge if label else "",
    )


class _Taught(NamedTuple):
    kept: Kept[Chat]
    ticket: Ticket


def distil(answers: DataSet[Draft], plan: Plan) -> Distilled:
    """Chats of the answers, without twins, on the side that the customer is drawn for.

    Of answers to the same question but for case, marks and figures the best stays, and of equally good ones the latest:
    the company's prices and rules change.
    """
    left_out = Counter(answers.left_out)
    sides: dict[bool, list[_Taught]] = {True: [], False: []}
    for each in _without_twins(answers, plan, left_out):
        sides[_is_held_out(each.ticket)].append(each)
    unseen = {_asked(each.ticket) for each in sides[True]}
    train = [each.kept for each in sides[False] if _asked(each.ticket) not in unseen]
    left_out[LeftOut.HELD_OUT_TWIN] += len(sides[False]) - len(train)
    return Distilled(in_order(train), in_order(each.kept for each in sides[True]), counted(left_out))


def _without_twins(answers: DataSet[Draft], plan: Plan, left_out: Counter[str]) -> Iterator[_Taught]:
    """Best first."""
    seen = set()
    for each in sorted(answers.kept, key=lambda kept: (_rank(kept), -kept.provenance.at.timestamp())):
        ticket = each.row.routed.ticket
        twins = normalised("\n".join((ticket.subject, ticket.body, *ticket.context)))
        made = LeftOut.TWIN if twins in seen else chat_of(each.row, plan)
        if isinstance(made, LeftOut):
            left_out[made] += 1
        else:
            seen.add(twins)
            yield _Taught(Kept(made, each.provenance), ticket)


def _asked(ticket: Ticket) -> str:
    """What the customer wrote, without the facts of his account."""
    return normalised(f"{ticket.subject}\n{ticket.body}")


def _is_held_out(ticket: Ticket) -> bool:
    who = ("customer", ticket.tenant, ticket.customer_id) if ticket.customer_id else ("ticket", *key_of(ticket))
    drawn = blake2b("\0".join(("held out", *who)).encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") < HELD_OUT_SHARE * 2**64


def chat_of(draft: Draft, plan: Plan) -> Chat | LeftOut:
    """The answer as one to tier-1's prompt, with placeholders for personal data; or why it can't be taught."""
    knowledge = "\n".join(plan.passages.values())
    if failed_gates(draft, knowledge):
        return LeftOut.GATE
    if len(draft.text) > plan.most_answer_chars:
        return LeftOut.TOO_LONG
    ticket, answer = _redacted(draft, knowledge, plan.phone_region)
    if answer is None:
        return LeftOut.PERSONAL_DATA
    picked = [plan.passages[name] for name in draft.routed.decision.passages if name in plan.passages]
    prompt = fit(ticket, plan.company, picked, plan.room_chars).messages
    if _figures(answer) - _computed(answer) - _figures("\n".join(message["content"] for message in prompt)):
        return LeftOut.UNFOUNDED
    return Chat(tuple(prompt), answer.strip())


def _redacted(draft: Draft, knowledge: str, phone_region: str) -> tuple[Ticket, str | None]:
    """Ticket and answer without personal data; no answer if it held any."""
    ticket = draft.routed.ticket
    found = redact((ticket.subject, ticket.body, *ticket.context, draft.text), phone_region)
    # The company's own numbers and addresses are no personal data.
    own = {name: value for name, value in found.placeholders.items() if value in knowledge}
    subject, body, *context, answer = (restore(text, own) for text in found.texts)
    hidden = found.placeholders.keys() - own.keys()
    redacted = replace(ticket, subject=subject, body=body, context=tuple(context), thread=(), metadata={})
    return redacted, None if any(name in answer for name in hidden) else answer


_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
_COMPUTED = re.compile(r"= ?[$€£]?(\d+(?:[.,]\d+)*)")


def _figures(text: str) -> set[str]:
    return {_plain(figure) for figure in _FIGURE.findall(text)}


def _computed(text: str) -> set[str]:
    """Results of sums that are written out: "3 x $4 = $12"."""
    return {_plain(figure) for figure in _COMPUTED.findall(text)}


def _plain(figure: str) -> str:
    return figure.replace(",", "").removesuffix(".00").lstrip("0")


class _Message(Struct, frozen=True):
    role: str
    content: str


class _Line(Struct, frozen=True):
    messages: tuple[_Message, ...]


def plain(chat: Chat) -> dict[str, list[ChatMessage]]:
    """A chat as fine-tuning services and libraries take it."""
    return {"messages": [*chat.prompt, {"role": "assistant", "content": chat.answer}]}


def read_chats(path: Path) -> list[Chat]:
    """The chats in a file of JSON lines, each with `messages`, of which the last is the assistant's.

    Raises: ValueError naming file, line and what is wrong, never with a text.
    """
    return [_chat(line, where) for where, line in read(path, _Line)]


def _chat(line: _Line, where: str) -> Chat:
    *prompt, answer = line.messages or (_Message("", ""),)
    if not prompt or answer.role != "assistant" or not answer.content.strip():
        raise ValueError(f"{where}: the last message must be the assistant's, after a prompt")
    return Chat(tuple(ChatMessage(role=m.role, content=m.content) for m in prompt), answer.content)
