"""What tier-1 is taught: which answers, in which prompt, without whose data, and what is kept from training."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.answers import Answer, Costs
from schemas.audits import Audit
from schemas.labels import Label
from schemas.tickets import RouteReason, Ticket, TicketId
from tests.records import AT, a_decision, a_draft, a_routed, a_ticket, a_verdict, an_attempt
from workers.learning.adapter import Chat
from workers.learning.datasets import LeftOut
from workers.learning.distillation import (
    HELD_OUT_SHARE,
    Distilled,
    Plan,
    Sent,
    candidates,
    chat_of,
    distil,
    plain,
    read_chats,
)
from workers.learning.provenance import DataSet, Placed, contents
from workers.tier1.drafting import Tier1, Tier1Config
from workers.tier1.metering import Prices

PASSAGES = {
    "orders.time": "A router takes 2 business days. Questions: call 1-800-555-0199.",
    "orders.cost": "Delivery costs $4.",
}
PLAN = Plan(company="Fernway", passages=PASSAGES, room_chars=1500, most_answer_chars=400)
GOOD = "It takes 2 business days."


def a_label(number: int, tier: str = "tier1", acceptable: bool = True, **fields: Any) -> Placed[Label]:
    values: dict[str, Any] = {
        "ticket_id": TicketId(f"t{number}"),
        "category": "orders",
        "acceptable": acceptable,
        "source": "judge",
        "propensity": 0.2,
        "at": AT,
        "tier": tier,
    }
    return Placed(Label(**values | fields), f"labels/0/{number}")


def a_question(number: int, **fields: Any) -> Ticket:
    values = {"body": f"Where is my {chr(96 + number)} router?", "ticket_id": TicketId(f"t{number}")}
    return a_ticket(**values | fields)


def an_audit(number: int, other: str | None = GOOD, **fields: Any) -> Placed[Audit]:
    values: dict[str, Any] = {
        "ticket": a_question(number),
        "decision": a_decision(passages=("orders.time",)),
        "draft": an_attempt(text="Your router takes 2 business days.", finish_reason="stop", model="small"),
        "other": an_attempt("tier2", other, finish_reason="stop", model="frontier") if other else None,
        "at": AT,
    }
    return Placed(Audit(**values | fields), f"audits/0/{number}")


def a_sent(number: int, text: str = GOOD, **fields: Any) -> Placed[Sent]:
    ticket = fields.pop("ticket", a_question(number))
    values: dict[str, Any] = {
        "ticket_id": ticket.ticket_id,
        "tenant": ticket.tenant,
        "customer_id": ticket.customer_id,
        "text": text,
        "tier": "tier2",
        "model": "frontier",
        "category": "orders",
        "language": "en",
        "decision": a_decision("tier2", reason=RouteReason.UNCERTAIN, passages=("orders.time",)),
        "verdict": a_verdict(score=None, threshold=None),
        "attempts": (),
        "costs": Costs(router_usd=0.0, tier1_usd=0.0, checker_usd=0.0, tier2_usd=0.001),
        "received_at": AT,
        "answered_at": AT,
    }
    return Placed(Sent(ticket, Answer(**values | fields)), f"answers/0/{number}")


def taught(sent: Sequence[Placed[Sent]], plan: Plan = PLAN) -> Distilled:
    """The chats of answers that nobody judged."""
    return distil(candidates([], sent, []), plan)


def answers(found: DataSet[Any]) -> Mapping[str, tuple[str, str]]:
    """Each ticket's answer and its model."""
    return {each.routed.ticket.ticket_id: (each.text, each.model) for each in found.rows}


def test_the_best_answer_to_a_ticket_is_tier2s_then_tier1s_own_good_draft() -> None:
    """As far as they were judged acceptable; what tier-2 sent and nobody judged comes last."""
    audits = [an_audit(1), an_audit(2), an_audit(3), an_audit(4, other=None)]
    labels = [
        a_label(1),
        a_label(1, "tier2"),
        a_label(2),
        a_label(2, "tier2", acceptable=False),
        a_label(3),
        a_label(4, acceptable=False),
    ]
    found = candidates(audits, [a_sent(5)], labels)
    draft = "Your router takes 2 business days."
    assert answers(found) == {
        "t1": (GOOD, "frontier"),
        "t2": (draft, "small"),
        "t3": (draft, "small"),
        "t5": (GOOD, "frontier"),
    }
    assert found.left_out == {LeftOut.AGAIN: 2, LeftOut.BAD: 2}
    by_ticket = {each.row.routed.ticket.ticket_id: each.provenance for each in found.kept}
    assert (by_ticket["t2"].records, by_ticket["t2"].label_source) == (("audits/0/2", "labels/0/2"), "judge")
    assert (by_ticket["t5"].records, by_ticket["t5"].label_source) == (("answers/0/5",), "")


