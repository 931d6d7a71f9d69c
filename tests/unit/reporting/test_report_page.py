"""streams/reporting/page.py and what it is made of: one safe, self-contained, honest page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from schemas.tickets import TicketId
from streams.reporting.charts import nice_step
from streams.reporting.markup import Markup, el, join
from streams.reporting.page import page
from streams.reporting.report import Baseline, Made

HOSTILE = "</blockquote><script>alert(1)</script><img src=x onerror=alert(1)> & \"quoted\" 'too'"


class Structure(HTMLParser):
    """The elements of a page, and whether each is closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]


def test_every_element_is_closed_in_its_turn(a_run):
    """A page that browsers needn't guess at."""
    assert Structure(page(a_run)).open == []


def test_ticket_text_never_becomes_markup(fernway, make, report_of, meta):
    """Subject, body, context, draft, answer, ids and reasons are a stranger's words."""
    example = replace(
        fernway[0], ticket_id=HOSTILE, subject=HOSTILE, body=HOSTILE, context=(HOSTILE,), category=HOSTILE
    )
    tries = [make.attempt(text=HOSTILE, reason=HOSTILE)]
    hostile_meta = replace(meta, company=HOSTILE, command=HOSTILE, real=(HOSTILE,), recorded=(HOSTILE,))
    html = page(report_of([example], [make.answer(HOSTILE, "tier2", HOSTILE, tries)], meta=hostile_meta))
    structure = Structure(html)
    assert structure.open == []
    assert not structure.named("script")
    assert not structure.named("img")
    assert not any(name.startswith("on") for _, attributes in structure.seen for name in attributes)
    assert structure.text.count(HOSTILE) >= 5


def test_the_page_loads_nothing(a_run):
    """It is opened from a folder, perhaps offline, perhaps years later."""
    html = page(a_run)
    assert not re.search(r"""\b(?:src|href)=|url\(|@import|https?:""", html)


def test_every_chart_has_a_name_and_its_numbers_in_a_table(a_run):
    """For those who can't see it."""
    structure = Structure(page(a_run))
    charts = structure.named("svg")
    assert len(charts) == 12
    assert all(c["role"] == "img" and c["aria-label"] for c in charts)
    assert len(structure.named("figure")) == len(structure.named("table")) == 5


def test_every_chart_is_drawn_for_a_phone_too(a_run):
    """Text in a chart that is only scaled down can't be read."""
    widths = [c["width"] for c in Structure(page(a_run)).named("svg")]
    assert widths.count("720") == widths.count("328") == 6


def test_what_was_not_measured_is_said(fernway, make, report_of):
    """No bar, no figure, and no invented 0%."""
    published = fernway[:3]
    html = page(report_of(published, [make.answer(e.ticket_id, text=e.reference) for e in published]))
    assert html.count("not measured in this run") >= 3
    assert "tier-1 alone: 0 of" not in html


def test_a_lost_ticket_is_shown_first(fernway, make, report_of):
    """It must never happen; if it does, nobody may miss it."""
    published = fernway[:3]
    html = page(report_of(published, [make.answer(e.ticket_id, text=e.reference) for e in published[:2]]))
    assert 'class="alarm">1 ticket neither answered, nor handed off, nor given up' in html
    rows = re.findall(r'<summary class="row"><code>(.*?)</code>', html)
    assert rows[0] == published[2].ticket_id


def test_a_bad_answer_is_shown_with_its_faults_and_what_was_right(fernway, make, report_of):
    """The reader can judge the rubric, too."""
    example = next(e for e in fernway if e.kind == "routine")
    text = "".join(Structure(page(report_of([example], [make.answer(example.ticket_id, text=example.wrong[0])]))).text)
    assert example.wrong[0] in text
    assert example.reference in text
    assert re.search(r"does not say: |must not say: |made up: ", text)


def test_real_and_recorded_are_told_apart(a_run):
    """The first question of anyone who reads such figures."""
    text = "\n".join(Structure(page(a_run)).text)
    assert text.index("What is real and what is recorded") < text.index(a_run.meta.recorded[0])
    assert all(item in text for item in (*a_run.meta.real, *a_run.meta.recorded))


@pytest.mark.parametrize("tickets", [0, 1])
def test_a_tiny_run_has_a_page(fernway, make, report_of, tickets):
    """Also one in which everything cost nothing and took no time."""
    published = fernway[:tickets]
    answers = [make.answer(e.ticket_id, text=e.reference, seconds=0.0) for e in published]
    baseline = Baseline({}, {TicketId(e.ticket_id): Made("", 0.0) for e in published})
    html = page(report_of(published, answers, baseline=baseline))
    assert Structure(html).open == []
    assert "nan" not in html.lower().replace("nano", "")


def test_an_element_escapes_all_but_markup():
    """Text and attribute values; markup made by us goes in as it is."""
    assert el("p", "<b>", el("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert el("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert join(["<", Markup("<br>")]) == "&lt;<br>"
    assert el("rect", x=1 / 3, class_="a", text_anchor=None) == '<rect x="0.3" class="a"></rect>'


@pytest.mark.parametrize(("most", "step"), [(6.4, 1.0), (8.0, 1.0), (9.0, 2.0), (0.05, 0.01), (90.0, 20.0), (0.0, 1.0)])
def test_axis_steps_are_round(most, step):
    """1, 2 or 5 times a power of ten, at most eight of them."""
    assert nice_step(most, 8) == pytest.approx(step)
