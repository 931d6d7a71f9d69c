"""The prompt: whole where it fits, and cut by its rule where it doesn't."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.tickets import Ticket
from tests.records import a_ticket
from workers.tier1.prompts import GAP, LEAST_CHARS, Fitted, chat, fit

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="["), max_size=2_000)
TICKETS = st.builds(
    lambda subject, body, context: a_ticket(body or "?", subject=subject, context=tuple(context)),
    TEXTS,
    TEXTS,
    st.lists(TEXTS, max_size=2),
)
PASSAGES = st.lists(TEXTS, max_size=4)
ROOMS = st.integers(0, 8_000)


def user(prompt: Fitted) -> str:
    return prompt.messages[1]["content"]


def asked(ticket: Ticket) -> str:
    return "\n".join(part for part in (ticket.subject, ticket.body) if part)


def test_a_prompt_is_the_system_line_the_passages_the_ticket_and_the_facts() -> None:
    """Byte for byte what the example company's adapter was trained on."""
    ticket = a_ticket("Where is it?", subject="Router", context=("Ordered on Monday.",))
    assert chat(ticket, "Fernway", ["Routers take 2 days.", "Cancel by 8 pm."]) == [
        {"role": "system", "content": "You answer customers of Fernway."},
        {
            "role": "user",
            "content": "Routers take 2 days.\n\nCancel by 8 pm.\n\nRouter\nWhere is it?\nOrdered on Monday.",
        },
    ]


@given(TICKETS, PASSAGES, ROOMS)
def test_what_fits_is_left_as_it_is(ticket: Ticket, passages: list[str], more_chars: int) -> None:
    """However much room is left over."""
    whole = chat(ticket, "Fernway", passages)
    room_chars = sum(len(message["content"]) for message in whole) + more_chars
    assert fit(ticket, "Fernway", passages, room_chars) == (whole, 0)


@given(TICKETS, PASSAGES, ROOMS)
def test_a_cut_prompt_fits_unless_what_stays_whole_is_too_long(
    ticket: Ticket, passages: list[str], room_chars: int
) -> None:
    """The system line, the likeliest passage, the facts and the least of the customer's text are in it in any case."""
    prompt = fit(ticket, "Fernway", passages, room_chars)
    least = fit(ticket, "Fernway", passages, 0)
    assert prompt.chars <= max(room_chars, least.chars)
    assert prompt.messages[0] == {"role": "system", "content": "You answer customers of Fernway."}
    assert user(prompt).startswith(passages[0] if passages else "")
    assert user(prompt).endswith("\n".join(("", *ticket.context)))
    assert least.chars <= chat_chars(ticket, passages[:1], LEAST_CHARS)


def chat_chars(ticket: Ticket, passages: list[str], asked_chars: int) -> int:
    """The length of a prompt with so much of the customer's text at most."""
    whole = sum(len(message["content"]) for message in chat(ticket, "Fernway", passages))
    return whole - max(0, len(asked(ticket)) - asked_chars)


@given(TICKETS, PASSAGES, ROOMS)
def test_what_was_left_out_is_counted(ticket: Ticket, passages: list[str], room_chars: int) -> None:
    """Every character of the passages and of the customer's text is in the prompt or in the count."""
    prompt = fit(ticket, "Fernway", passages, room_chars)
    kept = next(
        n for n in range(len(passages), -1, -1) if user(prompt).startswith("".join(f"{p}\n\n" for p in passages[:n]))
    )
    whole = fit(ticket, "Fernway", passages[:kept], 10**9)
    gap = len(GAP) if GAP in user(prompt) else 0
    lost_passages = sum(len(p) for p in passages[kept:])
    assert prompt.cut_chars == whole.chars - (prompt.chars - gap) + lost_passages


@given(TICKETS, PASSAGES, ROOMS, ROOMS)
def test_more_room_never_leaves_more_out(ticket: Ticket, passages: list[str], one: int, other: int) -> None:
    """Except for the gap's own length, which a text that just fails to fit must make room for, too."""
    small, large = sorted((one, other))
    assert fit(ticket, "F", passages, large).cut_chars <= fit(ticket, "F", passages, small).cut_chars + len(GAP)


def test_less_likely_passages_go_before_the_customers_text() -> None:
    """The last one first, and only as many as must."""
    passages = ["a" * 300, "b" * 300, "c" * 300]
    ticket = a_ticket("d" * 300)
    whole = fit(ticket, "F", passages, 10_000).chars
    prompt = fit(ticket, "F", passages, whole - 1)
    assert user(prompt) == "\n\n".join((*passages[:2], ticket.body))
    assert prompt.cut_chars == 300


def test_the_middle_of_a_long_text_is_cut_and_its_ends_stay() -> None:
    """People say what they want first, or ask for it last."""
    text = "".join(f"{n:04} " for n in range(1_000))
    prompt = fit(a_ticket(text, context=("Plan: 100.",)), "F", ["a" * 100, "b" * 100], 1_000)
    assert prompt.chars == 1_000
    head, tail = user(prompt).removeprefix("a" * 100 + "\n\n").removesuffix("\nPlan: 100.").split(GAP)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    assert prompt.cut_chars == len(text) - len(head) - len(tail) + 100
