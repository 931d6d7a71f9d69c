"""The recorded frontier's batch interfaces: Anthropic's Message Batches, OpenAI's files and batches; in memory.

A batch ends some seconds after it was made, all of it at once. Its answers are charged then, at batch prices: what is
expired or refused costs nothing. Faults are for tests.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from aiohttp import web

from workers.tier2 import provider_side
from workers.tier2.batch_wire import ENDPOINT
from workers.tier2.enforced_limits import used_by
from workers.tier2.frontier_ledger import FrontierLedger
from workers.tier2.provider_side import RefusedError
from workers.tier2.recorded_answers import RecordedAnswers, no_recording
from workers.tier2.wire import Provider

End = Literal["answered", "errored", "expired"]
LIFE_S = 24 * 3600
LOOK_S = 0.02
"""Between two looks at whether the caller has hung up."""


@dataclass(frozen=True, slots=True)
class BatchFault:
    """What goes wrong with one batch."""

    is_made: bool = True
    """False: it is turned away (503, 529)."""
    is_told: bool = True
    """False: it is made, and the caller never hears of it."""
    fails: bool = False
    """OpenAI: it is found to be wrong as a whole, after it was accepted."""
    end_of: Callable[[int], End] = lambda _: "answered"
    """How a request ends, by its number from 0."""


BatchFaults = Callable[[Provider], BatchFault | None]
"""Asked at every submission; None lets all go well."""


def no_batch_faults(_: Provider) -> BatchFault | None:
    """All goes well."""
    return None


@dataclass(frozen=True, slots=True)
class _Made:
    """One request's result: the line as the provider words it, and how it ended."""

    line: dict[str, Any]
    end: End


@dataclass
class _Batch:
    id: str
    provider: Provider
    requests: Sequence[tuple[str, Any]]
    """custom_id and the body of each."""
    ends_s: float
    """By time.monotonic."""
    fault: BatchFault
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    input_file_id: str = ""
    metadata: dict[str, str] | None = None
    made: list[_Made] | None = None
    """None until it has ended."""
    output_file_id: str | None = None
    error_file_id: str | None = None

    def count(self, end: End) -> int:
        return sum(made.end == end for made in self.made or ())


