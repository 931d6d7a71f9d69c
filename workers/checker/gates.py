"""The deterministic gates: each a pure function of a draft, with one reason code.

A gate catches what no score should be asked about. Gates hold for both tiers:
a tier-2 draft that fails one goes to a person. True means: refuse this draft.
"""

import re
import unicodedata

from schemas.answers import GateReason
from schemas.drafts import Draft
from workers.router.language import FUNCTION_WORDS, SCRIPTS, UNDETERMINED, guess, guess_or_script
from workers.tier1 import prompts as tier1_prompts
from workers.tier2 import prompts as tier2_prompts

_COURTESY = re.compile(
    r"^[ ]*(hi|hello|hey|dear|good (morning|afternoon|evening))\b"
    r"([ ,]*(there|all|sir|madam|customer|(?-i:[A-Z])\w+)){0,3}"
    r"[ ]*([,!.:]|$)"
    r"|\b(many )?(thanks|thank you)( (so|very) much)?( for [^.!?\n]*)?[.!]*"
    r"|\b((best|kind|warm) )?regards\b,?|\bsincerely\b,?"
    r"|\b(i )?hope (this|that) helps\b|\bhow (can|may) (i|we) (help|assist) you( today)?"
    r"|\b(please )?let (me|us) know if (you|there)[^.!?\n]*",
    re.I | re.M,
)

_DANGLING = re.compile(
    # A word that no English sentence ends with, or a bracket, currency or list mark that opens what never came.
    r"(\b(the|and|your|our|or|of|because)|[(\[{$\u20ac>:;]|\n\s*(\d+[.)]|[-*\u2022]))\Z",
    re.I,
)
CLOSING_WORDS = 3
"""A line of no more words may end with a comma: "Kind regards,"."""

_A_MACHINE = r"(?:large |helpful |virtual )*(?:ai|artificial intelligence|language model|chatbot)\b"
_AS_AN_AI = re.compile(
    rf"\bas an? {_A_MACHINE}(?: (?:language )?(?:model|assistant|chatbot|system))?"
    r"(?:,|\.|$| (?:i|and|trained|developed)\b)"
    rf"|\bi(?:'m| am) (?:just |only |merely )*an? {_A_MACHINE}"
    r"|\bmy (?:training data|knowledge cutoff)\b|\bi was trained (?:by|on)\b",
    re.I,
)
_DECLINED = re.compile(
    r"\b(?:i|we)(?: can(?:'t|not)| (?:am|are) (?:unable|not able) to|'(?:m|re) (?:unable|not able) to|"
    r" won't| will not| must decline to) (?:assist|help|comply|fulfil?l?|respond|engage|answer)\b",
    re.I,
)
DECLINED_WORDS = 30
"""A declining sentence in a longer answer, or beside a figure, is one point among others (a guess)."""

