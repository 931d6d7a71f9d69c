"""The guess at a text's language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.router.language import FUNCTION_WORDS, guess


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "my internet is down since yesterday, when will it be fixed?"),
        ("es", "Hola, mi internet no funciona desde ayer. ¿Cuándo lo arreglan?"),
        ("es", "buenas, cuando me toca pagar y como cambio la fecha de la factura"),
        ("fr", "Je voudrais changer de forfait et je ne sais pas comment faire"),
        ("de", "Ich möchte meinen Vertrag kündigen, wie lange ist die Frist?"),
        ("pt", "Olá, a minha internet não funciona desde ontem, quando é que vão reparar?"),
        ("it", "Buongiorno, la mia connessione non funziona da ieri, quando sarà riparata? Grazie"),
    ],
)
def test_a_plain_sentence_is_recognised(language: str, text: str) -> None:
    """One everyday sentence a language, accents or not."""
    assert guess(text) == language


@pytest.mark.parametrize(
    "text", ["", "no wifi", "me da un error", "12345 ???", "hotspot included yes/no? data yes/no?"]
)
def test_too_little_to_go_by_is_no_guess(text: str) -> None:
    """A wrong guess costs a call to the expensive tier; none costs nothing."""
    assert guess(text) == ""


def test_typographic_apostrophes_count() -> None:
    """Phones write them."""
    assert guess("i\u2019m sure it\u2019s off and don\u2019t know") == "en"


@given(st.text(max_size=300))
def test_any_text_gives_a_known_language_or_none(text: str) -> None:
    """No text breaks it."""
    assert guess(text) in {"", *FUNCTION_WORDS}