def test_feedback_only_speaks_against_an_answer() -> None:
    """A complaint keeps an answer out that the judge accepted; praise lets none in, whichever comes last."""
    audits = [an_audit(1, other=None), an_audit(2, other=None), an_audit(3, other=None)]
    later = AT + timedelta(days=1)
    labels = [
        a_label(1),
        a_label(1, acceptable=False, source="feedback", at=later),
        a_label(2, acceptable=False),
        a_label(2, source="feedback", at=later),
        a_label(3, source="feedback"),
        a_label(4, "tier2", acceptable=False, source="feedback"),
        a_label(5, "tier2", source="feedback"),
    ]
    found = candidates(audits, [a_sent(4), a_sent(5)], labels)
    assert list(answers(found)) == ["t5"]
    assert found.left_out == {LeftOut.COMPLAINT: 2, LeftOut.BAD: 1, LeftOut.UNJUDGED: 1}


def test_an_unjudged_draft_of_tier1_teaches_nothing() -> None:
    """Tier-1 would only learn to go on as it does."""
    found = candidates([an_audit(1, other=None)], [], [])
    assert (found.rows, found.left_out) == ([], {LeftOut.UNJUDGED: 1})


def test_a_ticket_that_a_rule_keeps_from_tier1_teaches_nothing() -> None:
    """Its answers may be good, and tier-1 is never asked."""
    forced = a_decision("tier2", reason=RouteReason.FORCED)
    found = candidates([], [a_sent(1, decision=forced), a_sent(2)], [])
    assert (list(answers(found)), found.left_out) == (["t2"], {LeftOut.NEVER_TIER1: 1})


def test_an_audited_answer_is_not_counted_again_where_it_was_sent() -> None:
    """The audit holds it; and of two audits of a ticket the latest counts."""
    later = an_audit(1, at=AT + timedelta(hours=1), other="A router takes 2 business days.")
    found = candidates([an_audit(1), later], [a_sent(1)], [a_label(1, "tier2"), a_label(1, acceptable=False)])
    assert answers(found) == {"t1": ("A router takes 2 business days.", "frontier")}
    assert found.left_out == {LeftOut.REPEATED: 1, LeftOut.BAD: 1}


def test_the_prompt_is_the_one_that_tier1_will_see() -> None:
    """Passages, cut and account facts included."""
    ticket = a_question(1, subject="Delivery", body="Where is my router? " * 40, context=("Ordered: 2 days ago",))
    decision = a_decision(passages=("orders.cost", "gone", "orders.time"))
    draft = a_draft(GOOD, a_routed(ticket, decision=decision))
    prices = Prices(cost="hour", usd_per_hour=0.0)
    config = Tier1Config(company="Fernway", passages=PASSAGES, context_tokens=320, max_tokens=120, prices=prices)
    plan = Plan(company="Fernway", passages=PASSAGES, room_chars=600, most_answer_chars=400)
    made = chat_of(draft, plan)
    asked = Tier1(config, cast(Any, None), cast(Any, None)).prompt(draft.routed, plan.room_chars)
    assert asked.cut_chars > 0
    assert isinstance(made, Chat)
    assert (list(made.prompt), made.answer) == (asked.messages, GOOD)


def test_personal_data_has_placeholders_and_the_companys_own_number_stays() -> None:
    """In subject, text and facts; nothing else of the ticket comes along."""
    ticket = a_question(
        1,
        subject="Ask jo@example.com",
        body="Call me on 212-555-0142. Where is my router?",
        context=("Card 4111 1111 1111 1111",),
        customer_id="customer-77",
        metadata={"ref": "ref-88"},
    )
    answer = "It takes 2 business days. You can call 1-800-555-0199."
    (only,) = [*taught([a_sent(1, answer, ticket=ticket)]).train, *taught([a_sent(1, answer, ticket=ticket)]).held_out]
    line = contents([only], plain).lines.decode()
    assert "1-800-555-0199" in only.row.answer
    assert all(name in line for name in ("[EMAIL_1]", "[PHONE_1]", "[CARD_1]"))
    assert not [told for told in ("jo@", "0142", "4111", "customer-77", "ref-88", '"t1"') if told in line]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Hello!", LeftOut.GATE),
        ("It takes 2 business days. We write to jo@example.com.", LeftOut.PERSONAL_DATA),
        ("It takes 5 business days.", LeftOut.UNFOUNDED),
        ("It takes 2 business days. " * 20, LeftOut.TOO_LONG),
    ],
)
def test_an_answer_that_tier1_should_not_give_is_counted(answer: str, reason: LeftOut) -> None:
    """By the reason; a figure must stand in the prompt."""
    ticket = a_question(1, body="Where is my router? I am jo@example.com.")
    found = taught([a_sent(1, answer, ticket=ticket)])
    assert (found.train, found.held_out, found.left_out) == ((), (), {reason: 1})


def test_a_sum_that_is_written_out_is_no_made_up_figure() -> None:
    """Its parts stand in the prompt."""
    decision = a_decision(passages=("orders.cost", "orders.time"))
    assert isinstance(chat_of(a_draft("2 x $4 = $8.", a_routed(decision=decision)), PLAN), Chat)
    assert chat_of(a_draft("That would be $8.", a_routed(decision=decision)), PLAN) == LeftOut.UNFOUNDED


