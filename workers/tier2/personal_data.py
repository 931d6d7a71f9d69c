"""Where a text holds an e-mail address, a phone, card, bank account or customer account number.

It errs on the side of hiding: a placeholder costs the answer little. But dates,
amounts, measures, versions and SIM numbers are what answers are made of: they stay.
Not found: names, postal addresses, numbers in words, "ann at example dot com".
Each search takes time linear in the text's length: it stands between a customer and the provider.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import phonenumbers
from stdnum import iban, luhn

Kind = Literal["EMAIL", "IBAN", "CARD", "PHONE", "ACCOUNT"]


@dataclass(frozen=True, slots=True)
class Found:
    """A place in a text, `start` to `end`."""

    start: int
    end: int
    kind: Kind
    value: str
    """The same for all spellings of the same address or number."""


_TAKEN = "\0"
"""Stands in a text for each character that is settled: no pattern matches it."""

_SEPARATORS = re.compile(r"[^0-9A-Z]+")

# An address is looked for around its @: a pattern for the whole would begin at every letter of the text.
_LOCAL_PART = re.compile(r"\w[\w.%+'-]*\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,62})\.)+(?:xn--[\w-]{2,59}|[^\W\d_]{2,24})")
_LOCAL_PART_CHARS = 64
"""Source: RFC 5321, 4.5.3.1.1."""

_IBAN = re.compile(
    r"(?<!\w)[A-Z]{2}[0-9]{2}(?:[A-Z0-9]{11,30}(?!\w)|(?:[ -][A-Z0-9]{4}){2,7}(?:[ -][A-Z0-9]{1,3}(?!\w))?)", re.I
)
_GROUP_ENDS = re.compile(r"(?<=\w)(?!\w)")
_IBAN_CHARS = 15
"""Of the shortest one, Norway's."""

_DIGIT_RUN = re.compile(r"(?<!\w)(?<![0-9][.,])[0-9]+(?:[ -][0-9]+)*(?!\w)")
_GROUP = re.compile(r"[0-9]+")
_CARD_DIGITS = range(13, 20)
"""Source: ISO/IEC 7812-1 with the networks in use; the shortest still issued have 13."""

_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12][0-9]|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)[0-9]{2}"
_KEPT = re.compile(
    rf"""
      (?<![\w/.-]) (?:
          {_YEAR} ([-/.]) {_MONTH} \1 {_DAY}                        # 2026-11-25
        | {_DAY} ([-/.]) {_DAY} \2 (?:{_YEAR}|[0-9]{{2}})           # 03/04/2026, 25.11.26
      ) (?= T[0-9]{{2}}: | (?! \w | [-/.][0-9] ))
    | (?<![\w-]) {_YEAR} (?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]) | \ ?[-/]\ ?{_YEAR}) (?! \w | [-/][0-9])
    | [0-2]?[0-9] : [0-5][0-9] (?: :[0-5][0-9] )? (?!\w)            # 10:30:00
    | [$€£¥] \ ? [0-9]+ (?:[.,'][0-9]+)* (?![\w-])                  # $1,054.20
    | (?<![\w.,-]) [0-9]+ (?:[.,'][0-9]+)* \ ? (?: [%€£¥] | (?:USD|EUR|GBP|dollars?|euros?|[kMG]bps|[kMGT]B)\b )
    | (?<![\w.]) v?[0-9]+ (?:\.[0-9]+){{2,3}} (?! \w | \.[0-9])     # version 10.2.1
    | (?<![\w-]) 89[0-9]{{16,18}} (?![\w-])                         # a SIM card's number (ITU-T E.118)
    | (?<= \b[A-Z]{{2}}\ ) [0-9]{{5}}-[0-9]{{4}} (?![\w-])          # CA 94105-1234
    """,
    re.X,
)

