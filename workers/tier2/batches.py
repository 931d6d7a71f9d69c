"""The providers' batch interfaces over HTTP: submit, find again, collect. One small protocol for both.

No provider promises that the same submission sent twice becomes one batch, so a submission whose answer was lost must
be looked for before it is sent again. What is found counts as ours only on evidence: OpenAI keeps our key with the
batch, Anthropic shows our custom_ids in its results.
"""

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

import httpx
import msgspec
import orjson
from msgspec import Struct

from workers.errors import PermanentError, RetryableError
from workers.tier2 import batch_wire, connection, wire
from workers.tier2.batch_wire import ENDPOINT, METADATA_KEY, BatchRequest, Outcome
from workers.tier2.targets import Target

PAGE = 100
"""Batches of one page of a list: OpenAI's most."""
CLOCK_SLACK_S = 300.0
"""How far the provider's clock may be from ours (a guess)."""

S = TypeVar("S", bound=Struct)


class NotKnownYetError(RetryableError):
    """Whether a batch was submitted can't be said until another one, which may be it, has ended."""


class BatchFailedError(wire.TurnedAwayError):
    """The provider found the batch to be wrong as a whole, or had no room for it: nothing of it was executed."""


class NoSuchBatchError(wire.TargetError):
    """The provider has no such batch, or has thrown its results away."""


class BatchApi(Protocol):
    """One provider's batches. All raise RetryableError where it may go better later, and PermanentError."""

    async def submit(self, key: str, requests: Sequence[BatchRequest]) -> str:
        """Submit a batch under a key of ours; each custom_id begins with it. Returns the provider's id.

        Raises: TurnedAwayError, NotSentError, RejectedError if there certainly is no batch now; any other
        RetryableError or PermanentError if there may be one.
        """

    async def find(self, key: str, size: int, since_s: float, until_s: float, others: Collection[str]) -> str | None:
        """The id of the batch that was submitted under the key; None if the provider lists none.

        `size` is its number of requests, `since_s` and `until_s` when it was submitted at the earliest and at the
        latest, seconds since the epoch; `others` are ids of batches that are known to be others.

        Raises: NotKnownYetError.
        """

    async def outcomes(self, batch_id: str) -> dict[str, Outcome] | None:
        """The results by custom_id once the batch has ended, else None. A request may be missing in them.

        Raises: BatchFailedError; NoSuchBatchError.
        """

    async def delete(self, batch_id: str) -> None:
        """Delete what the provider keeps of a batch that has ended: what was asked, and what was answered."""


