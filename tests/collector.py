"""An OpenTelemetry collector for tests: OTLP over HTTP on this machine, what it gets kept as it came and read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What has arrived."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.services: set[str] = set()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in of_resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for of_scope in of_resource.scope_spans for span in of_scope.spans]
        return web.Response()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the address."""
        application = web.Application()
        application.router.add_post("/v1/traces", self._take)
        async with TestServer(application) as server:
            yield str(server.make_url(""))
