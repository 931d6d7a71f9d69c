"""What a provider must not see is out of the texts, and back in the answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.tier2.redaction import redact, restore


def _redacted(text: str, region: str = "US") -> str:
    return redact([text], region).texts[0]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Mail ann@example.com, please.", "Mail [EMAIL_1], please."),
        ("<bo.b+x@mail.example.co.uk>", "<[EMAIL_1]>"),
        ("Ask jürgen@müller.example.", "Ask [EMAIL_1]."),
        ("Call (212) 736-5000 now", "Call [PHONE_1] now"),
        ("Call +44 20 7946 0958.", "Call [PHONE_1]."),
        ("Call 2127365000 or 212-736-5001.", "Call [PHONE_1] or [PHONE_2]."),
        ("My phone number is 555-0123.", "My phone number is [PHONE_1]."),
        ("Card 4111 1111 1111 1111, 12/27", "Card [CARD_1], 12/27"),
        ("Card 4111-1111-1111-1111 12", "Card [CARD_1] 12"),
        ("Amex 378282246310005", "Amex [CARD_1]"),
        ("IBAN DE89 3704 0044 0532 0130 00 then", "IBAN [IBAN_1] then"),
        ("to gb82west12345698765432.", "to [IBAN_1]."),
        ("account 123456", "account [ACCOUNT_1]"),
        ("Customer no.: FW-123456", "Customer no.: [ACCOUNT_1]"),
        ("order #88 123 45", "order #[ACCOUNT_1]"),
        ("Kundennummer 881234", "Kundennummer [ACCOUNT_1]"),
        ("It is 1234 5678 9.", "It is [ACCOUNT_1]."),
        ("Meter 1Z999AA10123456784", "Meter [ACCOUNT_1]"),
        ("SSN 123-45-6789", "SSN [ACCOUNT_1]"),
        # Mistyped: no card by its check digit, and still nobody else's business.
        ("Card 4111 1111 1111 1112", "Card [ACCOUNT_1]"),
    ],
)
def test_addresses_and_numbers_leave_a_placeholder_of_their_kind(text: str, redacted: str) -> None:
    """The words around them stay."""
    assert _redacted(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "I paid $54.20 and $1,234,567.89, not 54,20 € or 12345678 EUR.",
        "From 2026-11-25 to 03/04/2026, 25.11.2026 or 11/25/26; 20261125.",
        "2026-11-25T10:30:00Z, 10:30-11:45, 2025-2026, 2026-11-25 - 2026-12-01.",
        "A plan of 500 Mbps, not 100 200 500; 12.5 % of 100000000 GB.",
        "Order 500 units in 94105 or CA 94105-1234.",
        "Version 10.2.1 of 192.168.100.200, pi is 3.14159265.",
        "Order 12, room 4711, tickets 1234 and 99999. Twitter: @example",
        "SIM number 8901220344719056338: type its last six digits.",
        "My account since 2019, contract of 2026-11-25.",
    ],
)
def test_what_answers_are_made_of_stays(text: str) -> None:
    """Amounts, dates, times, years, speeds, quantities, postal codes, shares, versions, short numbers."""
    assert _redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "\uff14\uff11\uff11\uff11 \uff11\uff11\uff11\uff11 \uff11\uff11\uff11\uff11 \uff11\uff11\uff11\uff11",
        "\u0664\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661 \u0661\u0661\u0661\u0661",
        "4111\u200b1111\u20601111\ufeff1111",
        "4111\u00a01111\u20111111\u20131111",
        "4111\u00ad-1111-1111-1111",
        "4111\t1111\t1111\t1111",
    ],
)
def test_a_card_cannot_hide_behind_its_characters(text: str) -> None:
    """Digits of other scripts, invisible characters and other blanks and hyphens are read as a person reads them."""
    found = redact([f"Card {text}!"])
    assert found.texts == ("Card [CARD_1]!",)
    assert found.placeholders == {"[CARD_1]": text}


def test_an_address_cannot_hide_behind_its_characters() -> None:
    """A full-width @ or a zero-width blank makes it no other address."""
    assert redact(["ann\uff20example.com a\u200bnn@exa\u200bmple.com"]).texts == ("[EMAIL_1] [EMAIL_1]",)


def test_the_same_value_has_the_same_placeholder_in_all_of_a_tickets_texts() -> None:
    """However it is written; the first spelling is what comes back."""
    found = redact(["Ann@Example.com, 212-736-5000", "ann@example.com or bob@example.com", "+1 (212) 736 5000"])
    assert found.texts == ("[EMAIL_1], [PHONE_1]", "[EMAIL_1] or [EMAIL_2]", "[PHONE_1]")
    assert found.placeholders == {
        "[EMAIL_1]": "Ann@Example.com",
        "[PHONE_1]": "212-736-5000",
        "[EMAIL_2]": "bob@example.com",
    }


def test_a_phone_number_without_a_prefix_is_the_regions() -> None:
    """A French number is none in the United States."""
    assert _redacted("01.42.68.53.00", "FR") == "[PHONE_1]"
    assert _redacted("01.42.68.53.00", "US") != "[PHONE_1]"


def test_a_placeholder_that_the_customer_wrote_is_never_answered_with_a_value() -> None:
    """In whatever spelling `restore` accepts, and in any text of the ticket."""
    found = redact(["Send it to [EMAIL_1] and [ email 2 ].", "I am ann@example.com."])
    assert found.texts[1] == "I am [EMAIL_3]."
    assert (
        restore("To [EMAIL_1], [email_2], [EMAIL_3]", found.placeholders) == "To [EMAIL_1], [email_2], ann@example.com"
    )


@pytest.mark.parametrize("spelled", ["[EMAIL_1]", "[email_1]", "[Email 1]", "[ EMAIL_1 ]", "[EMAIL\\_1]", "[EMAIL-1]"])
def test_a_placeholder_comes_back_in_the_spellings_of_models(spelled: str) -> None:
    """Case, spacing and an escaped underscore change."""
    assert restore(f"Wrote to {spelled}.", {"[EMAIL_1]": "ann@example.com"}) == "Wrote to ann@example.com."


def test_an_unknown_placeholder_stays() -> None:
    """The checker's gate refuses it."""
    assert restore("To [EMAIL_7] of [NAME_1]", {"[EMAIL_1]": "ann@example.com"}) == "To [EMAIL_7] of [NAME_1]"


