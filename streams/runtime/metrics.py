"""Prometheus metrics of a stage, and a process's health pages, on one small HTTP server in a thread of its own.

In a thread, so that /healthz still answers, and says so, when the event loop hangs.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from streams.settings import SettingsError

RECORDS = Counter("headgate_records_total", "Records finished, by outcome.", ["stage", "outcome"])
TICKETS = Counter(
    "headgate_tickets_total",
    "What became of tickets: answered, escalated, shadowed (a draft made to be judged only) or handed_off. An "
    "escalation is tier-1's.",
    ["outcome", "tier", "category"],
)
COST_USD = Counter("headgate_cost_usd_total", "Dollars spent on finished records.", ["stage"])
READY = Gauge("headgate_ready", "1 while /readyz says so: partitions assigned, engine or provider reachable.")
IN_FLIGHT = Gauge("headgate_records_in_flight", "Records that a handler has.", ["stage", "lane"])
EXPOSED = Gauge(
    "headgate_calls_exposed",
    "Records begun and not committed: what a crash now would do, and pay for, again.",
    ["stage"],
)
UNFINISHED = Gauge(
    "headgate_records_unfinished",
    "The true backlog: records written and not finished, as far as this process's partitions go.",
    ["stage", "lane"],
)
OLDEST_SECONDS = Gauge("headgate_oldest_record_seconds", "Age of the oldest unfinished record.", ["stage", "lane"])
LATE_SECONDS = Gauge(
    "headgate_event_loop_late_seconds",
    "How late the process's event loop is; while it is more than 0.02, no backfill begins.",
    ["stage"],
)
METADATA_BYTES = Gauge(
    "headgate_commit_metadata_bytes",
    "Largest commit metadata of this process's partitions; 4,096 is the end.",
    ["stage"],
)
REDONE = Counter(
    "headgate_records_redone_total", "Records that a former owner had begun, and that were done again.", ["stage"]
)
DROPPED = Counter(
    "headgate_results_dropped_total",
    "Finished records whose partition had moved: their work was for nothing.",
    ["stage"],
)
RECONNECTS = Counter("headgate_kafka_sessions_ended_total", "Kafka sessions that ended by an error.", ["stage"])
AGE_SECONDS = Histogram(
    "headgate_ticket_age_seconds",
    "From the ticket's arrival on the tickets topic to the end of this stage's work on it.",
    ["stage"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900),
)
TRANSACTION_SECONDS = Histogram(
    "headgate_transaction_seconds",
    "Sending a commit's outputs and its offsets.",
    ["stage"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)
TRANSACTION_RECORDS = Histogram(
    "headgate_transaction_records",
    "Messages of a commit.",
    ["stage"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)


def begin(stage: str) -> None:
    """A counter that appears with its first dead letter has no increase: it must be there before."""
    RECORDS.labels(stage, "dead_lettered")


@dataclass(frozen=True, slots=True)
class Health:
    """What the pages ask: both are called from the server's thread and must not block."""

    alive: Callable[[], bool]
    ready: Callable[[], bool]


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Probes every few seconds are not worth a line each."""


def serve(port: int, health: Health) -> WSGIServer:
    """Serve /metrics, /healthz and /readyz (200 or 503) on all interfaces; returns the running server.

    Raises: SettingsError if the port is taken.
    """
    metrics_app = make_wsgi_app()
    READY.set_function(lambda: float(health.ready()))

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        probe = {"/healthz": health.alive, "/readyz": health.ready}.get(environ["PATH_INFO"])
        if probe is None:
            pages: Iterable[bytes] = metrics_app(environ, start_response)
            return pages
        good = probe()
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if good else b"not yet\n"]

    try:
        server = make_server("", port, app, handler_class=_QuietHandler)
    except OSError as exc:
        raise SettingsError(f"health_port {port} can't be used: {exc.strerror}") from exc
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