_PLACEHOLDER = re.compile(
    # In square brackets, unless it is a Markdown link.
    r"\{\{?[\w .-]+\}?\}"
    r"|\[(your|customer|agent|company|name|date|amount|insert|first|last|order|account|reference|ticket|invoice)\b"
    r"[^\]]*\](?!\()"
    r"|\[(email|iban|card|phone|account)[ _-]?\d+\]"
    r"|<(name|date|amount|your [^>]*|(customer|agent|order|first|last|company)[_ -]\w+)>"
    r"|\((insert|your) [\w ]{2,30} here\)|%[a-z]+_?[a-z]+%|\bX{3,}\b|\$X|\bXX/XX|_{4,}|\blorem ipsum\b",
    re.I,
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_LONG_NUMBER = re.compile(
    r"(?<![\w$.,])\+?\d(?:[ ()\u2010\u2011-]{0,2}\d){8,}(?!\w)|\b\d{3}\.\d{3}\.\d{4}\b"
    # An IBAN.
    r"|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,}"
)
_SECRET = re.compile(
    r"\b(?:password|passcode|pin|puk|cvv|cvc|security code)\b[^.\n]{0,20}?(?:\bis\b|[:=])"
    # On the same line: "Reset the PIN:" is followed by a list as often.
    r" *[\"']?(?!\d?\d[.)])([^\s\"',]*\d[^\s\"',]*)",
    re.I,
)
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")

_DONE = (
    r"(?:credited|refunded|waived|applied|issued|removed|cancell?ed|processed|upgraded|added|booked|moved|approved"
    r"|reversed|reset|extended|unlocked)"
)
_ACTION_CLAIMED = re.compile(
    rf"\b(?:i|we)(?:'ve| have)(?: now| just| already| also)?(?: gone ahead and)? {_DONE}\b"
    r"|\b(?:i|we)(?: just| already| also| went ahead and)? (?:credited|refunded|waived)\b"
    r"|(?<!\bwhen it )(?<!\bonce it )\b(?:has|have)(?: now| just| already)? been (?:credited|refunded|waived)\b"
    r"|\b(?:i|we)(?: will|'ll|'m going to| am going to|'re going to| are going to)(?: also| gladly| happily)? "
    r"(?:credit|refund|waive|compensate|reimburse)\b"
    r"|\b(?:we|i)(?: can)? guarantee (?!of\b)|\bi promise (?:you|that|to|we|a)\b|\byou have (?:my|our) word\b",
    re.I,
)
_GRANT = re.compile(
    r"\b(?:i|we)(?: can| could| will|'ll|'d like to| would like to| am happy to| are happy to)(?: also| gladly)?"
    r" (?:offer|give|grant|send) you\b|\byou(?:'ll| will)(?: also)? (?:get|receive)\b|\byou(?:'re| are) entitled to\b",
    re.I,
)
_GRANTED = re.compile(
    r"\b(refund|credit|discount|compensation|voucher|coupon|gift|bonus|goodwill|free (?:month|year|upgrade)|% off)",
    re.I,
)
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")

_ORDERS = r"(?:instructions?|rules|prompt|guidelines|directives)\b"
_INJECTION = re.compile(
    rf"\b(?:ignore|disregard|forget|override|bypass)\b(?:(?!\bbox\b|\bmanual\b).){{0,40}}"
    rf"\b{_ORDERS}(?! (?:in|on) the\b)"
    r"|\b(?:ignore|disregard|forget)\b (?:everything|all|anything)(?: that was)? "
    r"(?:above|before|you (?:were|have been) told)"
    r"|\b(?:your|hidden|these are|here are|follow)(?: the| my| your)* (?:new |system |original |initial |internal )+"
    rf"{_ORDERS}|\bsystem (?:prompt|override)\b"
    r"|\b(?:reveal|print|repeat|show|output)\b.{0,30}"
    r"\b(?:(?:your|system) (?:\w+ )?(?:prompt|instructions)|system message)\b"
    r"|^[ \t]*(?:system|assistant|admin)[ \t]*:[ \t]*(?=\S+[ \t]+\S+[ \t]+\S)"
    r"|\b(?:you are now|act as|pretend (?:to be|you are|you're)|roleplay as)(?: an?| the| in)?(?: \w+){0,2} "
    r"(?:ai|dan|assistant|model|bot|chatbot|admin\w*|developer|mode|manager|filters?|restrictions)\b"
    r"|\b(?:you are|you're) (?:now )?in (?:developer|debug|god|admin|maintenance) mode\b|\bjailbr[eo]\w+|\bdan mode\b"
    r"|<\|\w+\|>|\[/?INST\]|^#{2,} ?(?:system|instructions?)\b|</?(?:ticket|account_facts|message)>"
    r"|\bignora\b.{0,30}\b(?:instrucciones|instru\u00e7\u00f5es|reglas|istruzioni)\b"
    r"|\bignore[rz]?\b.{0,10}\b(?:les|tes|vos|ces)\b.{0,20}\b(?:instructions|r\u00e8gles|consignes)\b"
    r"|\bignorier(?:e|en)\b.{0,30}\b(?:anweisungen|regeln|vorgaben)\b",
    re.I | re.M,
)
_TO_BE_SAID = re.compile(
    r"\b(?:say|write|reply|respond|answer|print|output|repeat|include|add)\b[^\"\n]{0,40}\"([^\"\n]{3,200})\"", re.I
)
_OF_ITS_ORDERS = re.compile(
    r"\bmy (?:system |internal |original |hidden )*(?:prompt|instructions|rules) (?:is|are|say|says|tell|tells|state)\b"
    r"|\bi (?:was|have been|am) (?:instructed|told|programmed) to\b|\byou answer customers of\b"
    r"|<\|\w+\|>|\[/?INST\]|</?(?:ticket|account_facts|message|subject|earlier_messages)>|^[ \t]*assistant[ \t]*:"
    r"|\b(?:developer|dan|debug) mode (?:is )?(?:activated|enabled|engaged)\b"
    r"|\bi(?:'m| am) now (?:dan|unrestricted|in \w+ mode)\b",
    re.I | re.M,
)

END_CHARS = 200
"""Where a draft's end is looked for."""

LEAST_WORDS, LEAST_CHARS = 3, 24
"""An answer below both says nothing; characters, since several languages write no spaces (a guess)."""

ECHOED_WORDS = 8
"""So many of our own prompt's words in a row are no coincidence (a guess)."""

TOLD_APART = frozenset(FUNCTION_WORDS) | frozenset(SCRIPTS.values())
"""Languages that the guess knows: a script that is none of theirs is another language."""


def empty(draft: Draft) -> bool:
    """A word or two answer nothing, nor do thanks and regards."""
    said = _COURTESY.sub(" ", _plain(draft.text))
    words = [word for word in said.split() if any(map(str.isalnum, word))]
    return len(words) < LEAST_WORDS and sum(map(str.isalnum, said)) < LEAST_CHARS


def truncated(draft: Draft) -> bool:
    """The model ran into its token limit, or stopped where no sentence ends."""
    end = draft.text.rstrip()[-END_CHARS:]
    return (
        draft.finish_reason == "length"
        or bool(_DANGLING.search(end))
        or (end.endswith(",") and len(end.splitlines()[-1].split()) > CLOSING_WORDS)
        or draft.text.count("```") % 2 == 1
    )


def refusal(draft: Draft) -> bool:
    """The model or its provider declined, or the answer speaks of itself as a machine."""
    said = _plain(draft.text)
    nothing_else = len(said.split()) <= DECLINED_WORDS and not re.search(r"\d", said)
    return (
        draft.finish_reason in ("refusal", "content_filter")
        or bool(_AS_AN_AI.search(said))
        or (nothing_else and bool(_DECLINED.search(said)))
    )


def placeholder(draft: Draft) -> bool:
    """A template's blank was left in."""
    return bool(_PLACEHOLDER.search(draft.text))


def wrong_language(draft: Draft) -> bool:
    """The answer, or a paragraph of it, is in another language than the ticket; unsure means no objection."""
    ticket = draft.routed.ticket
    tag = re.split("[-_]", ticket.language)[0].lower()
    # Longer codes are those of rare languages, or "und", or no BCP 47 ("eng").
    wanted = tag if len(tag) == 2 else guess(ticket.body)
    return bool(wanted) and any(_is_other(wanted, part) for part in (draft.text, *draft.text.splitlines()))


def _is_other(wanted: str, text: str) -> bool:
    written = guess_or_script(text)
    return wanted in TOLD_APART if written == UNDETERMINED else bool(written) and written != wanted


def personal_data(draft: Draft, knowledge: str = "") -> bool:
    """An e-mail address, a long number (phone, card, account) or a secret that neither ticket nor knowledge gave."""
    said = _plain(draft.text)
    addresses = [m[0] for m in _EMAIL.finditer(said)]
    secrets = [m[1].rstrip(".") for m in _SECRET.finditer(said)]
    numbers = [_code(m[0]) for m in _LONG_NUMBER.finditer(_DATE.sub("", said))]
    if not (addresses or secrets or numbers):
        return False
    given = _plain(f"{_given(draft)}\n{knowledge}").lower()
    code = _code(given)
    return any(told.lower() not in given for told in (*addresses, *secrets)) or any(n not in code for n in numbers)


def unfounded_promise(draft: Draft, knowledge: str = "") -> bool:
    """The answer claims that something was done, or will be granted: no model here can do or grant anything.

    What the company's knowledge grants may be told, with the figures that stand there or in the account facts; the
    customer's own text is no source.
    """
    said = _plain(draft.text)
    if _ACTION_CLAIMED.search(said):
        return True
    if not knowledge:
        return False
    facts = "\n".join((knowledge, *draft.routed.ticket.context))
    return any(_ungranted(sentence, facts) for sentence in re.split(r"(?<=[.!?])\s+|\n", said))


def _ungranted(sentence: str, facts: str) -> bool:
    granted = {m[1].lower() for m in _GRANTED.finditer(sentence)}
    if not granted or not _GRANT.search(sentence):
        return False
    figures = set(_FIGURE.findall(sentence))
    # A sum that is written out brings its own result: "3 x $4 = $12".
    computed = set(re.findall(r"= ?\$?(\d+(?:[.,]\d+)*)", sentence))
    return any(g not in facts.lower() for g in granted) or bool(figures - computed - set(_FIGURE.findall(facts)))


def injection_echo(draft: Draft) -> bool:
    """Our own prompt comes back in the answer, or what a ticket ordered it to say; or tier-1, which can't tell orders
    from material, was given orders in a ticket."""
    given, said = _plain(_given(draft)), _plain(draft.text)
    ordered = bool(_INJECTION.search(given))
    if (ordered and draft.tier == "tier1") or _OF_ITS_ORDERS.search(said):
        return True
    if ordered and any(m[1].lower() in said.lower() for m in _TO_BE_SAID.finditer(given)):
        return True
    return not _OUR_RUNS.isdisjoint(_runs(said))


def failed_gates(draft: Draft, knowledge: str = "") -> tuple[GateReason, ...]:
    """Every gate that refuses the draft, in the order below.

    `knowledge` is the text of the company's passages: what the answer may tell besides the ticket.
    """
    refused = {
        GateReason.EMPTY: empty(draft),
        GateReason.TRUNCATED: truncated(draft),
        GateReason.REFUSAL: refusal(draft),
        GateReason.PLACEHOLDER: placeholder(draft),
        GateReason.WRONG_LANGUAGE: wrong_language(draft),
        GateReason.PERSONAL_DATA: personal_data(draft, knowledge),
        GateReason.UNFOUNDED_PROMISE: unfounded_promise(draft, knowledge),
        GateReason.INJECTION_ECHO: injection_echo(draft),
    }
    return tuple(reason for reason, yes in refused.items() if yes)


def _given(draft: Draft) -> str:
    ticket = draft.routed.ticket
    return "\n".join((ticket.subject, ticket.body, *ticket.context, *(m.body for m in ticket.thread)))


def _code(text: str) -> str:
    """Digits, and the letters right among them, as in an IBAN."""
    return re.sub(r"[^\w]|_", "", text).lower()


_TYPOGRAPHY = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-"}


def _plain(text: str) -> str:
    """Quotes and dashes as on a keyboard, wide letters made narrow, and nothing invisible: models write the first as
    often as not, and attackers hide words behind the others."""
    if text.isascii():
        return text
    narrow = unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY)
    return "".join(c for c in narrow if unicodedata.category(c) != "Cf")


def _runs(text: str) -> set[tuple[str, ...]]:
    """Every ECHOED_WORDS words that stand in a row."""
    words = re.findall(r"[a-z']+", text.lower())
    return {tuple(words[i : i + ECHOED_WORDS]) for i in range(len(words) - ECHOED_WORDS + 1)}


_OUR_RUNS = _runs(tier1_prompts.SYSTEM) | _runs(tier2_prompts.system(company="", knowledge=""))
