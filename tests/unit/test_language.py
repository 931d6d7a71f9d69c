"""The guess at a text's language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.router.language import FUNCTION_WORDS, READ_CHARS, SCRIPTS, UNDETERMINED, guess, guess_or_script


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
        ("zh", "我想取消我的合同。谢谢"),
        ("ja", "昨日からインターネットが使えません。助けてください"),
        ("ko", "어제부터 인터넷이 안 돼요"),
        ("el", "Καλησπέρα, δεν δουλεύει το ίντερνετ"),
        ("he", "שלום, האינטרנט לא עובד"),
        ("th", "สวัสดี อินเทอร์เน็ตใช้ไม่ได้"),
    ],
)
def test_a_plain_sentence_is_recognised(language: str, text: str) -> None:
    """One everyday sentence a language, accents or not; a script that writes one language tells it alone."""
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


@pytest.mark.parametrize(
    "text",
    [
        "Здравствуйте, интернет не работает",
        "مرحبا الإنترنت لا يعمل",
        "नमस्ते, मेरा इंटरनेट बंद है",
        "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8",
    ],
)
def test_a_script_of_many_languages_is_told_but_not_guessed(text: str) -> None:
    """Russian or Ukrainian, Arabic or Persian: naming one would refuse answers in the other."""
    assert guess_or_script(text) == UNDETERMINED
    assert guess(text) == ""


@pytest.mark.parametrize(
    "text", ["Tôi muốn hủy hợp đồng của tôi", "Zażółć gęślą jaźń", "order 你好", "5 µm ² ½", "\U0001f621"]
)
def test_latin_letters_with_marks_and_a_few_foreign_ones_are_no_other_script(text: str) -> None:
    """A majority decides, of letters only."""
    assert guess_or_script(text) == ""


def test_english_in_borrowed_letters_is_not_english() -> None:
    """Three Greek or Cyrillic vowels in most words, which a reader doesn't see; one such word changes nothing."""
    english = "my internet is down since yesterday, when will the technician be here?"
    for vowels in ("\u0430\u0435\u043e", "\u03b1\u03b5\u03bf"):
        assert guess_or_script(english.translate(str.maketrans("aeo", vowels))) not in {"", "en"}
    assert guess(english.replace("down", "d\u043ewn")) == "en"


def test_only_the_start_of_a_long_text_is_read() -> None:
    """A megabyte costs no more than a page."""
    assert guess("x" * READ_CHARS + "你好" * READ_CHARS) == ""
    assert guess("你好" * READ_CHARS + "x" * 9 * READ_CHARS) == "zh"


@given(st.text(max_size=300))
def test_any_text_gives_a_known_language_or_none(text: str) -> None:
    """No text breaks it."""
    assert guess(text) in {"", *FUNCTION_WORDS, *SCRIPTS.values()}
    assert guess_or_script(text) in {guess(text), UNDETERMINED}
