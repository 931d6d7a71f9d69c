"""The deterministic gates: each a pure function of a draft, with one reason code.

A gate catches what no score should be asked about. Gates hold for both tiers:
a tier-2 draft that fails one goes to a person.
"""

import re
from collections.abc import Callable

from schemas.answers import GateReason
from schemas.drafts import Draft
from workers.router.language import guess
from workers.tier1 import prompts as tier1_prompts
from workers.tier2 import prompts as tier2_prompts

Gate = Callable[[Draft], bool]
"""True means: refuse this draft."""

_AS_AN_AI = re.compile(
    r"\bas an? (ai|artificial intelligence|language model)\b|\bi('m| am) (just )?an? (ai|language model)\b", re.I
)
_PLACEHOLDER = re.compile(
    # In square brackets, unless it is a Markdown link.
    r"\{\{?[\w .-]+\}?\}|\[(your|customer|agent|company|name|date|amount|insert)\b[^\]]*\](?!\()"
    r"|<(name|date|amount|your [^>]*)>|\bX{3,}\b",
    re.I,
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_LONG_NUMBER = re.compile(r"(?<![\w$.,])\+?\d(?:[ ()-]{0,2}\d){8,}(?!\w)|\b\d{3}\.\d{3}\.\d{4}\b")
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_ACTION_CLAIMED = re.compile(
    r"\b(i|we)('ve| have)( now| just| already| also)?( gone ahead and)? "
    r"(credited|refunded|waived|applied|issued|removed|cancell?ed|processed|upgraded|added|booked|moved)\b"
    r"|\b(i|we)( just| already| also)? (credited|refunded|waived)\b|\b(has|have) been (credited|refunded|waived)\b"
    r"|\b(i|we)( will|'ll)( also)? (credit|refund|waive|compensate)\b"
    r"|\bwe guarantee\b|\bi promise (you|that|to|we|a)\b",
    re.I,
)
_INJECTION = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,40}\b(instructions?|rules|prompt|guidelines)\b"
    r"|\bsystem (prompt|message|override)\b|^\s*(system|assistant|admin)\s*:|\byou are now\b|\bdeveloper mode\b",
    re.I | re.M,
)

OUR_PROMPTS = (tier1_prompts.SYSTEM, tier2_prompts.system(company="", knowledge=""))

LEAST_WORDS, LEAST_CHARS = 3, 24
"""An answer below both says nothing; characters, since several languages write no spaces (a guess)."""

ECHOED_WORDS = 8
"""So many of our own prompt's words in a row are no coincidence (a guess)."""


def empty(draft: Draft) -> bool:
    """A word or two answer nothing."""
    return len(draft.text.split()) < LEAST_WORDS and len(draft.text.strip()) < LEAST_CHARS


def truncated(draft: Draft) -> bool:
    """The model ran into its token limit."""
    return draft.finish_reason == "length"


def refusal(draft: Draft) -> bool:
    """The model or its provider declined, or the answer speaks of itself as a machine."""
    return draft.finish_reason in ("refusal", "content_filter") or bool(_AS_AN_AI.search(_plain(draft.text)))


def placeholder(draft: Draft) -> bool:
    """A template's blank was left in."""
    return bool(_PLACEHOLDER.search(draft.text))


def wrong_language(draft: Draft) -> bool:
    """The answer is in another language than the ticket; unsure means no objection."""
    ticket = draft.routed.ticket
    wanted = re.split("[-_]", ticket.language)[0].lower() or guess(ticket.body)
    written = guess(draft.text)
    return bool(wanted and written and wanted != written)


def personal_data(draft: Draft) -> bool:
    """An e-mail address or a long number (phone, card, account) that the ticket did not give."""
    given = _given(draft)
    addresses = (m[0].lower() not in given.lower() for m in _EMAIL.finditer(draft.text))
    digits = re.sub(r"\D", "", given)
    numbers = (re.sub(r"\D", "", m[0]) not in digits for m in _LONG_NUMBER.finditer(_DATE.sub("", draft.text)))
    return any(addresses) or any(numbers)


def unfounded_promise(draft: Draft) -> bool:
    """The answer claims that something was done, or will be granted: no model here can do or grant anything."""
    return bool(_ACTION_CLAIMED.search(_plain(draft.text)))


def injection_echo(draft: Draft) -> bool:
    """Our own prompt comes back in the answer; or tier-1, which can't tell, was given instructions in a ticket."""
    if draft.tier == "tier1" and _INJECTION.search(_given(draft)):
        return True
    answer = _words(draft.text)
    return any(_shares_a_run(answer, _words(prompt)) for prompt in OUR_PROMPTS)


GATES: dict[GateReason, Gate] = {
    GateReason.EMPTY: empty,
    GateReason.TRUNCATED: truncated,
    GateReason.REFUSAL: refusal,
    GateReason.PLACEHOLDER: placeholder,
    GateReason.WRONG_LANGUAGE: wrong_language,
    GateReason.PERSONAL_DATA: personal_data,
    GateReason.UNFOUNDED_PROMISE: unfounded_promise,
    GateReason.INJECTION_ECHO: injection_echo,
}


def failed_gates(draft: Draft) -> tuple[GateReason, ...]:
    """Every gate that refuses the draft, in the order of the table."""
    return tuple(reason for reason, gate in GATES.items() if gate(draft))


def _given(draft: Draft) -> str:
    ticket = draft.routed.ticket
    return "\n".join((ticket.subject, ticket.body, *ticket.context, *(m.body for m in ticket.thread)))


def _plain(text: str) -> str:
    """Models write typographic apostrophes as often as plain ones."""
    return text.replace("\u2019", "'")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _shares_a_run(answer: list[str], prompt: list[str]) -> bool:
    runs = {tuple(prompt[i : i + ECHOED_WORDS]) for i in range(len(prompt) - ECHOED_WORDS + 1)}
    return any(tuple(answer[i : i + ECHOED_WORDS]) in runs for i in range(len(answer) - ECHOED_WORDS + 1))
