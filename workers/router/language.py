"""A guess at a text's language: most helpdesks name none. Pure, and silent when unsure.

By its script where that isn't Latin, else by its function words.
"""

import re
import unicodedata
from collections import Counter

_WORDS = {
    "en": """the and is are was were be been have has had do does did will would can could should i you he she we they
        it my your our their this that these there what when where why how not of to for with from if but or just any
        it's i'm don't can't""",
    "es": """el los las y es de en se lo está están son fue ser he ha han hay tengo puedo puede quiero yo usted
        nosotros mi sus este esta esto que cuando donde como mas qué cuándo cuánto dónde cómo por para con sin pero muy
        más ya también del al una un le les porque gracias hola hacer sí""",
    "fr": """de en se le les et est sont était être j'ai ai avez ont je vous nous il elle mon ma mes votre vos notre ce
        cette ces que qui quand où comment pourquoi pas ne du des au aux une un pour avec sans mais très plus dans sur
        chez si c'est n'est bonjour merci peux puis faire""",
    "de": """der die das den dem und ist sind war waren sein habe haben hat ich sie wir er es mein meine ihr ihre
        dieser diese was wann wo wie warum nicht kein keine von zu zum zur für mit ohne aber sehr mehr noch auch ein
        eine einen im am auf bei wenn dass bitte kann""",
    "pt": """o os as e é de se está estão são foi ser tenho tem há posso pode quero eu você nós meu minha seu sua este
        esta isto isso que quando onde como não nao do da dos das no na um uma ao por para com sem mas muito mais já
        também porque obrigado olá fazer""",
    "it": """il lo gli e se è sono era essere ho ha hanno c'è posso può voglio io lei noi mio mia suo questo questa che
        quando dove come perché non del della dei delle nel nella un una uno al alla per con senza ma molto più già
        anche di ciao grazie fare""",
}

FUNCTION_WORDS: dict[str, frozenset[str]] = {language: frozenset(words.split()) for language, words in _WORDS.items()}
"""Common words that carry grammar, not subject matter. Languages share some: what counts is the lead over the next."""

LEAST_HITS = 3
"""Fewer different function words than this say nothing (a guess: "as" or "me" is a word in several languages)."""

LEAST_LEAD = 1.5
"""The best language needs this many times the hits of the next: Spanish and Portuguese share half their words."""

READ_CHARS = 4_000
"""Of a longer text only the start is read: it says enough, and a megabyte would hold up the tickets behind it."""

SCRIPTS = {"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "GREEK": "el", "HEBREW": "he", "THAI": "th"}
"""Scripts, as Unicode names them, that write one language or nearly. Cyrillic, Arabic, Devanagari write many."""

UNDETERMINED = "und"
"""BCP 47's tag for a language that can't be told."""

LATIN = "LATIN"
LATIN_ENDS = 0x250
"""Letters below this code point are Latin; of those above it, the ones whose name says so (Vietnamese, say)."""

_LETTERS = re.compile(r"[^\W\d_]+")
_NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f]")
"""A letter at LATIN_ENDS or above it."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def guess(text: str) -> str:
    """The ISO 639-1 code of a text's language, or "" where it can't be told."""
    language = guess_or_script(text)
    return "" if language == UNDETERMINED else language


def guess_or_script(text: str) -> str:
    """As `guess`, but "und" for a text in a script that many languages share: some language, surely not a Latin one."""
    start = text[:READ_CHARS]
    return _by_script(start) or _by_words(start)


def _by_script(text: str) -> str:
    """The language of a text with more letters of other scripts than Latin ones; "" of any other text.

    Latin letters count in wholly Latin words only: English with a few Greek or Cyrillic letters in most of its words
    looks like English and is none to the encoder.
    """
    if _NOT_LATIN.search(text) is None:
        # As nearly all are: looking at each letter takes thirty times as long.
        return ""
    scripts: Counter[str] = Counter()
    latin = 0
    for word in _LETTERS.findall(text):
        others = [script for script in map(_script, word) if script != LATIN]
        scripts.update(others)
        latin += 0 if others else len(word)
    if scripts.total() <= latin:
        return ""
    if scripts["HIRAGANA"] or scripts["KATAKANA"]:
        # Japanese writes its nouns and verbs in Chinese characters, and nobody else writes kana.
        return "ja"
    return SCRIPTS.get(scripts.most_common(1)[0][0], UNDETERMINED)


def _script(letter: str) -> str:
    """The first word of a letter's Unicode name: LATIN, CYRILLIC, HANGUL."""
    return LATIN if ord(letter) < LATIN_ENDS else unicodedata.name(letter, "").partition(" ")[0]


def _by_words(text: str) -> str:
    words = set(_WORD.findall(text.lower().replace("\u2019", "'")))
    hits = {language: len(words & known) for language, known in FUNCTION_WORDS.items()}
    best, runner_up = sorted(hits, key=lambda language: hits[language], reverse=True)[:2]
    return best if hits[best] >= max(LEAST_HITS, LEAST_LEAD * hits[runner_up]) else ""