def test_of_equal_questions_the_latest_answer_stays() -> None:
    """Prices and rules change; a judged answer stays before an unjudged one, however old."""
    later = AT + timedelta(days=1)
    sent = [
        a_sent(1, "Your router takes 2 business days.", ticket=a_question(1, body="Where is router 11?")),
        a_sent(2, GOOD, ticket=a_question(2, body="where is router 7"), received_at=later, answered_at=later),
    ]
    found = taught(sent)
    assert ([each.row.answer for each in (*found.train, *found.held_out)], found.left_out) == (
        [GOOD],
        {LeftOut.TWIN: 1},
    )
    audit = an_audit(3, ticket=a_question(3, body="Where is router 3?"), other="A router takes 2 business days.")
    judged = distil(candidates([audit], sent, [a_label(3, "tier2"), a_label(3)]), PLAN)
    assert [each.row.answer for each in (*judged.train, *judged.held_out)] == ["A router takes 2 business days."]


def of_customer(number: int) -> Placed[Sent]:
    """Each customer asks twice, and nobody what another asks."""
    words = " ".join(chr(97 + int(digit)) for digit in str(number))
    asked = {"ticket_id": TicketId(f"t{number}"), "customer_id": f"c{number // 2}"}
    return a_sent(number, ticket=a_ticket(f"Where is {words}?", **asked))


def test_a_customer_is_on_one_side_and_stays_there() -> None:
    """A tenth of the customers, with all of their tickets; more data moves nobody."""
    sent = [of_customer(number) for number in range(600)]
    few, many = taught(sent[:300]), taught(sent)
    names = {each.place: each.value.ticket.customer_id for each in sent}
    held_out, train = ({names[kept.provenance.records[0]] for kept in side} for side in (many.held_out, many.train))
    assert not held_out & train
    assert len(many.held_out) + len(many.train) == 600
    assert 0.5 * HELD_OUT_SHARE < len(held_out) / 300 < 1.5 * HELD_OUT_SHARE
    assert {kept.provenance.ticket for kept in few.held_out} <= {kept.provenance.ticket for kept in many.held_out}


def test_what_a_held_out_ticket_asks_is_not_trained_on() -> None:
    """Other account facts don't make it another question."""
    sent = [of_customer(number) for number in range(100)]
    held_out = {kept.provenance.records[0] for kept in taught(sent).held_out}
    unseen = next(each for each in sent if each.place in held_out)
    others = [each for each in sent if each.place not in held_out]
    asked_again = a_sent(
        999, ticket=msgspec.structs.replace(others[0].value.ticket, body=unseen.value.ticket.body, context=("Blue",))
    )
    found = taught([unseen, asked_again])
    assert (len(found.train), len(found.held_out), found.left_out) == (0, 1, {LeftOut.HELD_OUT_TWIN: 1})


@given(st.permutations(range(8)))
def test_every_answer_is_a_chat_or_counted_in_whichever_order_it_comes(order: list[int]) -> None:
    """And the same records make the same chats in the same order."""
    sent = [
        a_sent(1),
        a_sent(2),
        a_sent(3, "Hello!"),
        a_sent(4, "It takes 9 days."),
        a_sent(5, ticket=a_question(2, ticket_id=TicketId("t5"))),
        a_sent(6, decision=a_decision("tier2", reason=RouteReason.VIP)),
        a_sent(7),
        a_sent(8, received_at=AT + timedelta(hours=1)),
    ]
    found = taught([sent[i] for i in order])
    assert len(found.train) + len(found.held_out) + sum(found.left_out.values()) == len(sent)
    assert found == taught(sent)


def test_chats_come_back_from_their_file(tmp_path: Path) -> None:
    """As they were; fine-tuning services take the same lines."""
    found = taught([a_sent(1), a_sent(2)])
    kept = [*found.train, *found.held_out]
    path = tmp_path / "train.jsonl"
    path.write_bytes(contents(kept, plain).lines)
    first = msgspec.json.decode(path.read_bytes().splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert read_chats(path) == [each.row for each in kept]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"messages": []}', "the last message must be"),
        ('{"messages": [{"role": "assistant", "content": "secret"}]}', "the last message must be"),
        ('{"messages": [{"role": "user", "content": "secret"}, {"role": "user", "content": "x"}]}', "the last message"),
        ('{"messages": [{"role": "user", "content": 7}]}', "no row of this kind"),
        ('{"secret": 1', "no row of this kind"),
    ],
)
def test_a_line_that_is_no_chat_is_refused_by_its_number(line: str, why: str, tmp_path: Path) -> None:
    """Never with its text."""
    path = tmp_path / "train.jsonl"
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    path.write_text(good + line + "\n")
    with pytest.raises(ValueError, match=f"train.jsonl:2: {why}") as refused:
        read_chats(path)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    """Instead of training on nothing."""
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: can't be read"):
        read_chats(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty\.jsonl: no lines"):
        read_chats(tmp_path / "empty.jsonl")
