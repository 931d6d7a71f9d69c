"""The console as the real scoreboard serves it: records on a real broker at one end, a real browser at the other."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from schemas.audits import Audit
from schemas.codec import encode
from schemas.policy import CategoryPolicy, Certificate, Policy
from schemas.spend import Reserve, Settle, SpendEntry
from schemas.tickets import TicketId
from streams.local.embedded_kafka import EmbeddedKafka
from streams.policy_records import put_in_force
from streams.scoreboard.summary import Summary
from streams.settings import KafkaSettings
from tests.browser import company
from tests.browser.console import DESK, ROWS, Console, numbers, shows
from tests.kafka import write
from tests.records import a_decision, a_ticket, an_attempt
from tests.scoreboard import Scoreboard

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)
SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", why="not certified", audit_share=0.2)
SHIPS = CategoryPolicy(
    p_ok_threshold=0.7,
    score_threshold=0.8,
    certificate=Certificate(
        method="learn_then_test",
        alpha=0.05,
        delta=0.1,
        labels=400,
        shipped=250,
        bad=4,
        upper_bound=0.0412,
        solved_at=NOW - timedelta(days=1),
        valid_until=NOW + timedelta(days=20),
    ),
)
POLICY = Policy(scope="default", version="v7", default=SHADOW, categories={"billing": SHIPS}, made_at=NOW)


@pytest.fixture
def scoreboard(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> Iterator[Scoreboard]:
    found = Scoreboard(tmp_path, kafka.bootstrap_servers, topics, POLICY, TIER2__SPEND__DAY_USD="10")
    yield found
    found.kill()
    print(found.log[-10_000:])


async def publish(servers: str, prefix: str) -> None:
    """An hour of the example company on its topics."""
    # Not the module's: tests that ran meanwhile would have moved the hour.
    now = datetime.now(UTC)
    events, labels = company.events(now, 80), company.labels(now, 20)
    await write(servers, prefix + "events", [(e.ticket_id.encode(), encode(e)) for e in events])
    await write(servers, prefix + "labels", [(la.ticket_id.encode(), encode(la)) for la in labels])
    audits = [
        Audit(
            ticket=a_ticket(ticket_id=TicketId(f"fw-{n}")),
            decision=a_decision(audited=True),
            draft=an_attempt(),
            at=now,
        )
        for n in range(3)
    ]
    await write(servers, prefix + "audits", [(a.ticket.ticket_id.encode(), encode(a)) for a in audits])
    steps = (Reserve(id="1", tenant="default", micro_usd=9_000_000), Settle(id="1", micro_usd=8_500_000))
    await write(servers, prefix + "spend", [(None, encode(SpendEntry(step=step))) for step in steps])
    await write(servers, prefix + "tickets", [(b"fw-new", b'{"ticket_id": "fw-new", "body": "?"}')])
    await put_in_force(KafkaSettings(bootstrap_servers=servers, topic_prefix=prefix), POLICY)


async def test_records_reach_the_screen(
    kafka: EmbeddedKafka, topics: str, scoreboard: Scoreboard, chrome: Chrome
) -> None:
    """Events, labels, policy, spending, a backlog and audits are shown, under the headers that the service sends."""
    await publish(kafka.bootstrap_servers, topics)
    counted = await scoreboard.shows(lambda s: s.labels == 280 and s.total.answered >= 70)
    assert counted.labels == 280
    await asyncio.to_thread(check, Console(chrome, scoreboard.address, {}), counted)


def check(console: Console, summary: Summary) -> None:
    console.open(*ROWS, size=DESK)
    assert [console.text(f"#{name}-alarm") for name in ROWS] == [""] * len(ROWS)
    quality = summary.total.tiers[0].quality
    assert quality
    assert shows(console.text("#safe"), 100 * quality.value)
    assert shows(console.text("#cheap"), summary.total.saved_usd)
    assert len(console.rows("#categories tr")) == len(company.CATEGORIES)
    billing = next(row for row in console.rows("#policies tbody tr") if row.startswith("billing"))
    assert "≤ 4.1 % bad of shipped, at 90 % confidence" in billing
    assert "of 20" in billing
    assert "All tenants' limit of the day is 85.0 % spent" in console.text("#concerns")
    backlog = {row.split(" ")[0]: numbers(row) for row in console.rows("#stages tr")}
    assert backlog["router"][0] == 1
    assert backlog["judge"][0] == 3
    assert console.text("#audits-text").startswith("3 audits unjudged")
    assert "steps of fw-0001" in console.find("fw-0001")
    assert "Nothing is known of fw-9999" in console.find("fw-9999")
    console.chrome.get("about:blank")
