"""Dashboards, alerts and runbooks say what the code measures: each metric exists, each alert has its page."""

import json
import re
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any, get_args

import pytest
import typer
import yaml
from prometheus_client import REGISTRY
from pydantic import BaseModel

from streams.cli import app
from streams.run import Process
from streams.runtime import metrics
from streams.settings import Settings

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0][
    "rules"
]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
GENERATOR = run_path(str(GRAFANA / "dashboards.py"))
DASHBOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in (GRAFANA / "dashboards").glob("*.json")}
QUERIES = [
    (f"{name}: {panel['title']}", target["expr"])
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
] + [(alert["alert"], alert["expr"]) for alert in ALERTS]

PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
"""What prometheus-client says of every process by itself, on Linux."""


@pytest.fixture(scope="module")
def registered() -> dict[str, set[str]]:
    """The names of all series that our processes can have, with the names of their labels."""
    for path in sorted((ROOT / "streams").rglob("*.py")):
        if "from prometheus_client import" in path.read_text("utf-8"):
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    names: dict[str, set[str]] = {name: set() for name in ("up", *PROCESS)}
    for collector, its_names in REGISTRY._collector_to_names.items():
        for name in its_names:
            names[name] = set(getattr(collector, "_labelnames", ()))
    return names


def metrics_in(query: str) -> set[str]:
    """The metrics that a PromQL expression names: words that are no function, no keyword and no label."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", query)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"\b[a-z_:][\w:]*\b(?!\s*\()", bare)
    return set(words) - {"and", "or", "unless", "bool", "sum", "max", "min", "avg", "count"}


def labels_in(query: str) -> set[str]:
    """The labels that an expression matches or groups by."""
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", query)
    return {*matched, *(label.strip() for group in grouped for label in group.split(","))}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sum by (stage) (rate(headgate_a_total[5m])) / max(headgate_b)", {"headgate_a_total", "headgate_b"}),
        ('up{job=~"a|b"} == 0 or absent(up{job="c"})', {"up"}),
        ("headgate_a and on (x) headgate_c > 0.5e3", {"headgate_a", "headgate_c"}),
    ],
)
def test_metrics_are_found_in_expressions(query: str, expected: set[str]) -> None:
    """Without functions, labels, durations and numbers."""
    assert metrics_in(query) == expected


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_every_metric_and_label_that_is_asked_for_exists(
    where: str, query: str, registered: dict[str, set[str]]
) -> None:
    """A renamed metric would leave a panel empty, and an alert silent for ever."""
    asked = metrics_in(query)
    assert asked
    assert asked - set(registered) == set(), where
    known = {"job", "instance", "le", *(label for name in asked for label in registered[name])}
    assert labels_in(query) - known == set(), where


def test_metrics_are_named_by_convention(registered: dict[str, set[str]]) -> None:
    """Counters and nothing else end in _total; all units are base units."""
    found = {metric.name: metric.type for metric in REGISTRY.collect() if metric.name.startswith("headgate_")}
    assert {n for n, kind in found.items() if kind == "counter"} == {n for n in found if f"{n}_total" in registered}
    assert [n for n in found if re.search(r"_(ms|millis|minutes|hours|days|kb|mb|cents|percent)(_|$)", n)] == []


@pytest.mark.parametrize("name", GENERATOR["DASHBOARDS"])
def test_a_dashboard_is_what_its_description_makes(name: str) -> None:
    """`python deploy/grafana/dashboards.py` writes it anew."""
    assert (GRAFANA / "dashboards" / f"{name}.json").read_text("utf-8") == GENERATOR["written"](name)


def test_there_is_no_dashboard_without_a_description() -> None:
    """One that was renamed leaves no file behind."""
    assert set(DASHBOARDS) == set(GENERATOR["DASHBOARDS"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    """Each cell of the grid has at most one, and no panel is wider than the page."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_grafana_finds_its_datasource() -> None:
    """Every panel asks the one that is provisioned."""
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8"))["datasources"][0]
    asked = {panel["datasource"]["uid"] for dashboard in DASHBOARDS.values() for panel in dashboard["panels"]}
    assert asked == {source["uid"]}


def test_prometheus_asks_every_process() -> None:
    """A job for each that `headgate run` runs, and for `headgate certify`; the alert knows those that all run."""
    jobs = {job["job_name"]: job["dns_sd_configs"][0]["names"] for job in PROMETHEUS["scrape_configs"]}
    stages = {name for literal in get_args(Process) for name in (get_args(literal) or (literal,))}
    assert jobs == {name: [name] for name in (*stages, "certify")}
    (down,) = [alert["expr"] for alert in ALERTS if alert["alert"] == "HeadgateStageDown"]
    needed = set(jobs) - {"tier2-batch"}
    assert set(re.findall(r'absent\(up\{job="(\w+)"\}\)', down)) == needed
    (known,) = re.findall(r'job=~"([^"]+)"', down)
    assert set(known.split("|")) == needed
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]


def test_every_alert_has_its_runbook() -> None:
    """A section of its name, in the same order, that says what to look at and what to do; none is left over."""
    assert re.findall(r"^## (Headgate\w+)$", RUNBOOKS, re.M) == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert['alert'].lower()}"
    for section in RUNBOOKS.split("\n## ")[1:]:
        assert re.findall(r"^\*\*(.+?)\.\*\*", section, re.M) == ["Means", "Look at", "Do", "Ends"]


def test_the_runbooks_commands_and_settings_exist(registered: dict[str, set[str]]) -> None:
    """What stands in code marks there is what the code has."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"`headgate ([\w-]+)([^`]*)`", RUNBOOKS):
        assert name in commands
        if hasattr(commands[name], "commands"):
            assert rest.split()[0] in commands[name].commands
    settings = {
        f"{section}.{name}" for section, field in Settings() if isinstance(field, BaseModel) for name, _ in field
    }
    sections = "|".join({setting.split(".")[0] for setting in settings})
    assert set(re.findall(rf"`((?:{sections})\.\w+)", RUNBOOKS)) <= settings
    assert set(re.findall(r"`(headgate_\w+)", RUNBOOKS)) <= set(registered)


def test_every_metric_is_documented_and_no_other(registered: dict[str, set[str]]) -> None:
    """The table in docs/runtime.md is the metrics that there are."""
    text = (ROOT / "docs" / "runtime.md").read_text("utf-8")
    (table,) = re.findall(r"^\| Metric \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    ours = {f"{m.name}_total" if m.type == "counter" else m.name for m in REGISTRY.collect()}
    assert set(re.findall(r"headgate_\w+", table)) == {name for name in ours if name.startswith("headgate_")}
    elsewhere = "".join(path.read_text("utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert set(re.findall(r"`(headgate_\w+)`", elsewhere)) <= set(registered)


def test_a_stage_has_a_dead_letter_counter_before_the_first_dead_letter() -> None:
    """Else the first has no increase, and nobody is told."""
    metrics.begin("judge")
    labels = {"stage": "judge", "outcome": "dead_lettered"}
    assert REGISTRY.get_sample_value("headgate_records_total", labels) is not None
