"""The console in a real browser: it shows what the endpoints say, on a phone and on a desk, in light and in dark."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from schemas.events import Event
from schemas.tickets import TicketId
from streams.scoreboard.summary import Summary
from streams.scoreboard.views import (
    AuditsView,
    BacklogView,
    DriftView,
    Failure,
    JourneyView,
    PoliciesView,
    PolicyView,
    SpendView,
)
from tests.browser import company
from tests.browser.console import DESK, PHONE, ROWS, Console, numbers, shows
from tests.browser.serving import served

NOW = datetime.now(UTC)
EVENTS = company.events(NOW)
HOSTILE = '<img src=x onerror="document.title=1">/../?%00&amp;'
ENDPOINTS = {
    "summary": "/api/summary?span=1h",
    "policy": "/api/policy",
    "spend": "/api/spend",
    "backlog": "/api/backlog",
    "audits": "/api/audits",
}


@pytest.fixture
def console(chrome: Chrome) -> Iterator[Console]:
    said = company.everything(NOW)
    with served(said) as url:
        yield Console(chrome, url, said)
        # Nothing of this page asks an address that is closed.
        chrome.get("about:blank")


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_first_screen_says_safe_cheap_and_flowing(console: Console, size: tuple[int, int]) -> None:
    """Its figures are the endpoints', and what needs attention is named."""
    console.open(*ROWS, size=size)
    summary = console.said["/api/summary?span=1h"]
    assert isinstance(summary, Summary)
    total, quality = summary.total, summary.total.tiers[0].quality
    assert quality
    assert total.saved_usd
    assert total.all_tier2_usd
    assert shows(console.text("#safe"), 100 * quality.value)
    assert shows(console.text("#safe-notes"), 100 * quality.low)
    assert "6 of 8 categories certified, at most 4.1 % bad" in console.text("#safe-notes")
    assert shows(console.text("#cheap"), total.saved_usd)
    assert shows(console.text("#cheap-notes"), total.all_tier2_usd)
    assert shows(console.text("#cheap-notes"), total.cost_per_1000_usd)
    assert numbers(console.text("#flowing")) == [16]
    assert [console.text(f"#{area}-chip") for area in ("safe", "cheap", "flowing")] == ["◆ look", "◆ look", "● yes"]
    concerns = console.text("#concerns")
    assert "equipment: the certificate was withdrawn" in concerns
    assert "mobile: the drift test is more than half way" in concerns
    assert "fernway-business: a limit is more than 80 % spent" in concerns
    bottom = console.chrome.execute_script("return document.getElementById('flowing').getBoundingClientRect().bottom")
    assert bottom < size[1]


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_each_section_shows_its_endpoints_figures(console: Console, size: tuple[int, int]) -> None:
    """Every category, reason, cost, certificate, limit, stage and label is there, with its figures."""
    console.open(*ROWS, size=size)
    summary = console.said["/api/summary?span=1h"]
    assert isinstance(summary, Summary)
    for category, row in zip(summary.categories, console.rows("#categories tr"), strict=True):
        assert row.startswith(category.name)
        figures = [category.volume, category.cost_per_1000_usd, category.saved_usd, 100 * (category.tier1_share or 0)]
        estimates = [100 * x for tier in category.tiers if (q := tier.quality) for x in (q.value, q.low, q.high)]
        assert [x for x in (*figures, *estimates) if not shows(row, x)] == []
    reasons = console.rows("#reasons tr")
    assert [numbers(row)[-1] for row in reasons] == list(summary.total.reasons.values())
    assert [why for why, row in zip(summary.total.reasons, reasons, strict=True) if why.split("_")[0] not in row] == []
    costs = console.rows("#costs tr")
    assert [usd for usd in summary.total.costs_usd.values() if not any(shows(row, usd) for row in costs)] == []
    assert shows(costs[-1], summary.total.cost_usd)
    certificates = {row.split(" ")[0]: row for row in console.rows("#policies tbody tr")}
    assert certificates.keys() == {*company.CATEGORIES, "any"}
    assert "≤ 4.1 % bad of shipped, at 90 % confidence" in certificates["account"]
    assert "3 categories together" in certificates["faults"]
    assert "6.20 of 20" in certificates["mobile"]
    assert "about 180" in certificates["payments"]
    assert "withdrawn: too many bad answers among 168 audited" in certificates["equipment"]
    assert [numbers(row)[:2] for row in console.rows("#limits tr")] == [[5.37, 10.0], [112.4, 6], [1.72, 2.0]]
    assert [numbers(row)[-1] for row in console.rows("#stages tr")[1:]] == [3.4, 3.4, 3.4]
    assert "17 audits unjudged, the oldest for 90 min" in console.text("#audits-text")
    assert [numbers(row) for row in console.rows("#labels tr")] == [[1240], [61], [0]]


