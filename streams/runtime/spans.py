"""A stage's spans for OpenTelemetry: one a record, one a batch, one a call to a model.

A record's span is written after its commit, as its line in the log is: what is traced did happen. Its id is the one
that its outputs name as their parent (`headers.trace_of`), so a ticket is one trace through all stages. The record
done again has the same span; a call to a model that is made again is another one in it.

Names and attributes are those of the semantic conventions for messaging and for generative AI (1.4x, both in
development), our own begin with `headgate.`. Texts are in none of them.

Only imported where spans are collected: it needs the extra `telemetry`.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from msgspec import Struct
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from streams.runtime.headers import Parked, Trace, trace_of
from streams.runtime.messages import Settled
from streams.runtime.partition import Work
from streams.runtime.stage import DeadLetter, Done
from workers.model_calls import WATCHER, ModelCall

Attributes = dict[str, AttributeValue]


class Begun(Struct):
    """A record's work so far."""

    at_ns: int
    """Of its first call, since the epoch."""
    batches: list[Link]
    """The batches that it was in; several if it was tried again."""


class OneDecisionATrace(Sampler):
    """Samples by trace id alone, so that all stages decide alike, each for itself. Only a record that comes with an
    unsampled trace is settled already."""

    def __init__(self, inner: Sampler) -> None:
        """`inner` decides as of a trace's first span."""
        self._inner = inner

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        """See Sampler."""
        parent = get_current_span(parent_context).get_span_context()
        if parent.is_valid and not parent.trace_flags.sampled:
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(None, trace_id, name, *args, **kwargs)

    def get_description(self) -> str:
        """See Sampler."""
        return f"OneDecisionATrace({self._inner.get_description()})"


class PlannedIds(RandomIdGenerator):
    """Gives the next span the ids that are planned for it, and random ones where none are."""

    def __init__(self) -> None:
        self.planned: Trace | None = None

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        return int(self.planned.trace_id, 16) if self.planned else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """See IdGenerator."""
        return int(self.planned.span_id, 16) if self.planned else super().generate_span_id()

    def is_trace_id_random(self) -> bool:
        """No: as random as a hash."""
        return False


class Spans:
    """Writes the spans of one stage."""

    def __init__(self, stage: str, provider: TracerProvider, ids: PlannedIds) -> None:
        """`ids` are the provider's."""
        self._stage = stage
        self._ids = ids
        self._tracer = provider.get_tracer("headgate")

    @contextmanager
    def call(self, works: Sequence[Work[Any]], batched: bool) -> Iterator[None]:
        """Around a call of the handler. The batch's span links to its records', and each of these to the batch's."""
        now_ns = time.time_ns()
        begun = [_begun(work, now_ns) for work in works]
        if not batched:
            with self._watching(self._own(works[0])):
                yield
            return
        name, links = works[0].source.topic, [Link(self._own(work)) for work in works]
        attributes = {**_process(name), "messaging.batch.message_count": len(works)}
        batch = self._tracer.start_span(
            f"process {name} batch", Context(), SpanKind.CONSUMER, attributes, links, start_time=now_ns
        )
        for its in begun:
            its.batches.append(Link(batch.get_span_context()))
        try:
            with self._watching(batch.get_span_context()):
                yield
        finally:
            batch.end()

    @contextmanager
    def _watching(self, parent: SpanContext) -> Iterator[None]:
        """Calls to models in here are the parent's."""
        token = WATCHER.set(partial(self._called, _within(parent)))
        try:
            yield
        finally:
            WATCHER.reset(token)

    def write(self, commit: Iterable[tuple[Work[Any], Settled]]) -> None:
        """The records of a commit. A parked one has its span when it is done."""
        now_ns = time.time_ns()
        for work, settled in commit:
            if not isinstance(settled.result, Parked):
                self._write(work, settled.result, settled.attempts, now_ns)

    def _write(self, work: Work[Any], result: Done | DeadLetter, attempts: int, now_ns: int) -> None:
        # One that no handler saw (poison, a duplicate) begins and ends here.
        trace, begun = self._trace(work), _begun(work, now_ns)
        self._ids.planned = trace
        try:
            span = self._tracer.start_span(
                f"process {work.source.topic}",
                _within(_context(trace, trace.parent_id, is_remote=True)) if trace.parent_id else Context(),
                SpanKind.CONSUMER,
                _of_record(work, result, attempts),
                begun.batches,
                begun.at_ns,
            )
        finally:
            self._ids.planned = None
        if isinstance(result, DeadLetter):
            span.set_status(Status(StatusCode.ERROR, result.reason))
        span.end(now_ns)

    def _called(self, parent: Context, call: ModelCall) -> None:
        began_ns, ended_ns = int(call.began_s * 1e9), int(call.ended_s * 1e9)
        span = self._tracer.start_span(
            f"chat {call.model}", parent, SpanKind.CLIENT, _of_call(call), start_time=began_ns
        )
        if call.error:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    def _trace(self, work: Work[Any]) -> Trace:
        return trace_of(self._stage, work.origin, tuple(work.source.headers))

    def _own(self, work: Work[Any]) -> SpanContext:
        """The record's span, which is written later."""
        trace = self._trace(work)
        return _context(trace, trace.span_id, is_remote=False)


def _begun(work: Work[Any], now_ns: int) -> Begun:
    work.begun = work.begun or Begun(now_ns, [])
    return work.begun


def _within(parent: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _context(trace: Trace, span_id: bytes, is_remote: bool) -> SpanContext:
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(int(trace.flags, 16)))


def _process(topic: str) -> Attributes:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
    }


def _of_record(work: Work[Any], result: Done | DeadLetter, attempts: int) -> Attributes:
    """What its log line says, too."""
    source = work.source
    attributes = _process(source.topic) | {
        "messaging.destination.partition.id": str(source.partition),
        "messaging.kafka.offset": source.offset,
        "headgate.attempts": attempts,
    }
    if isinstance(result, DeadLetter):
        return attributes | {"headgate.outcome": "dead_lettered", "error.type": result.exception or "DeadLetter"}
    event = result.event
    return attributes | {
        "headgate.outcome": event.outcome,
        "headgate.ticket_id": event.ticket_id,
        "headgate.category": event.category,
        "headgate.tier": event.tier,
        "headgate.reasons": event.reasons,
        "headgate.cost_usd": event.cost_usd,
        "headgate.age_s": event.age_s,
    }


def _of_call(call: ModelCall) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": call.provider,
        "gen_ai.request.model": call.model,
        "gen_ai.request.max_tokens": call.max_tokens,
    }
    if call.usage:
        attributes |= {
            "gen_ai.response.model": call.answered_by,
            "gen_ai.response.finish_reasons": (call.finish_reason,),
            "gen_ai.usage.input_tokens": call.usage.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": call.usage.cached_tokens,
            "gen_ai.usage.output_tokens": call.usage.completion_tokens,
        }
    return attributes | ({"error.type": call.error} if call.error else {})