class RecordedBatches:
    """Batches and files, and their routes."""

    def __init__(self, answers: RecordedAnswers, books: FrontierLedger, batch_s: float, faults: BatchFaults) -> None:
        """`batch_s` is how long a batch takes."""
        self._answers, self._books = answers, books
        self._batch_s, self._faults = batch_s, faults
        self._batches: dict[str, _Batch] = {}
        self._files: dict[str, bytes] = {}

    def routes(self) -> list[web.RouteDef]:
        anthropic, openai = "/v1/messages/batches", "/v1/batches"
        return [
            web.post(anthropic, self._route("anthropic", self._create_message_batch)),
            web.get(anthropic, self._route("anthropic", self._list)),
            web.get(anthropic + "/{id}", self._route("anthropic", self._get)),
            web.get(anthropic + "/{id}/results", self._route("anthropic", self._results)),
            web.delete(anthropic + "/{id}", self._route("anthropic", self._delete)),
            web.post("/v1/files", self._route("openai", self._upload)),
            web.get("/v1/files", self._route("openai", self._list_files)),
            web.get("/v1/files/{id}/content", self._route("openai", self._content)),
            web.delete("/v1/files/{id}", self._route("openai", self._delete_file)),
            web.post(openai, self._route("openai", self._create_batch)),
            web.get(openai, self._route("openai", self._list)),
            web.get(openai + "/{id}", self._route("openai", self._get)),
        ]

    def _route(self, provider: Provider, respond: Callable[[web.Request, Provider], Any]) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                provider_side.authenticate(provider, request.headers)
                response: web.StreamResponse = await respond(request, provider)
                return response
            except RefusedError as exc:
                body = provider_side.error_body(provider, exc, f"req_{uuid.uuid4().hex}")
                return web.json_response(body, status=exc.status)

        return handle

    # -- making ---------------------------------------------------------------------------------------------------

    async def _create_message_batch(self, request: web.Request, provider: Provider) -> web.StreamResponse:
        asked = _json(await request.read())
        try:
            requests = [(each["custom_id"], each["params"]) for each in asked["requests"]]
        except (KeyError, TypeError) as exc:
            raise RefusedError("invalid_request_error", f"requests: {exc} is missing") from exc
        return await self._make(request, provider, requests)

    async def _upload(self, request: web.Request, _: Provider) -> web.StreamResponse:
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            raise RefusedError("invalid_request_error", "a file with purpose=batch is expected")
        with file.file as content:
            file_id = self._keep(content.read())
        return web.json_response({"id": file_id, "object": "file", "purpose": "batch", "filename": file.filename})

    async def _create_batch(self, request: web.Request, provider: Provider) -> web.StreamResponse:
        asked = _json(await request.read())
        content = self._files.get(asked.get("input_file_id", ""))
        if content is None or asked.get("endpoint") != ENDPOINT or asked.get("completion_window") != "24h":
            raise RefusedError("invalid_request_error", "input_file_id, endpoint or completion_window is wrong")
        lines = [_json(line) for line in content.split(b"\n") if line]
        requests = [(line["custom_id"], line["body"]) for line in lines]
        return await self._make(request, provider, requests, asked["input_file_id"], asked.get("metadata"))

    async def _make(
        self,
        request: web.Request,
        provider: Provider,
        requests: Sequence[tuple[str, Any]],
        input_file_id: str = "",
        metadata: dict[str, str] | None = None,
    ) -> web.StreamResponse:
        ids = [custom_id for custom_id, _ in requests]
        if not ids or len(set(ids)) < len(ids):
            raise RefusedError("invalid_request_error", "custom_id: each must be there once")
        fault = self._faults(provider) or BatchFault()
        if not fault.is_made:
            raise RefusedError("overloaded_error" if provider == "anthropic" else "service_unavailable", "Overloaded.")
        name = ("msgbatch_" if provider == "anthropic" else "batch_") + uuid.uuid4().hex
        batch = _Batch(name, provider, requests, time.monotonic() + self._batch_s, fault)
        batch.input_file_id, batch.metadata = input_file_id, metadata
        self._batches[name] = batch
        self._books.batches += 1
        # aiohttp sets no event when a caller hangs up: its handler can only look.
        while not fault.is_told and not (request.transport is None or request.transport.is_closing()):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return web.json_response(self._shown(batch))

    # -- ending ---------------------------------------------------------------------------------------------------

    def _end(self, batch: _Batch) -> None:
        """Answer all of it if its time is over."""
        if batch.made is None and time.monotonic() >= batch.ends_s:
            requests = () if batch.fault.fails else batch.requests
            batch.made = [
                self._ended(batch.provider, custom_id, body, batch.fault.end_of(number))
                for number, (custom_id, body) in enumerate(requests)
            ]
            if batch.provider == "openai":
                answered = [made for made in batch.made if made.end == "answered"]
                others = [made for made in batch.made if made.end != "answered"]
                batch.output_file_id = self._keep(_lines(answered)) if answered else None
                batch.error_file_id = self._keep(_lines(others)) if others else None

    def _ended(self, provider: Provider, custom_id: str, body: Any, end: End) -> _Made:
        if end == "expired":
            return _Made(_line(provider, custom_id, None, "expired"), end)
        if end == "errored":
            return _Made(_line(provider, custom_id, RefusedError("api_error", "It broke."), "errored"), end)
        try:
            asked = provider_side.read(provider, orjson.dumps(body))
            price = self._answers.price(provider, asked.model)
            answer = self._answers.answer(provider, asked)
            if answer.ticket_id is None:
                raise no_recording()
        except RefusedError as exc:
            return _Made(_line(provider, custom_id, exc, "errored"), "errored")
        reply = answer.reply
        cost_micro_usd = price.cost_micro_usd(reply.usage, batch=True)
        self._books.charge(reply.model, "delivered", cost_micro_usd, used_by(provider, reply.usage))
        return _Made(_line(provider, custom_id, provider_side.reply_body(provider, reply), "succeeded"), "answered")

    # -- showing --------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request, provider: Provider) -> web.StreamResponse:
        newest = [batch for batch in reversed(self._batches.values()) if batch.provider == provider]
        after = request.query.get("after_id" if provider == "anthropic" else "after")
        start = next((n for n, batch in enumerate(newest, 1) if batch.id == after), 0)
        limit = int(request.query.get("limit", "20"))
        page = newest[start : start + limit]
        ids = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        shown = [self._shown(batch) for batch in page]
        return web.json_response({"data": shown, "has_more": start + limit < len(newest), **ids})

    async def _get(self, request: web.Request, provider: Provider) -> web.StreamResponse:
        return web.json_response(self._shown(self._found(request, provider)))

    async def _results(self, request: web.Request, provider: Provider) -> web.StreamResponse:
        batch = self._found(request, provider)
        self._end(batch)
        if batch.made is None:
            raise RefusedError("not_found_error", "the batch has not ended")
        # In another order than asked, as providers may.
        return web.Response(body=_lines(reversed(batch.made)), content_type="application/x-jsonl")

    async def _list_files(self, _: web.Request, __: Provider) -> web.StreamResponse:
        files = [{"id": file_id, "object": "file", "bytes": len(content)} for file_id, content in self._files.items()]
        return web.json_response({"object": "list", "data": files, "has_more": False})

    async def _content(self, request: web.Request, _: Provider) -> web.StreamResponse:
        content = self._files.get(request.match_info["id"])
        if content is None:
            raise RefusedError("not_found_error", "no such file")
        return web.Response(body=content, content_type="application/octet-stream")

    async def _delete(self, request: web.Request, provider: Provider) -> web.StreamResponse:
        batch = self._found(request, provider)
        if batch.made is None:
            raise RefusedError("invalid_request_error", "the batch has not ended")
        del self._batches[batch.id]
        return web.json_response({"id": batch.id, "type": "message_batch_deleted"})

    async def _delete_file(self, request: web.Request, _: Provider) -> web.StreamResponse:
        file_id = request.match_info["id"]
        if self._files.pop(file_id, None) is None:
            raise RefusedError("not_found_error", "no such file")
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    def _found(self, request: web.Request, provider: Provider) -> _Batch:
        batch = self._batches.get(request.match_info["id"])
        if batch is None or batch.provider != provider:
            raise RefusedError("not_found_error", "no such batch")
        return batch

    def _shown(self, batch: _Batch) -> dict[str, object]:
        self._end(batch)
        return self._message_batch(batch) if batch.provider == "anthropic" else self._batch(batch)

    def _message_batch(self, batch: _Batch) -> dict[str, object]:
        ended = batch.made is not None
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {
                "processing": 0 if ended else len(batch.requests),
                "succeeded": batch.count("answered"),
                "errored": batch.count("errored"),
                "canceled": 0,
                "expired": batch.count("expired"),
            },
            "created_at": batch.created.isoformat(),
            "expires_at": datetime.fromtimestamp(batch.created.timestamp() + LIFE_S, UTC).isoformat(),
            "ended_at": datetime.now(UTC).isoformat() if ended else None,
            "results_url": f"https://api.anthropic.com/v1/messages/batches/{batch.id}/results" if ended else None,
        }

    def _batch(self, batch: _Batch) -> dict[str, object]:
        answered = batch.count("answered")
        status = "in_progress" if batch.made is None else "expired" if batch.count("expired") else "completed"
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "status": "failed" if batch.fault.fails and batch.made is not None else status,
            "input_file_id": batch.input_file_id,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": int(batch.created.timestamp()),
            "metadata": batch.metadata,
            "request_counts": {
                "total": len(batch.requests),
                "completed": answered,
                "failed": len(batch.made or ()) - answered,
            },
        }

    def _keep(self, content: bytes) -> str:
        file_id = f"file-{uuid.uuid4().hex}"
        self._files[file_id] = content
        return file_id


def _line(provider: Provider, custom_id: str, content: object, how: str) -> dict[str, Any]:
    """A line of the results: an answer's body, a RefusedError, or nothing for what has expired."""
    refused = content if isinstance(content, RefusedError) else None
    body = provider_side.error_body(provider, refused, f"req_{uuid.uuid4().hex}") if refused else content
    if provider == "anthropic":
        part = {"succeeded": {"message": body}, "errored": {"error": body}}.get(how, {})
        return {"custom_id": custom_id, "result": {"type": how, **part}}
    line: dict[str, Any] = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": None}
    if how == "expired":
        return {**line, "error": {"code": "batch_expired", "message": "It could not be executed in time."}}
    status = refused.status if refused else 200
    return {**line, "response": {"status_code": status, "request_id": uuid.uuid4().hex, "body": body}, "error": None}


def _lines(made: Any) -> bytes:
    return b"".join(orjson.dumps(each.line) + b"\n" for each in made)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RefusedError("invalid_request_error", "this is not JSON") from exc