def test_another_span_shows_its_own_figures(console: Console) -> None:
    """The span's button asks for it, and says that it is chosen."""
    console.open("summary")
    summary = console.said["/api/summary?span=5m"]
    assert isinstance(summary, Summary)
    button = console.chrome.find_element(By.CSS_SELECTOR, "[data-span='5m']")
    button.click()
    console.until(lambda: numbers(console.rows("#figures > div")[0]) == [summary.total.volume])
    assert button.get_attribute("aria-pressed") == "true"
    assert summary.total.volume < 400


def test_news_are_shown_without_a_reload(console: Console) -> None:
    """The page asks again by itself."""
    console.open("backlog")
    backlog = console.said["/api/backlog"]
    assert isinstance(backlog, BacklogView)
    console.said["/api/backlog"] = BacklogView(
        stages=(replace(backlog.stages[0], unfinished=5000, oldest_s=600.0), *backlog.stages[1:])
    )
    console.until(lambda: "router: 5,000 records unfinished, the oldest for 10 min" in console.text("#concerns"))
    assert console.text("#flowing-chip") == "◆ look"


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_journey_is_found_by_its_id(console: Console, size: tuple[int, int]) -> None:
    """All steps in their order, by keyboard alone; an id that nobody knows is named as such."""
    found = [event for event in EVENTS if event.ticket_id == "fw-0001"]
    console.said["/api/journey/fw-0001"] = JourneyView(ticket_id="fw-0001", events=tuple(found))
    console.open(size=size)
    assert f"{len(found)} steps of fw-0001" in console.find("fw-0001")
    assert [row.split(" ")[:2] for row in console.rows("#journey li")] == [[f"{e.stage}:", e.outcome] for e in found]
    assert "Nothing is known of fw-9999" in console.find("fw-9999")
    assert console.rows("#journey li") == ["" for _ in found]


@pytest.mark.parametrize("failing", ENDPOINTS)
def test_an_endpoint_that_fails_leaves_the_rest_standing(console: Console, failing: str) -> None:
    """Its own section has the alarm, with the reason; no other says anything but what it knows."""
    console.said[ENDPOINTS[failing]] = 500
    others = [name for name in ROWS if name != failing]
    console.open(*others)
    alarm = console.chrome.find_element(By.ID, f"{failing}-alarm")
    console.until(lambda: "can't be read (Kafka is away)" in alarm.text)
    assert alarm.get_attribute("role") == "alert"
    assert [console.text(f"#{name}-alarm") for name in others] == [""] * len(others)
    assert console.rows(ROWS[failing]) == []


def test_old_figures_stay_beside_the_alarm(console: Console) -> None:
    """What was read before an endpoint failed is shown, and called old; no verdict is made of it."""
    console.open(*ROWS)
    assert console.text("#flowing-chip") == "● yes"
    console.said["/api/backlog"] = 500
    console.come_back()
    console.until(lambda: "may be old" in console.text("#backlog-alarm"))
    assert len(console.rows("#stages tr")) == 4
    assert console.text("#flowing-chip") == "not known"


def test_loading_is_no_alarm(console: Console) -> None:
    """A scoreboard that reads its tables back says so."""
    console.said["/api/summary?span=1h"] = Failure(error="loading", state="loading")
    console.open("backlog")
    console.until(lambda: "reads its tables back" in console.text("#answers-empty"))
    assert console.text("#summary-alarm") == ""


def test_text_from_outside_stays_text(console: Console) -> None:
    """Markup in categories, tenants, reasons and ids is shown as it is written, and never run."""
    event = Event(
        event_id="e",
        at=NOW,
        stage="checker",
        outcome="escalated",
        ticket_id=TicketId(HOSTILE),
        category=HOSTILE,
        tenant=HOSTILE,
        reasons=(HOSTILE,),
        model=HOSTILE,
    )
    console.said["/api/summary?span=1h"] = company.board([event], [], "1h", NOW)
    policy = PolicyView(
        version=HOSTILE, because=(HOSTILE,), categories=(company.uncertified(HOSTILE, f"withdrawn {HOSTILE}"),)
    )
    console.said["/api/policy"] = PoliciesView(active=policy, candidate=replace(policy, share=0.1))
    limits = tuple(replace(limit, tenant=HOSTILE) for limit in company.spend().limits)
    console.said["/api/spend"] = SpendView(limits=limits)
    console.said["/api/audits"] = AuditsView(waiting=1, labels={HOSTILE: 3})
    console.open(*ROWS, size=PHONE)
    console.find(HOSTILE)
    places = ("#categories", "#reasons", "#policies", "#limits", "#labels", "#concerns", "#policy-note")
    assert [css for css in (*places, "#journey-state") if "<img" not in console.text(css)] == []
    assert console.chrome.find_elements(By.TAG_NAME, "img") == []
    assert console.chrome.title == "Headgate"
    assert overflowing(console.chrome) == []