def test_a_restored_value_is_not_read_for_placeholders_again() -> None:
    """Values are the customer's text."""
    assert restore("[EMAIL_1]", {"[EMAIL_1]": "[CARD_1]", "[CARD_1]": "4111"}) == "[CARD_1]"


def test_values_stay_out_of_the_repr() -> None:
    """It may be logged."""
    assert "ann@" not in repr(redact(["ann@example.com"]))


SAMPLES = st.sampled_from(
    ["ann@example.com", "212-736-5000", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "order 1234567"]
)


@given(st.lists(st.text(max_size=40) | SAMPLES, max_size=6).map(" ".join))
def test_restoring_what_was_redacted_gives_the_text_again(text: str) -> None:
    """Up to the spelling of values that occur twice; nothing between the values changes."""
    found = redact([text])
    again = redact([restore(found.texts[0], found.placeholders)])
    assert again == found
    if found.texts[0].count("[") == text.count("[") + len(found.placeholders):
        assert restore(found.texts[0], found.placeholders) == text


@given(st.text(alphabet="0189 -./@()+#aZé\u0661\u200b[]_$", max_size=300), SAMPLES)
def test_a_value_between_blank_lines_is_found_whatever_stands_around_it(noise: str, value: str) -> None:
    """No text before it switches the search off."""
    assert value not in _redacted(f"{noise}\n\n{value}\n\n{noise}")


LONG_CHARS = 50_000


@pytest.mark.parametrize(
    "unit", ["1", "1 ", "1-", "a@", "@a.", "DE89 ", "4111 ", "(1", "#1", "1.", "2026-", "+1 ", "é1 "]
)
def test_a_long_text_takes_linear_time(unit: str) -> None:
    """Ten times the text takes some ten times as long: a backtracking pattern would take a hundred times."""
    shorter, longer = (_processor_s((unit * chars)[:chars]) for chars in (LONG_CHARS // 10, LONG_CHARS))
    assert longer < 40 * shorter + 0.05


def _processor_s(text: str) -> float:
    started_s = time.thread_time()
    redact([text])
    return time.thread_time() - started_s