_PHONE = re.compile(r"(?<![\w.,])(?:\+|00)?[ ]?\(?[0-9][0-9 ()./-]{5,24}[0-9](?!\w)")
_PHONE_DIGITS = range(7, 16)
"""Source: E.164 for the most; no country's whole numbers are shorter."""
_PHONE_WORD = re.compile(
    r"\b(?:tele?(?:phone|fon|fono|phon)?|phone|mobile?|cell|fax|whatsapp|handy|rufnummer)"
    r"\b(?:[ ](?:number|no|nr))?[ .:#]{0,3}(?:is[ ])?(?P<number>[0-9(][0-9 ()./-]{5,20}[0-9])(?!\w)",
    re.I,
)

# A word with eight digits or more among its letters and hyphens. The bounds keep the look-ahead short.
_LONG_NUMBER = re.compile(r"(?<!\w)(?<![0-9][.,])(?=(?:[A-Z-]{0,6}[0-9]){8})[A-Z0-9][A-Z0-9-]{7,40}(?!\w)", re.I)
_LONG_DIGITS = 8
_LONGEST_GROUP_DIGITS = 4
_NAMED_NUMBER = re.compile(
    r"(?:\#|№|n[º°]|\b(?:(?:account|acct|a/c|customer|client|contract|member(?:ship)?|policy|reference|ref|order|invoice"
    r"|booking|card|case|meter|passport|iban|sort[ ]code|cuenta|cliente|contrato|pedido|factura|compte|contrat|commande"
    r"|facture|konto|kunden|vertrags?|bestell|rechnungs?|conta|fatura|conto|ordine|fattura)"
    r"(?:[ -]?(?:number|numero|número|numéro|nummer|num|no|nr|id|code))?|number|numero|número|numéro|no|nr)"
    r"(?![^\W\d_]))"
    r"(?:\.?[ ]?[:#=]?[ ]?)(?:is[ ]|ist[ ]|es[ ]|est[ ])?[:#]?"
    r"(?P<number>[A-Z]{0,4}[ -]?[0-9](?:[ -]?[0-9]){5,33})(?!\w)",
    re.I,
)
"""Six digits are enough after a word that names them; order numbers too: a purchase points to its buyer."""


def find(text: str, region: str) -> list[Found]:
    """All of it, in the text's order, nothing twice. `region` is the country of phone numbers without a prefix."""
    if "@" not in text and "\uff20" not in text and not _may_hold_a_number(text):
        return []
    plain, offsets = _plain(text)
    found: list[Found] = []
    for search in (_emails, _ibans, _cards):
        plain = _take(plain, search(plain), found)
    plain = _KEPT.sub(lambda match: _TAKEN * len(match[0]), plain)
    plain = _take(plain, _phones(plain, region), found)
    for search in (_named_numbers, _long_numbers, _grouped_numbers):
        plain = _take(plain, search(plain), found)
    found.sort(key=lambda f: f.start)
    return [Found(offsets[f.start], offsets[f.end - 1] + 1, f.kind, f.value) for f in found]


def _may_hold_a_number(text: str) -> bool:
    """Whether there are six digits at all."""
    return sum(map(text.count, "0123456789")) >= 6 or not text.isascii()


def _take(plain: str, places: Iterator[Found], found: list[Found]) -> str:
    """Add the places to `found`; the text without them."""
    parts, done = [], 0
    for place in places:
        found.append(place)
        parts += [plain[done : place.start], _TAKEN * (place.end - place.start)]
        done = place.end
    return "".join([*parts, plain[done:]])


# -- what a reader sees -------------------------------------------------------------------------------------------


def _plain(text: str) -> tuple[str, "range | list[int]"]:
    """The text as a reader sees it: ASCII digits, hyphens and blanks, nothing invisible; and where each character
    stood."""
    if text.isascii():
        return text.replace(_TAKEN, " ").replace("\t", " "), range(len(text))
    chars = [(_char(c), i) for i, c in enumerate(text)]
    return "".join(c for c, _ in chars), [i for c, i in chars if c]


@lru_cache(maxsize=4096)
def _char(char: str) -> str:
    """One character or none."""
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me"):
        return ""
    if category == "Nd":
        return str(unicodedata.digit(char))
    if category == "Pd" or char == "\u2212":
        return "-"
    if category == "Zs" or char in (_TAKEN, "\t"):
        return " "
    same = unicodedata.normalize("NFKC", char)
    return same if len(same) == 1 else char


