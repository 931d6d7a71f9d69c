"""A guess at a text's language by its function words: most helpdesks name none. Pure, and silent when unsure."""

import re

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

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def guess(text: str) -> str:
    """The ISO 639-1 code of a text's language: en, es, fr, de, pt, it, or "" where it can't be told."""
    words = set(_WORD.findall(text.lower().replace("\u2019", "'")))
    hits = {language: len(words & known) for language, known in FUNCTION_WORDS.items()}
    best, runner_up = sorted(hits, key=lambda language: hits[language], reverse=True)[:2]
    return best if hits[best] >= max(LEAST_HITS, LEAST_LEAD * hits[runner_up]) else ""
