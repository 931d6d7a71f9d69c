"""HTML and SVG elements as text. Whatever is not already markup is escaped, so ticket text can't become any."""

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


VOID = frozenset({"meta", "br"})
"""Elements without an end tag, of those used here."""


def el(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element. In attribute names a trailing _ is dropped and _ reads -; None leaves the attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def join(parts: Iterable[str]) -> Markup:
    """Markup as it is and text escaped, one after the other."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p) for p in parts))


def _attribute(value: str | float) -> str:
    # A tenth of a pixel is finer than anyone sees; more digits would make half the page.
    return escape(value) if isinstance(value, str) else f"{round(value, 1):g}"
