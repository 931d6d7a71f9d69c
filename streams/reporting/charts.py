"""The report's charts as SVG, from plain numbers. Colours are classes, which the page's style sheet fills.

Widths are in CSS pixels: text in a chart keeps its size only if the chart is
drawn for the width at which it is shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.reporting.markup import Markup, el, join

LINE = 16
"""Height of a line of chart text."""


@dataclass(frozen=True, slots=True)
class Part:
    """A share of something: its name, its colour's class, its size."""

    label: str
    colour: str
    value: float


@dataclass(frozen=True, slots=True)
class Stack:
    """A bar made of parts, with its name and its total in words."""

    label: str
    total: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that belong together: shares from 0 to 1, the first the main one. `note` stands at their end."""

    label: str
    note: str
    bars: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of single values in seconds, two of them marked."""

    label: str
    colour: str
    seconds: tuple[float, ...]
    marks: tuple[float, ...]


def svg(title: str, width: float, height: float, shapes: Sequence[str]) -> Markup:
    """A picture with a name for those who can't see it; the numbers stand in the page's tables."""
    return el(
        "svg",
        el("title", title),
        *shapes,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
    )


def _text(x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    return el("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


def _rect(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> Markup:
    hint = (el("title", title),) if title else ()
    return el("rect", *hint, x=x, y=y, width=max(0.0, width), height=height, class_=colour)


def stacks(title: str, rows: Sequence[Stack], width: float) -> Markup:
    """Stacked bars on one scale, each part named inside its bar where there is room."""
    most = max((sum(p.value for p in row.parts) for row in rows), default=0.0)
    bar, step = 34, 34 + LINE + 22
    shapes: list[str] = []
    for number, row in enumerate(rows):
        y = number * step
        shapes.append(el("text", el("tspan", row.label, class_="strong"), f"  {row.total}", x=0, y=y + 12))
        shapes.append(_stack(row, width / most if most else 0.0, y + LINE + 4, bar))
    return svg(title, width, len(rows) * step - 14, shapes)


def _stack(row: Stack, scale: float, y: float, height: float) -> Markup:
    shapes, x = [], 0.0
    for part in row.parts:
        size = part.value * scale
        shapes.append(_rect(x, y, size, height, part.colour, part.label))
        # About 7 pixels a letter: measured on the page's font, with some room to spare.
        if size > 7 * len(part.label) + 12:
            shapes.append(_text(x + 8, y + height / 2 + 4.5, part.label, "on-colour"))
        x += size
    return join(shapes)


def grouped_bars(title: str, groups: Sequence[Group], width: float, label_width: float = 96) -> Markup:
    """Shares side by side, a thick bar and thin ones below it, on an axis from none to all."""
    note_width, top, step = 10 + 7.5 * max((len(g.note) for g in groups), default=0), 20, 34
    span = width - label_width - note_width
    height = top + step * len(groups)
    shapes: list[str] = []
    for share in (0.0, 0.5, 1.0):
        x = label_width + share * span
        shapes.append(el("line", x1=x, x2=x, y1=top - 6, y2=height - 8, class_="grid"))
        shapes.append(_text(x, 10, f"{share:.0%}", "faint", "middle"))
    for number, group in enumerate(groups):
        y = top + number * step
        shapes.append(_text(0, y + 13, group.label))
        shapes.append(_text(width, y + 13, group.note, "number", "end"))
        for position, bar in enumerate(group.bars):
            offset, thick = (0, 10) if position == 0 else (6 + 6 * position, 4)
            shapes.append(_rect(label_width, y + offset, bar.value * span, thick, bar.colour, bar.label))
    return svg(title, width, height, shapes)


def counts(title: str, rows: Sequence[tuple[str, int]], colour: str, width: float) -> Markup:
    """A bar a row, its name above it and its count at its end."""
    most, step = max((count for _, count in rows), default=1), 42
    shapes: list[str] = []
    for number, (label, count) in enumerate(rows):
        y, size = number * step, count / most * (width - 40)
        shapes.append(_text(0, y + 12, label))
        shapes.append(_rect(0, y + 18, size, 12, colour))
        shapes.append(_text(size + 8, y + 29, str(count), "number"))
    return svg(title, width, step * len(rows) - 8, shapes)


def strips(title: str, rows: Sequence[Strip], width: float) -> Markup:
    """One thin line a value, on a common axis of seconds; marked values stand out."""
    most = max((s for row in rows for s in row.seconds), default=0.0) or 1.0
    tick = nice_step(most, 4 if width < 500 else 8)
    scale, step, height = (width - 12) / most, 58, 58 * len(rows)
    shapes: list[str] = []
    for number in range(int(most / tick) + 1):
        x = number * tick * scale + 1
        shapes.append(el("line", x1=x, x2=x, y1=0, y2=height, class_="grid"))
        shapes.append(_text(x, height + 14, f"{number * tick:g} s", "faint", "middle" if number else "start"))
    for number, row in enumerate(rows):
        y = number * step
        shapes.append(_text(4, y + 12, row.label, "halo"))
        lines = "".join(f"M{s * scale + 1:.1f} {y + 22}v18" for s in row.seconds)
        shapes.append(el("path", d=lines, class_=f"tick {row.colour}"))
        shapes += [_rect(m * scale - 0.5, y + 19, 3, 24, row.colour) for m in row.marks]
    return svg(title, width, height + 20, shapes)


def nice_step(most: float, steps: int) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that covers `most` in at most `steps` steps."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / steps))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * steps >= most * (1 - 1e-9))


def legend(bars: Mapping[str, str]) -> Markup:
    """Names in their colours, for where a name doesn't fit next to what it names: class by name."""
    return join(el("span", el("i", class_=colour), name, class_="key") for name, colour in bars.items())
