"""Record headers: CloudEvents (Kafka binary mode), W3C trace context, and the origin of a dead letter."""

import hashlib
import re
from datetime import UTC, datetime

from streams.runtime.stage import DeadLetter, Headers, Origin

_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


def output_headers(stage: str, record_type: str, origin: Origin, number: int, now: float, incoming: Headers) -> Headers:
    """Headers of output `number` that `stage` makes of the record at `origin`. The same input gives the same ce_id."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{stage}/{origin}/{number}".encode()),
        ("ce_type", f"headgate.{record_type.lower()}.v1".encode()),
        ("ce_source", f"/headgate/{stage}".encode()),
        ("ce_time", datetime.fromtimestamp(now, UTC).isoformat().encode()),
        ("content-type", b"application/json"),
        ("traceparent", next_traceparent(stage, origin, incoming)),
    )


def next_traceparent(stage: str, origin: Origin, incoming: Headers) -> bytes:
    """The incoming trace with this stage's own span; a new trace where the record came without one."""
    digest = hashlib.sha256(f"{stage}/{origin}".encode()).hexdigest()
    parent = next((value for name, value in incoming if name == "traceparent"), b"")
    match = _TRACEPARENT.fullmatch(parent or b"")
    trace_id, flags = (match[1], match[3]) if match else (digest[:32].encode(), b"01")
    return b"00-" + trace_id + b"-" + digest[32:48].encode() + b"-" + flags


def dead_letter_headers(
    stage: str, origin: Origin, letter: DeadLetter, attempts: int, now: float, incoming: Headers
) -> Headers:
    """The record's own headers as they came, then why and where it was given up."""
    return (
        *incoming,
        ("headgate-reason", letter.reason.encode()),
        ("headgate-exception", letter.exception.encode()),
        ("headgate-stage", stage.encode()),
        ("headgate-attempts", str(attempts).encode()),
        ("headgate-origin", str(origin).encode()),
        ("headgate-at", datetime.fromtimestamp(now, UTC).isoformat().encode()),
    )
