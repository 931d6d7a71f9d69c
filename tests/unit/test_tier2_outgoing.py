"""What leaves for a provider, and what comes back into its answer."""

from schemas.tickets import Message, Ticket, TicketId
from workers.tier2.outgoing import outgoing

EMAIL = "ann.field@example.com"
PHONE = "+1 212 555 0123"
TICKET = Ticket(
    ticket_id=TicketId("t1"),
    subject=f"Change of {EMAIL}",
    body=f"My bill of $54.20 went to {EMAIL}. Call {PHONE}.",
    thread=(Message(author="customer", body=f"I am {EMAIL}."), Message(author="agent", body="Since 2026-11-01?")),
    context=("Plan: Home 200, $39 a month", f"Mail: {EMAIL}"),
)


def test_no_part_of_the_ticket_takes_personal_data_out() -> None:
    """Subject, message, earlier messages and account facts alike; one value has one placeholder everywhere."""
    sent = outgoing(TICKET, redacting=True, phone_region="US")
    assert EMAIL not in sent.message
    assert "0123" not in sent.message
    # Four times in the ticket, and once where the provider is told what it is.
    assert sent.message.count("[EMAIL_1]") == 5
    assert "[EMAIL_2]" not in sent.message


def test_what_the_answer_needs_is_sent() -> None:
    """Amounts, dates and plans, each in its place."""
    sent = outgoing(TICKET, redacting=True, phone_region="US")
    for kept in ("$54.20", "<agent>\nSince 2026-11-01?\n</agent>", "Plan: Home 200, $39 a month"):
        assert kept in sent.message


def test_the_answer_has_the_customers_data_again() -> None:
    """Placeholders are nobody's business but the provider's."""
    sent = outgoing(TICKET, redacting=True, phone_region="US")
    assert sent.restored("We write to [EMAIL_1], and call [PHONE_1].") == f"We write to {EMAIL}, and call {PHONE}."


def test_redaction_can_be_switched_off() -> None:
    """Then the ticket goes as it came, and nothing is restored."""
    sent = outgoing(TICKET, redacting=False, phone_region="US")
    assert EMAIL in sent.message
    assert sent.restored("[EMAIL_1]") == "[EMAIL_1]"


def test_neither_message_nor_data_is_in_its_repr() -> None:
    """A traceback that shows it gives nothing away."""
    shown = repr(outgoing(TICKET, redacting=True, phone_region="US"))
    assert "54" not in shown
    assert EMAIL not in shown
