"""A blind case for a person at a terminal, and what the person typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tickets import Message
from tests.records import a_ticket
from workers.judge.judgement import Case, Verdict, blind
from workers.judge.person import page, verdict


def test_the_page_shows_the_ticket_and_the_answers_by_letter() -> None:
    """In the order that belongs to the ticket, and nothing of who wrote them."""
    ticket = a_ticket(
        "Why $54?",
        subject="Bill",
        thread=(Message(author="agent", body="Which bill?"),),
        context=("Plan: River",),
        metadata={"tier": "tier1"},
    )
    seen = blind(Case(ticket, ("It is the\nsetup fee.", "")))
    [a, b] = (
        ["  | It is the\n  | setup fee.", "  | "]
        if seen.texts["B"] == ""
        else ["  | ", "  | It is the\n  | setup fee."]
    )
    assert page(seen) == (
        "Subject\n  | Bill\n\nEarlier, by the agent\n  | Which bill?\n\nThe customer's message\n  | Why $54?\n\n"
        f"Account fact\n  | Plan: River\n\nAnswer A\n{a}\n\nAnswer B\n{b}"
    )


@given(st.text(), st.text(min_size=1))
def test_no_text_passes_for_a_line_of_the_page(answer: str, body: str) -> None:
    """Foreign lines have a margin, however they are separated; nothing in them steers the terminal."""
    shown = page(blind(Case(a_ticket(body), (answer,))))
    own = [line for line in shown.splitlines() if line and not line.startswith("  | ")]
    assert own == ["The customer's message", "Answer A"]
    assert not any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 for c in shown)


@pytest.mark.parametrize("steering", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\b", "\u202e", "\u2067", "\ud800"])
def test_a_steering_character_is_not_printed(steering: str) -> None:
    """Neither a cleared screen nor a line shown backwards."""
    assert steering not in page(blind(Case(a_ticket(), (f"It is{steering} free.",))))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("y", Verdict(acceptable=True, why="")),
        (" Yes \n", Verdict(acceptable=True, why="")),
        ("n it names  no fee", Verdict(acceptable=False, why="it names  no fee")),
        ("NO", Verdict(acceptable=False, why="")),
    ],
)
def test_a_word_and_a_reason_are_a_verdict(typed: str, expected: Verdict) -> None:
    """The reason may be left out."""
    assert verdict(typed) == expected


@pytest.mark.parametrize("typed", ["", "maybe", "yn", "not good"])
def test_anything_else_is_asked_again(typed: str) -> None:
    """A slip is no label."""
    with pytest.raises(ValueError, match="answer y"):
        verdict(typed)
