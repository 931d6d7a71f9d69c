"""A blind case, its order, and the reading of a judge's reply."""

import random
import traceback
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import a_ticket
from workers.judge.judgement import WHY_CHARS, Blind, Case, Letter, UnreadableReplyError, Verdict, blind, read
from workers.tier2.wire import BrokenAnswerError

GOOD, BAD = "It is the setup fee.", "It is a gift."
FIELDS = {"acceptable": True, "why": "none"}


def _case(ticket_id: str, *answers: str) -> Case:
    return Case(a_ticket(ticket_id=ticket_id), answers)


def _honest(case: Blind) -> dict[Letter, Verdict]:
    """The verdicts of a judge that knows the good answer by its text."""
    return {letter: Verdict(acceptable=text == GOOD, why=text) for letter, text in case.texts.items()}


def test_a_redo_asks_the_same() -> None:
    """The order belongs to the ticket: neither a restart nor what was drawn before changes it."""
    orders = []
    for seed in (1, 2):
        random.seed(seed)
        orders.append([blind(_case(f"t{i}", GOOD, BAD)).order for i in range(50)])
    assert orders[0] == orders[1]


def test_the_orders_of_known_tickets_stay() -> None:
    """As they were when this was written: an order that changes with a release would be asked anew."""
    assert [blind(_case(f"t{i}", GOOD, BAD)).order[0] for i in range(12)] == [1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1]


def test_each_answer_comes_first_as_often() -> None:
    """Judges prefer a place; over many tickets that must favour nobody. Ten thousand flips, five sigma."""
    first = sum(blind(_case(f"t{i}", GOOD, BAD)).order[0] for i in range(10_000))
    assert abs(first - 5_000) < 250


@given(ticket_id=st.text(min_size=1), good_first=st.booleans())
def test_a_judgement_is_in_the_cases_order(ticket_id: str, good_first: bool) -> None:
    """Whatever order the judge saw."""
    answers = (GOOD, BAD) if good_first else (BAD, GOOD)
    seen = blind(_case(ticket_id, *answers))
    judgement = seen.judgement(_honest(seen), "j", cost_usd=0.5, calls=2)
    assert judgement.acceptable == tuple(text == GOOD for text in answers)
    assert judgement.why == answers
    assert (judgement.judge, judgement.cost_usd, judgement.calls) == ("j", 0.5, 2)


def test_a_single_answer_is_a() -> None:
    """One answer a call is the usual audit."""
    seen = blind(_case("t1", BAD))
    assert (seen.texts, seen.order) == ({"A": BAD}, (0,))
    assert seen.judgement(_honest(seen), "j").acceptable == (False,)


@pytest.mark.parametrize("answers", [(), (GOOD, BAD, GOOD)])
def test_a_case_has_one_or_two_answers(answers: tuple[str, ...]) -> None:
    """There are letters for no more."""
    with pytest.raises(ValueError, match="1 to 2 answers"):
        _case("t1", *answers)


def test_no_text_stands_in_a_repr() -> None:
    """Values end up in logs and in tracebacks; texts must not."""
    case = Case(a_ticket("secret body"), ("secret answer",))
    seen = blind(case)
    judgement = seen.judgement({"A": Verdict(acceptable=False, why="secret reason")}, "j")
    assert "secret" not in repr((case, seen, judgement))


def test_a_long_reason_is_cut() -> None:
    """It was asked for in one sentence."""
    long = Verdict(acceptable=True, why="x" * 10_000)
    assert blind(_case("t1", GOOD)).judgement({"A": long}, "j").why == ("x" * WHY_CHARS,)


# -- replies ------------------------------------------------------------------------------------------------------


@given(st.booleans(), st.booleans(), st.text(), st.booleans())
def test_a_reply_as_asked_for_is_read(a: bool, b: bool, why: str, fenced: bool) -> None:
    """Any reason, any order of the fields, in a Markdown fence or not."""
    said = {"B": {"why": why, "acceptable": b}, "A": {"acceptable": a, "why": why}}
    text = msgspec.json.encode(said).decode()
    reply = f"```json\n{text}\n```\n" if fenced else text
    assert read(reply, ("A", "B")) == {"A": Verdict(a, why), "B": Verdict(b, why)}
    assert list(read(reply, ("A", "B"))) == ["A", "B"]


UNREADABLE: dict[str, Any] = {
    "one letter twice": '{"A": {"acceptable": false, "why": ""}, "A": {"acceptable": true, "why": ""}}',
    "two words": '{"A": {"acceptable": false, "acceptable": true, "why": ""}}',
    "empty": "",
    "prose": "Both are acceptable.",
    "prose before": 'Sure! {"A": {"acceptable": true, "why": "none"}}',
    "prose after": '{"A": {"acceptable": true, "why": "none"}} I hope this helps.',
    "cut": '{"A": {"acceptable": true, "why": "no',
    "nothing judged": {},
    "another letter": {"A": FIELDS, "B": FIELDS},
    "only another letter": {"B": FIELDS},
    "small letter": {"a": FIELDS},
    "a word": {"A": {"acceptable": "true", "why": "none"}},
    "a number": {"A": {"acceptable": 1, "why": "none"}},
    "no word": {"A": {"why": "none"}},
    "no reason": {"A": {"acceptable": True}},
    "a further field": {"A": {**FIELDS, "secret": 1}},
    "a bare word": {"A": True},
    "a list": [{"A": FIELDS}],
    "deep": "[" * 100_000,
    "half a character": "\ud800",
    "half a character in the reason": '{"A": {"acceptable": true, "why": "\\ud800"}}',
}


@pytest.mark.parametrize("reply", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_anything_else_is_unreadable(reply: Any) -> None:
    """Never half a judgement, nor one found in the midst of other text, where an answer's own words may stand."""
    text = reply if isinstance(reply, str) else msgspec.json.encode(reply).decode()
    with pytest.raises(UnreadableReplyError, match="the judge's reply is not") as caught:
        read(text, ("A",))
    assert isinstance(caught.value, BrokenAnswerError)


@given(st.text())
def test_no_reply_breaks_the_reader(reply: str) -> None:
    """It is a model's text: verdicts or one error."""
    try:
        said = read(reply, ("A",))
    except UnreadableReplyError:
        return
    assert said.keys() == {"A"}


def test_the_error_quotes_nothing() -> None:
    """A judge may quote the ticket where a field's name belongs."""
    for reply in ('{"secret": {}}', '{"A": {"acceptable": true, "why": "", "secret": 1}}', '{"A": "secret"}', "secret"):
        with pytest.raises(UnreadableReplyError) as caught:
            read(reply, ("A",))
        assert "secret" not in "".join(traceback.format_exception(caught.value))
