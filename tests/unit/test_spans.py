"""Spans: which ids they have, what hangs together, when they are written, and what they never say."""

import json

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from schemas.generations import Usage
from schemas.topics import RETRY
from streams.runtime.headers import Parked, parked_headers, trace_of
from streams.runtime.spans import OneDecisionATrace, PlannedIds, Spans
from streams.runtime.stage import Done, Origin
from tests.dispatching import QUICK_RETRY, Worker, done, polled, processing, until, worked_off
from workers.errors import PermanentError, RetryableError
from workers.model_calls import model_call

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = (("traceparent", f"00-{TRACE}-{PARENT}-01".encode()),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00".encode()),)


class Written:
    """Spans of a stage that are kept in memory, in the order in which they were written."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._kept = InMemorySpanExporter()
        ids = PlannedIds()
        provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
        provider.sampler = OneDecisionATrace(sampler or provider.sampler)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.spans = Spans("router", provider, ids)

    def named(self, start: str) -> list[ReadableSpan]:
        return [span for span in self._kept.get_finished_spans() if span.name.startswith(start)]

    @property
    def records(self) -> list[ReadableSpan]:
        return [span for span in self.named("process") if not span.name.endswith("batch")]

    @property
    def batches(self) -> list[ReadableSpan]:
        return [span for span in self.named("process") if span.name.endswith("batch")]


def ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


async def test_a_record_is_a_span_of_its_trace_and_its_outputs_name_it() -> None:
    """The helpdesk's span is its parent; the answer and the event carry its id."""
    worker, written = Worker(), Written()
    async with processing(worker, spans=written.spans) as process:
        delivery = process.poll(process.open(), polled(7, "t7", headers=INCOMING))
        await worked_off(worker, lambda: bool(written.records))
    (span,) = written.records
    assert (span.name, span.kind) == ("process tickets", SpanKind.CONSUMER)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    sent = {dict(message.headers)["traceparent"] for message in delivery.messages}
    assert sent == {f"00-{TRACE}-{span.context.span_id:016x}-01".encode()}
    attributes = dict(span.attributes or {})
    assert attributes["messaging.system"] == "kafka"
    assert attributes["messaging.destination.name"] == "tickets"
    assert attributes["messaging.destination.partition.id"] == "0"
    assert attributes["messaging.kafka.offset"] == 7
    assert attributes["headgate.outcome"] == "answered"
    assert attributes["headgate.ticket_id"] == "t7"


async def test_a_record_that_is_done_again_has_the_same_span() -> None:
    """Another process, after a crash: nobody can tell by the trace which of them it was."""

    async def span_of_a() -> ReadableSpan:
        worker, written = Worker(), Written()
        async with processing(worker, spans=written.spans) as process:
            process.names(process.open(), "a")
            await worked_off(worker, lambda: bool(written.records))
        return written.records[0]

    once, again = await span_of_a(), await span_of_a()
    assert ids(once) == ids(again)
    assert once.parent is again.parent is None


async def test_nothing_is_written_before_the_commit() -> None:
    """What is dropped with its partition did not happen."""
    worker, written = Worker(), Written()
    async with processing(worker, spans=written.spans) as process:
        partition = process.open()
        delivery = process.names(partition, "a")
        delivery.flowing.clear()
        await worked_off(worker, lambda: delivery.begun == 1)
        assert written.records == []
        process.revoke(partition)
    assert written.records == []


async def test_a_batch_and_its_records_link_to_each_other() -> None:
    """The batch belongs to no ticket's trace; from either side one finds the other."""
    worker, written = Worker(), Written()
    async with processing(worker, batch_size=8, max_in_flight=16, spans=written.spans) as process:
        process.names(process.open(), "a", "b", "c")
        await worked_off(worker, lambda: len(written.records) == 3)
    (batch,) = written.batches
    assert batch.parent is None
    assert (batch.attributes or {})["messaging.batch.message_count"] == 3
    assert sorted((link.context.trace_id, link.context.span_id) for link in batch.links) == sorted(
        ids(record) for record in written.records
    )
    assert {(link.context.trace_id, link.context.span_id) for r in written.records for link in r.links} == {ids(batch)}
    assert batch.context.trace_id not in {record.context.trace_id for record in written.records}


async def test_a_record_that_is_tried_again_is_one_span_that_links_to_every_batch() -> None:
    """It begins with its first call."""
    worker, written = Worker(), Written()
    async with processing(worker, batch_size=8, max_in_flight=16, retry=QUICK_RETRY, spans=written.spans) as process:
        process.names(process.open(), "a")
        await until(lambda: bool(worker.open))
        worker.open[0].end(RetryableError("busy"))
        await until(lambda: bool(worker.open))
        worker.open[0].end()
        await until(lambda: bool(written.records))
    (record,) = written.records
    assert len(written.batches) == len(record.links) == 2
    assert (record.attributes or {})["headgate.attempts"] == 2
    assert record.start_time is not None
    assert record.start_time <= min(batch.start_time or 0 for batch in written.batches)


async def test_a_dead_letter_is_an_error_with_its_reason() -> None:
    """The class and the reason, as in the log; the ticket's text is nowhere."""
    worker, written = Worker(), Written()
    async with processing(worker, spans=written.spans) as process:
        process.poll(process.open(), polled(0, "a"), polled(1, "b", value=b"a secret that is no ticket"))
        await worked_off(worker, lambda: len(written.records) == 2, PermanentError("hopeless"))
    failed, poison = sorted(written.records, key=lambda span: (span.attributes or {})["messaging.kafka.offset"])
    assert failed.status.status_code is poison.status.status_code is StatusCode.ERROR
    assert failed.status.description == "PermanentError: hopeless"
    assert (failed.attributes or {})["error.type"] == "PermanentError"
    assert (poison.attributes or {})["error.type"] == "PoisonError"
    said = json.dumps([json.loads(span.to_json()) for span in written.records])
    assert "secret" not in said
    assert "router" not in said


async def test_a_parked_record_has_its_span_when_it_is_done() -> None:
    """Under the id of the place that it was parked from: its outputs say so, too."""
    worker, written = Worker(), Written()
    origin = Origin("tickets", 0, 5)
    life = parked_headers(Parked(origin, 1.0, 1, 1.0, 0.0), INCOMING)
    async with processing(worker, spans=written.spans) as process:
        partition = process.open(twin=RETRY)
        process.poll(partition, polled(0, "a", partition.id, headers=life))
        await worked_off(worker, lambda: bool(written.records))
    (span,) = written.records
    assert f"{span.context.span_id:016x}".encode() == trace_of("router", origin, INCOMING).span_id
    assert span.name == f"process tickets{RETRY}"


async def test_parking_writes_no_span() -> None:
    """It is no end."""
    worker, written = Worker(), Written()
    async with processing(worker, spans=written.spans) as process:
        partition = process.open()
        delivery = process.names(partition, "a")
        await until(lambda: bool(worker.open))
        worker.open[0].end(RetryableError("busy"))
        await until(lambda: bool(partition.resting))
        process.dispatcher._park_lowest(partition)
        await until(lambda: bool(delivery.commits))
    assert [m.twin for m in delivery.messages] == [RETRY]
    assert written.records == []


async def test_a_call_to_a_model_is_a_span_within_the_records() -> None:
    """Two calls for one record are two spans: a call that is made again is paid for again."""
    written = Written()

    async def handle(records: object) -> list[Done]:
        (record,) = records  # type: ignore[misc]
        with pytest.raises(RetryableError), model_call("anthropic", "m-1", 500):
            raise RetryableError("a text that nobody is to see")
        with model_call("anthropic", "m-1", 500) as seen:
            seen.answered("m-1-2026", "stop", Usage(prompt_tokens=40, completion_tokens=7, cached_tokens=30))
        return [done(record)]

    async with processing(handle, spans=written.spans) as process:  # type: ignore[arg-type]
        process.names(process.open(), "a")
        await until(lambda: bool(written.records))
    failed, answered = written.named("chat m-1")
    (record,) = written.records
    for call in (failed, answered):
        assert call.kind is SpanKind.CLIENT
        assert call.parent is not None
        assert (call.parent.trace_id, call.parent.span_id) == ids(record)
    assert failed.context.span_id != answered.context.span_id
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "RetryableError"
    assert "nobody" not in failed.to_json()
    assert dict(answered.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m-1",
        "gen_ai.request.max_tokens": 500,
        "gen_ai.response.model": "m-1-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 30,
        "gen_ai.usage.output_tokens": 7,
    }


async def test_an_unsampled_trace_stays_unsampled() -> None:
    """The helpdesk has decided; its flag travels on."""
    worker, written = Worker(), Written()
    async with processing(worker, spans=written.spans) as process:
        delivery = process.poll(process.open(), polled(0, "a", headers=UNSAMPLED))
        await worked_off(worker, lambda: bool(delivery.commits))
    assert written.records == []
    assert dict(delivery.messages[0].headers)["traceparent"].endswith(b"-00")


@pytest.mark.parametrize("sampler", [TraceIdRatioBased(0.5), ParentBased(TraceIdRatioBased(0.5))])
async def test_all_stages_sample_the_same_traces(sampler: Sampler) -> None:
    """The stage where a trace begins and the one that gets it from there decide alike, whatever the flag says."""
    worker, first, second = Worker(), Written(sampler), Written(sampler)
    names = [f"t{number}" for number in range(60)]
    async with processing(worker, max_in_flight=60, spans=first.spans) as process:
        delivery = process.names(process.open(), *names)
        await worked_off(worker, lambda: len(delivery.names()) == len(names))
    passed_on = [m.headers for m in delivery.messages if m.topic_name == "answers"]
    async with processing(worker, max_in_flight=60, spans=second.spans) as process:
        again = process.poll(process.open(), *(polled(n, headers=h) for n, h in enumerate(passed_on)))
        await worked_off(worker, lambda: len(again.names()) == len(names))
    traces = {span.context.trace_id for span in first.records}
    assert 0 < len(traces) < len(names)
    assert traces == {span.context.trace_id for span in second.records}
