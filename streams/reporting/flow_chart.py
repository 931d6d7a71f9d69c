"""The flow picture: bands from what was published, over the routes taken, to what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.reporting.charts import LINE, svg
from streams.reporting.markup import Markup, el, join

NODE_WIDTH = 8
LABEL_WIDTH = 142
"""Room for the longest name at the right."""
GAP = 2 * LINE + 4
"""Between nodes of a column: two lines of text, so that labels of thin nodes keep apart."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way through: its name, its colour's class, how many tickets came out by which end."""

    label: str
    colour: str
    ends: Mapping[str, int]

    @property
    def tickets(self) -> int:
        return sum(self.ends.values())


def flow(title: str, source: str, routes: Sequence[Route], ends: Mapping[str, str], width: float) -> Markup:
    """Three columns: `source`, the routes and the ends (colour class by name), as high as their tickets are many."""
    taken = [r for r in routes if r.tickets]
    reached = [(e, colour, sum(r.ends.get(e, 0) for r in taken)) for e, colour in ends.items()]
    reached = [end for end in reached if end[2]]
    tickets = sum(r.tickets for r in taken)
    scale = 220 / max(1, tickets)
    top = 22.0
    route_y = _column([r.tickets * scale for r in taken], top)
    end_y = _column([count * scale for _, _, count in reached], top)
    x2 = width - LABEL_WIDTH
    x1 = x2 * 0.36
    into = dict(zip((name for name, _, _ in reached), end_y, strict=True))
    bands, labels, left_y = [], [], top
    for route, y in zip(taken, route_y, strict=True):
        bands.append(_band(NODE_WIDTH, left_y, x1, y, route.tickets * scale, route.colour))
        left_y += route.tickets * scale
        out_y = y
        for name, count in ((n, c) for n, c in route.ends.items() if c):
            bands.append(_band(x1 + NODE_WIDTH, out_y, x2, into[name], count * scale, route.colour))
            out_y, into[name] = out_y + count * scale, into[name] + count * scale
        labels.append(_node(x1, y, route.tickets * scale, route.colour, route.label, route.tickets))
    for (name, colour, count), y in zip(reached, end_y, strict=True):
        labels.append(_node(x2, y, count * scale, colour, name, count))
    start = (el("text", source, x=0, y=12), el("rect", x=0, y=top, width=NODE_WIDTH, height=220, class_="ink"))
    height = max(top + 220, *(y + LINE * 2 for y in [*route_y, *end_y]), _bottom(route_y, taken, scale)) + 6
    return svg(title, width, height, [join(bands), *start, join(labels)])


def _bottom(starts: Sequence[float], routes: Sequence[Route], scale: float) -> float:
    return starts[-1] + routes[-1].tickets * scale if starts else 0.0


def _column(heights: Sequence[float], top: float) -> list[float]:
    """Where the nodes of a column begin: from the top down, with room for their labels."""
    starts, y = [], top
    for height in heights:
        starts.append(y)
        y += max(height + LINE, GAP)
    return starts


def _band(x1: float, y1: float, x2: float, y2: float, height: float, colour: str) -> Markup:
    middle = (x1 + x2) / 2
    path = (
        f"M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}v{height:.1f}"
        f"C{middle:.1f} {y2 + height:.1f} {middle:.1f} {y1 + height:.1f} {x1:.1f} {y1 + height:.1f}z"
    )
    return el("path", d=path, class_=f"band {colour}")


def _node(x: float, y: float, height: float, colour: str, label: str, count: int) -> Markup:
    """The node, and to its right its count and its name, one above the other."""
    line = y + min(max(height / 2 - 4, 11), 60)
    return join(
        [
            el("rect", x=x, y=y, width=NODE_WIDTH, height=max(1.0, height), class_=colour),
            el("text", str(count), x=x + NODE_WIDTH + 6, y=line, class_="strong halo"),
            el("text", label, x=x + NODE_WIDTH + 6, y=line + LINE, class_="halo"),
        ]
    )
