"""The dashboards, and what writes them: python deploy/grafana/dashboards.py

A dashboard is a list of panels, laid out in their order; its JSON in dashboards/ is what Grafana is given.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "dashboards"
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}


@dataclass(frozen=True)
class Panel:
    """One picture. `queries` are PromQL expressions by their legends, in which {{label}} is a label's value."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 12
    stacked: bool = False
    about: str = ""

    @property
    def height(self) -> int:
        """In Grafana's rows."""
        return 4 if self.kind == "stat" else 8


def quantile(share: float, histogram: str) -> str:
    """Of the last five minutes, by stage."""
    return f"histogram_quantile({share}, sum by (stage, le) (rate({histogram}_bucket[5m])))"


def stat(title: str, query: str, unit: str = "short", about: str = "") -> Panel:
    """A single number."""
    return Panel(title, {"": query}, unit, "stat", 6, about=about)


FLOW = [
    stat("Processes up", "sum(up)"),
    stat("Live tickets unfinished", 'sum(headgate_records_unfinished{lane="live"})'),
    stat("Oldest live ticket", 'max(headgate_oldest_record_seconds{lane="live"})', "s"),
    stat("Dead letters in 24 h", 'sum(increase(headgate_records_total{outcome="dead_lettered"}[24h]))'),
    Panel(
        "Records finished",
        {"{{stage}} {{outcome}}": "sum by (stage, outcome) (rate(headgate_records_total[5m]))"},
        "reqps",
    ),
    Panel(
        "True backlog",
        {"{{stage}} {{lane}}": "sum by (stage, lane) (headgate_records_unfinished)"},
        about="Records written and not finished. A group's lag by its committed offset would say more or less.",
    ),
    Panel(
        "Oldest unfinished record",
        {"{{stage}} {{lane}}": "max by (stage, lane) (headgate_oldest_record_seconds)"},
        "s",
    ),
    Panel(
        "In flight",
        {
            "{{stage}} at work": "sum by (stage) (headgate_records_in_flight)",
            "{{stage}} not committed": "sum by (stage) (headgate_calls_exposed)",
        },
        about="Not committed: what a crash now would do, and pay for, again.",
    ),
    Panel(
        "From a ticket's arrival to the end of a stage",
        {
            "{{stage}} p50": quantile(0.5, "headgate_ticket_age_seconds"),
            "{{stage}} p95": quantile(0.95, "headgate_ticket_age_seconds"),
        },
        "s",
    ),
    Panel(
        "Commits",
        {"{{stage}} p95": quantile(0.95, "headgate_transaction_seconds")},
        "s",
    ),
    Panel(
        "Calls at tier-2's targets",
        {
            "{{target}} under way": "sum by (target) (headgate_tier2_in_flight)",
            "{{target}} allowed": "sum by (target) (headgate_tier2_concurrency)",
            "{{target}} waiting": "sum by (target) (headgate_tier2_waiting)",
            "{{target}} breaker open": "max by (target) (headgate_tier2_breaker_open)",
        },
    ),
    Panel(
        "What went wrong",
        {
            "{{stage}} done again": "sum by (stage) (rate(headgate_records_redone_total[5m]))",
            "{{stage}} results dropped": "sum by (stage) (rate(headgate_results_dropped_total[5m]))",
            "{{stage}} sessions ended": "sum by (stage) (rate(headgate_kafka_sessions_ended_total[5m]))",
            "{{job}} policy unread": "max by (job) (headgate_policy_unread)",
        },
    ),
    Panel(
        "Processes ready",
        {"{{job}}": "sum by (job) (headgate_ready)"},
        about="Partitions assigned, engine or provider reachable.",
    ),
    Panel(
        "Memory and processor",
        {
            "{{job}} GB": "sum by (job) (process_resident_memory_bytes) / 1e9",
            "{{job}} cores": "sum by (job) (rate(process_cpu_seconds_total[5m]))",
        },
    ),
]