# -- the searches -------------------------------------------------------------------------------------------------


def _emails(plain: str) -> Iterator[Found]:
    done = 0
    at = plain.find("@")
    while at >= 0:
        domain = _DOMAIN.match(plain, at + 1)
        local = _LOCAL_PART.search(plain, max(done, at - _LOCAL_PART_CHARS), at)
        if domain and local:
            done = domain.end()
            yield Found(local.start(), done, "EMAIL", plain[local.start() : done].lower())
        at = plain.find("@", at + 1)


def _ibans(plain: str) -> Iterator[Found]:
    done = 0
    for match in _IBAN.finditer(plain):
        # "DE89 3704 0044 0532 0130 00 then" goes on as an IBAN could: the longest that is one counts.
        for cut in reversed([m.end() for m in _GROUP_ENDS.finditer(plain, match.start(), match.end() + 1)]):
            number = _compact(plain[match.start() : cut])
            if match.start() >= done and len(number) >= _IBAN_CHARS and iban.is_valid(number, check_country=False):
                done = cut
                yield Found(match.start(), done, "IBAN", number)
                break


def _cards(plain: str) -> Iterator[Found]:
    for run in _DIGIT_RUN.finditer(plain):
        if sum(map(str.isdigit, run[0])) < _CARD_DIGITS.start:
            continue
        groups = list(_GROUP.finditer(plain, run.start(), run.end()))
        first = 0
        while first < len(groups):
            last = _card_end(groups, first)
            if last is None:
                first += 1
                continue
            start, end = groups[first].start(), groups[last].end()
            yield Found(start, end, "CARD", _compact(plain[start:end]))
            first = last + 1


def _card_end(groups: list[re.Match[str]], first: int) -> int | None:
    """The last of the groups that make a card number from `first` on; an expiry date may follow."""
    number = ""
    for last in range(first, min(first + _CARD_DIGITS.stop, len(groups))):
        number += groups[last][0]
        if len(number) >= _CARD_DIGITS.stop:
            return None
        if len(number) in _CARD_DIGITS and number[0] in "23456" and luhn.is_valid(number):
            return last
    return None


def _phones(plain: str, region: str) -> Iterator[Found]:
    for match in _PHONE.finditer(plain):
        if sum(map(str.isdigit, match[0])) not in _PHONE_DIGITS and " " not in match[0]:
            continue
        for phone in phonenumbers.PhoneNumberMatcher(match[0], region, max_tries=3):
            number = phonenumbers.format_number(phone.number, phonenumbers.PhoneNumberFormat.E164)
            yield Found(match.start() + phone.start, match.start() + phone.end, "PHONE", number)


def _named_numbers(plain: str) -> Iterator[Found]:
    named: list[tuple[re.Match[str], Kind]] = [(m, "PHONE") for m in _PHONE_WORD.finditer(plain)]
    named += [(m, "ACCOUNT") for m in _NAMED_NUMBER.finditer(plain)]
    done = 0
    for match, kind in sorted(named, key=lambda pair: pair[0].start("number")):
        start, end = match.span("number")
        start += len(match["number"]) - len(match["number"].lstrip())
        if start >= done:
            done = end
            yield Found(start, end, kind, _compact(plain[start:end]))


def _long_numbers(plain: str) -> Iterator[Found]:
    for match in _LONG_NUMBER.finditer(plain):
        yield Found(match.start(), match.end(), "ACCOUNT", _compact(match[0]))


def _grouped_numbers(plain: str) -> Iterator[Found]:
    for match in _DIGIT_RUN.finditer(plain):
        groups = [len(group) for group in _GROUP.findall(match[0])]
        # A list of quantities has shorter groups.
        if sum(groups) >= _LONG_DIGITS and max(groups) >= _LONGEST_GROUP_DIGITS:
            yield Found(match.start(), match.end(), "ACCOUNT", _compact(match[0]))


def _compact(number: str) -> str:
    return _SEPARATORS.sub("", number.upper())