def test_empty_sections_say_what_to_do(console: Console) -> None:
    """A company's first minute: no tickets, no policy, no limit, no stage, no audit."""
    console.said |= {
        "/api/summary?span=1h": company.board([], [], "1h", NOW),
        "/api/policy": PoliciesView(active=PolicyView(version="")),
        "/api/spend": SpendView(limits=()),
        "/api/backlog": BacklogView(stages=()),
        "/api/audits": AuditsView(waiting=0),
    }
    console.open(size=PHONE)
    console.until(lambda: "audit_share" in console.text("#audits-empty"))
    console.until(lambda: "headgate publish" in console.text("#answers-empty"))
    console.until(lambda: "headgate certify" in console.text("#policy-empty"))
    console.until(lambda: "tier2.spend.day_usd" in console.text("#spend-empty"))
    console.until(lambda: "headgate run" in console.text("#backlog-empty"))
    assert console.text("#concerns") == ""


def test_many_tenants_do_not_fill_the_page(console: Console) -> None:
    """Those who spent most of their limit are shown, the others counted; so it is with what needs attention."""
    tenant = company.spend().limits[2]
    limits = tuple(replace(tenant, tenant=f"tenant-{n}", spent_usd=1.9) for n in range(1000))
    console.said["/api/spend"] = SpendView(limits=(*company.spend().limits[:2], *limits))
    console.open("spend")
    assert len(console.rows("#limits tr")) == 11
    assert "991 more limits of tenants" in console.text("#spend-note")
    concern = "tenant-0, tenant-1, tenant-2 and 997 more: a limit is more than 80 % spent."
    console.until(lambda: concern in console.text("#concerns"))


def test_alarms_are_told_from_warnings(console: Console) -> None:
    """A drift test past its level, an uncertified category that ships and a spent limit call for action."""
    alarm = company.category("billing", NOW, drift=DriftView(wealth=20.5, alarm_at=20.0, tickets=80))
    bare = company.category("mobile", NOW, upper_bound=None, confidence=None, valid_until=None, drift=None)
    console.said["/api/policy"] = PoliciesView(active=PolicyView(version="1", categories=(alarm, bare)))
    console.said["/api/spend"] = SpendView(limits=(replace(company.spend().limits[0], spent_usd=10.0),))
    console.open(*ROWS)
    assert "billing: the drift test raised its alarm" in console.text("#concerns")
    assert "mobile: tier-1 ships here without a certificate" in console.text("#concerns")
    assert [console.text(f"#{area}-chip") for area in ("safe", "cheap")] == ["▲ act", "▲ act"]


OVERFLOWING = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && !e.closest("thead") && e.getBoundingClientRect().right > wide + 0.5)
  .map(e => `${e.tagName} ${e.id} ${e.textContent.slice(0, 40)}`)
  .concat(document.documentElement.scrollWidth > wide ? ["the page"] : []);
"""
FAINT = """
const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c; } };
return [...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 40)]; })
  .filter(([contrast]) => contrast < 4.5);
"""
SMALL = """
return [...document.querySelectorAll("button, input")]
  .filter(e => e.getBoundingClientRect().height < 44).map(e => e.outerHTML);
"""


def overflowing(chrome: Chrome) -> list[str]:
    """What is drawn past the right edge of the screen."""
    found: list[str] = chrome.execute_script(OVERFLOWING)
    return found


@pytest.mark.parametrize("width", [320, 360, 768, 1040, 1280])
def test_nothing_is_wider_than_the_screen(console: Console, width: int) -> None:
    """Nobody scrolls sideways."""
    found = [event for event in EVENTS if event.ticket_id == "fw-0001"]
    console.said["/api/journey/fw-0001"] = JourneyView(ticket_id="fw-0001", events=tuple(found))
    console.open(*ROWS, size=(width, 800))
    console.find("fw-0001")
    assert overflowing(console.chrome) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(console: Console, scheme: str) -> None:
    """Contrast is WCAG's 4.5 at least, and what is touched is large enough for a thumb."""
    console.open(*ROWS, size=PHONE, scheme=scheme)
    assert console.chrome.execute_script(FAINT) == []
    assert console.chrome.execute_script(SMALL) == []
    paper = console.chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(numbers(paper)) < 3 * 128) == (scheme == "dark")


def test_everything_has_a_name_and_a_role(console: Console) -> None:
    """What the browser tells a screen reader: no control, meter, picture or table without a name."""
    console.open(*ROWS)
    tree = console.chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "link", "meter", "img", "image", "region", "navigation", "group"}
    nodes = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node.get("ignored")]
    named = [node for node in nodes if node[0] in roles]
    assert [node for node in named if not node[1]] == []
    assert {role for role, _ in named} >= {"button", "textbox", "link", "meter", "region", "navigation", "group"}
    assert sum(role == "button" for role, _ in named) == 4