QUALITY = [
    stat(
        "Answered by tier-1, 1 h",
        'sum(increase(headgate_tickets_total{outcome="answered",tier="tier1"}[1h]))'
        ' / sum(increase(headgate_tickets_total{outcome="answered"}[1h]))',
        "percentunit",
    ),
    stat(
        "Bad answers of tier-1, estimated",
        'max(headgate_bad_answers_ratio{category="*",tier="tier1"})',
        "percentunit",
        "Among those that customers got, from all audits.",
    ),
    stat("Categories that ship tier-1's answers", "sum(max by (category) (headgate_category_active))"),
    stat("Early warnings", "sum(max by (category) (headgate_early_warning))"),
    Panel(
        "Answers by tier",
        {"{{tier}}": 'sum by (tier) (rate(headgate_tickets_total{outcome="answered"}[5m]))'},
        "reqps",
        stacked=True,
    ),
    Panel(
        "Answers by category and tier",
        {
            "{{category}} {{tier}}": 'sum by (category, tier) (rate(headgate_tickets_total{outcome="answered"}[30m]))',
        },
        "reqps",
        stacked=True,
    ),
    Panel(
        "Escalations and handoffs, share of the tickets that ended",
        {
            "escalated": 'sum(rate(headgate_tickets_total{outcome="escalated"}[30m]))'
            ' / sum(rate(headgate_tickets_total{outcome=~"answered|handed_off"}[30m]))',
            "handed to a person": 'sum(rate(headgate_tickets_total{outcome="handed_off"}[30m]))'
            ' / sum(rate(headgate_tickets_total{outcome=~"answered|handed_off"}[30m]))',
        },
        "percentunit",
    ),
    Panel(
        "Escalations by category",
        {"{{category}}": 'sum by (category) (rate(headgate_tickets_total{outcome="escalated"}[30m]))'},
        "reqps",
    ),
    Panel(
        "Bad answers: estimated, proved, tolerated",
        {
            "{{category}} estimated": 'max by (category) (headgate_bad_answers_ratio{tier="tier1"})',
            "{{category}} estimated at most": 'max by (category) (headgate_bad_answers_high_ratio{tier="tier1"})',
            "{{category}} proved at most": "max by (category) (headgate_certificate_upper_bound_ratio)",
            "tolerated": "max(headgate_certificate_alpha_ratio)",
        },
        "percentunit",
    ),
    Panel(
        "Tier-1's answers ship",
        {"{{category}}": "max by (category) (headgate_category_active)"},
        about="1: they ship; 0: the category is in the shadow.",
    ),
    Panel(
        "Evidence against the certificates",
        {"{{category}}": "max by (category) (headgate_drift_wealth)"},
        about="A certificate falls at 20.",
    ),
    Panel(
        "Days to the certificates' end",
        {"{{category}}": "(max by (category) (headgate_certificate_expiry_timestamp_seconds) - time()) / 86400"},
        "d",
    ),
    Panel("Labels towards the next look", {"{{category}}": "max by (category) (headgate_labels)"}),
    Panel(
        "Policies and models at work",
        {
            "policy {{role}} {{version}}": "count by (role, version) (headgate_policy_info)",
            "router {{role}} {{version}}": "count by (role, version) (headgate_router_model_info)",
            "tier-1 {{model}}": "avg by (model) (headgate_tier1_model_share_ratio)",
        },
        about="Processes under each; of tier-1's models the share of the tickets.",
    ),
]

MONEY = [
    stat("Cost in 24 h", "sum(increase(headgate_cost_usd_total[24h]))", "currencyUSD"),
    stat(
        "Cost per 1,000 tickets, 24 h",
        "1000 * sum(increase(headgate_cost_usd_total[24h]))"
        ' / sum(increase(headgate_tickets_total{outcome=~"answered|handed_off"}[24h]))',
        "currencyUSD",
    ),
    stat("Counted this month", 'max(headgate_tier2_spend_usd{period="month"})', "currencyUSD"),
    stat(
        "Of the month's limit",
        'max(headgate_tier2_spend_usd{period="month"}) / max(headgate_tier2_spend_limit_usd{period="month"})',
        "percentunit",
    ),
    Panel(
        "Cost by stage, dollars an hour",
        {"{{stage}}": "3600 * sum by (stage) (rate(headgate_cost_usd_total[30m]))"},
        "currencyUSD",
        stacked=True,
    ),
    Panel(
        "Cost per 1,000 tickets",
        {
            "all": "1000 * sum(rate(headgate_cost_usd_total[1h]))"
            ' / sum(rate(headgate_tickets_total{outcome=~"answered|handed_off"}[1h]))',
        },
        "currencyUSD",
    ),
    Panel(
        "Counted against the limits",
        {
            "{{period}}": "max by (period) (headgate_tier2_spend_usd)",
            "{{period}} limit": "max by (period) (headgate_tier2_spend_limit_usd)",
        },
        "currencyUSD",
        about="Costs, and the worst cases of calls under way, by UTC calendar minute, day and month.",
    ),
    Panel(
        "Share of the limits used",
        {"{{period}}": "max by (period) (headgate_tier2_spend_usd) / max by (period) (headgate_tier2_spend_limit_usd)"},
        "percentunit",
    ),
    Panel(
        "Answered by tier-1",
        {
            "share": 'sum(rate(headgate_tickets_total{outcome="answered",tier="tier1"}[30m]))'
            ' / sum(rate(headgate_tickets_total{outcome="answered"}[30m]))',
        },
        "percentunit",
        about="What saves the money.",
    ),
    Panel(
        "Calls that a crash would repeat",
        {"{{stage}}": 'sum by (stage) (headgate_calls_exposed{stage=~"tier1|tier2|judge"})'},
    ),
]

DASHBOARDS = {"flow": FLOW, "quality": QUALITY, "money": MONEY}


def panel(number: int, shown: Panel, x: int, y: int) -> dict[str, Any]:
    """One panel as Grafana takes it."""
    custom = {"fillOpacity": 10, "stacking": {"mode": "normal" if shown.stacked else "none"}}
    return {
        "id": number,
        "type": shown.kind,
        "title": shown.title,
        "description": shown.about,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": shown.width, "h": shown.height},
        "fieldConfig": {
            "defaults": {"unit": shown.unit, "min": 0, **({"custom": custom} if shown.kind == "timeseries" else {})},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend}
            for n, (legend, query) in enumerate(shown.queries.items())
        ],
    }


def dashboard(name: str, panels: list[Panel]) -> dict[str, Any]:
    """A dashboard as Grafana takes it: panels from left to right, then from top to bottom."""
    placed, x, y, tallest = [], 0, 0, 0
    for number, shown in enumerate(panels, 1):
        if x + shown.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append(panel(number, shown, x, y))
        x, tallest = x + shown.width, max(tallest, shown.height)
    return {
        "uid": f"headgate-{name}",
        "title": f"Headgate: {name}",
        "tags": ["headgate"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "panels": placed,
    }


def written(name: str) -> str:
    """A dashboard's file."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each}.json").write_text(written(each), "utf-8")