class _Provider:
    """An async context manager: closes the connections."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        """`timeout_s` is for each HTTP request; a submission is one."""
        self.target = target
        self.timeout_s = timeout_s
        self._http = connection.client(target.base_url)
        self._headers = wire.auth(target.provider, target.api_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def _request(self, method: Literal["GET", "POST", "DELETE"], path: str, **content: Any) -> bytes:
        headers = self._headers | content.pop("headers", {})
        async with connection.within(self.timeout_s):
            response = await self._http.request(method, path, headers=headers, **content)
        if response.status_code != 200:
            raise self._failure(response, response.content)
        return response.content

    def _failure(self, response: httpx.Response, body: bytes) -> RetryableError | PermanentError:
        # A provider's message may quote any ticket of the batch.
        failure = wire.failure(response.status_code, response.headers, body, time.time(), None)
        return NoSuchBatchError(failure.reason) if response.status_code == 404 else failure


class AnthropicBatches(_Provider):
    """Message Batches: the requests in one POST, the results in one file."""

    async def submit(self, key: str, requests: Sequence[BatchRequest]) -> str:
        """See `BatchApi`; the key is in the custom_ids alone."""
        body = batch_wire.submission("anthropic", requests)
        headers = {"content-type": "application/json"}
        return _decoded(
            _MessageBatch, await self._request("POST", "/v1/messages/batches", content=body, headers=headers)
        ).id

    async def find(self, key: str, size: int, since_s: float, until_s: float, others: Collection[str]) -> str | None:
        """See `BatchApi`. Whose a batch is can be seen once it has ended: then its results show custom_ids."""
        unknown = False
        async for batch in self._listed(since_s - CLOCK_SLACK_S):
            if batch.id in others or batch.request_counts.total != size:
                continue
            # Else somebody else's batches would be waited for, one after the other.
            if batch.created_at.timestamp() > until_s + CLOCK_SLACK_S:
                continue
            if batch.processing_status != "ended":
                unknown = True
            elif batch.results_url and (await self._first_custom_id(batch.id)).startswith(f"{key}-"):
                return batch.id
        if unknown:
            raise NotKnownYetError("a batch of the same size is under way")
        return None

    async def outcomes(self, batch_id: str) -> dict[str, Outcome] | None:
        """See `BatchApi`."""
        batch = _decoded(_MessageBatch, await self._request("GET", f"/v1/messages/batches/{batch_id}"))
        if batch.processing_status != "ended":
            return None
        # The path and not results_url, which is another host's where a gateway stands between: the key stays here.
        results = await self._request("GET", f"/v1/messages/batches/{batch_id}/results")
        return batch_wire.outcomes("anthropic", results.split(b"\n"))

    async def delete(self, batch_id: str) -> None:
        """See `BatchApi`."""
        await self._request("DELETE", f"/v1/messages/batches/{batch_id}")

    async def _listed(self, since_s: float) -> AsyncIterator["_MessageBatch"]:
        """Batches made since then, the newest first."""
        after: dict[str, str] = {}
        while True:
            params = {"limit": str(PAGE), **after}
            page = _decoded(_MessageBatches, await self._request("GET", "/v1/messages/batches", params=params))
            for batch in page.data:
                if batch.created_at.timestamp() < since_s:
                    return
                yield batch
            if not page.has_more or not page.data:
                return
            after = {"after_id": page.data[-1].id}

    async def _first_custom_id(self, batch_id: str) -> str:
        """Of the results, without reading all of them."""
        path = f"/v1/messages/batches/{batch_id}/results"
        async with (
            connection.within(self.timeout_s),
            self._http.stream("GET", path, headers=self._headers) as response,
        ):
            if response.status_code != 200:
                raise self._failure(response, await response.aread())
            async for line in response.aiter_lines():
                return batch_wire.custom_id(line.encode())
        return ""


class OpenAIBatches(_Provider):
    """The Batch API: the requests as an uploaded file, the results as one or two."""

    async def submit(self, key: str, requests: Sequence[BatchRequest]) -> str:
        """See `BatchApi`; the key is in the batch's metadata, too."""
        # Both requests together: whoever looks for a lost batch takes a submission to be over by then.
        async with connection.within(self.timeout_s):
            return await self._submit(key, requests)

    async def _submit(self, key: str, requests: Sequence[BatchRequest]) -> str:
        file = (f"{key}.jsonl", batch_wire.submission("openai", requests), "application/jsonl")
        try:
            uploaded = await self._request("POST", "/v1/files", data={"purpose": "batch"}, files={"file": file})
        except RetryableError as exc:
            # A file is no batch, whatever became of it.
            raise wire.TurnedAwayError(exc.reason, exc.retry_after_s) from exc
        file_id = _decoded(_File, uploaded).id
        asked = {
            "input_file_id": file_id,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {METADATA_KEY: key},
        }
        headers = {"content-type": "application/json"}
        try:
            made = await self._request("POST", "/v1/batches", content=orjson.dumps(asked), headers=headers)
        except (connection.NotSentError, wire.TurnedAwayError, wire.RejectedError):
            # Left there, it goes when the provider's own time is over; why there is no batch counts more.
            with suppress(RetryableError, PermanentError):
                await self._delete_file(file_id)
            raise
        return _decoded(_Batch, made).id

    async def find(self, key: str, size: int, since_s: float, until_s: float, others: Collection[str]) -> str | None:
        """See `BatchApi`; the key says it at once."""
        after: dict[str, str] = {}
        while True:
            params = {"limit": str(PAGE), **after}
            page = _decoded(_Batches, await self._request("GET", "/v1/batches", params=params))
            for batch in page.data:
                if (batch.metadata or {}).get(METADATA_KEY) == key:
                    return batch.id
            if not page.has_more or not page.data or page.data[-1].created_at < since_s - CLOCK_SLACK_S:
                return None
            after = {"after": page.data[-1].id}

    async def outcomes(self, batch_id: str) -> dict[str, Outcome] | None:
        """See `BatchApi`."""
        batch = await self._batch(batch_id)
        if batch.status == "failed":
            raise BatchFailedError("the batch failed as a whole")
        if batch.status not in ("completed", "expired", "cancelled"):
            return None
        found: dict[str, Outcome] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                content = await self._request("GET", f"/v1/files/{file_id}/content")
                found |= batch_wire.outcomes("openai", content.split(b"\n"))
        return found

    async def delete(self, batch_id: str) -> None:
        """See `BatchApi`: the files. The batch stays in the list, with our key and no word of a ticket."""
        batch = await self._batch(batch_id)
        for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
            if file_id:
                await self._delete_file(file_id)

    async def _batch(self, batch_id: str) -> "_Batch":
        return _decoded(_Batch, await self._request("GET", f"/v1/batches/{batch_id}"))

    async def _delete_file(self, file_id: str) -> None:
        await self._request("DELETE", f"/v1/files/{file_id}")


def batches_of(target: Target, timeout_s: float) -> AnthropicBatches | OpenAIBatches:
    """The batch interface behind a target."""
    return (AnthropicBatches if target.provider == "anthropic" else OpenAIBatches)(target, timeout_s)


class _Counts(Struct):
    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _MessageBatch(Struct):
    id: str
    processing_status: str
    request_counts: _Counts
    created_at: datetime
    results_url: str | None = None


class _MessageBatches(Struct):
    data: list[_MessageBatch]
    has_more: bool = False


class _File(Struct):
    id: str


class _Batch(Struct):
    id: str
    status: str
    created_at: int
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    metadata: dict[str, str] | None = None


class _Batches(Struct):
    data: list[_Batch]
    has_more: bool = False


def _decoded(shape: type[S], body: bytes) -> S:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise wire.BrokenAnswerError(f"the response is not what was asked for: {exc}") from exc
