"""Traces to an OpenTelemetry collector, if the standard variables name one: OTLP over HTTP, off by default.

OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) turns them on; the other OTEL_* variables mean what
the specification says (service name, resource, sampler, headers, batches).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from threading import Thread
from typing import TYPE_CHECKING

from schemas.events import StageName
from streams.settings import SettingsError

if TYPE_CHECKING:
    from streams.runtime.spans import Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

FLUSH_LIMIT_S = 5.0
"""What is not with the collector by then is lost: a stage must not stop late for it."""


def is_collected(environment: Mapping[str, str]) -> bool:
    """Whether somebody collects traces.

    Raises: SettingsError naming the variable that can't be followed.
    """
    named = [name for name in ENDPOINTS if environment.get(name)]
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not named or disabled or environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    for name in named:
        if not environment[name].startswith(("http://", "https://")):
            raise SettingsError(f"{name} is not an http(s) address")
    for name in PROTOCOLS:
        if environment.get(name, "http/protobuf") != "http/protobuf":
            raise SettingsError(f"{name} is {environment[name]!r}, and only http/protobuf is spoken here (port 4318)")
    return True


@asynccontextmanager
async def collected(stage: StageName) -> AsyncIterator["Spans | None"]:
    """What writes the stage's spans; None where nobody collects them.

    Raises: SettingsError as `is_collected`, and where the extra `telemetry` is not installed.
    """
    if not is_collected(os.environ):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from streams.runtime.spans import OneDecisionATrace, PlannedIds, Spans
    except ModuleNotFoundError as exc:
        raise SettingsError(f"{ENDPOINTS[1]} is set, and the extra `telemetry` is not installed ({exc.name})") from exc
    ids = PlannedIds()
    # What the environment says of the resource wins.
    resource = Resource.create({"service.name": f"headgate-{stage}"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.sampler = OneDecisionATrace(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Spans(stage, provider, ids)
    finally:
        # It tries for up to 30 s where the collector is away.
        flushing = Thread(target=provider.shutdown, name="telemetry-flush", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, FLUSH_LIMIT_S)
