"""What a report's page is made of: one self-contained HTML document, no script, nothing loaded from anywhere.

Every chart has its numbers in a table behind it, and is drawn twice: for a
desktop's width and for a phone's, of which the style sheet shows one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from streams.reporting.markup import Markup, el

WIDE, NARROW = 720, 328
"""Pixels: the page's column on a desktop, and on a phone 360 wide."""

STYLE = Path(__file__).with_name("page.css")


def document(title: str, body: Markup) -> str:
    """The page as text, to be written as UTF-8."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        # Ours, and no ticket text in it: a style element's text must not be escaped.
        el("style", Markup(STYLE.read_text("utf-8"))),
    )
    return f"<!doctype html>\n{el('html', head, el('body', body), lang='en')}\n"


def figure(name: str, value: str | None, note: str) -> Markup:
    """A box with one figure, for a list of them."""
    shown = el("dd", value, class_="value") if value else el("dd", "not measured in this run", class_="value none")
    return el("div", el("dt", name), shown, el("dd", note, class_="note"))


def chart(caption: str | Markup, draw: Callable[[float], Markup], table: Markup) -> Markup:
    """A chart, drawn for a width in pixels, over its table."""
    return el(
        "figure",
        el("figcaption", caption) if caption else "",
        el("div", draw(WIDE), class_="wide"),
        el("div", draw(NARROW), class_="narrow"),
        el("details", el("summary", "The numbers"), table, class_="data"),
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Rows whose first cell is their name."""
    head = el("thead", el("tr", *(el("th", c, scope="col") for c in columns)))
    body = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    return el("div", el("table", head, el("tbody", *body)), class_="scroll")


def section(title: str, text: str, *content: Markup) -> Markup:
    """A heading, a sentence or two, and what follows."""
    return el("section", el("h2", title), el("p", text), *content)
