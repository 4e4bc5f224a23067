"""The span of an attempt: its attributes, its status and its trace."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batches.direct import Replicate, running_process, task
from batches.test_outcome import TASK
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches import tracing
from replicate_mcp.batches.outcome import failure
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

MADE = TaskSuccess(
    task_index=0,
    output_filename="fox",
    model="owner/name",
    prediction_id="p1",
    count=0,
    generated_files=(),
)
ATTRIBUTES = {
    "replicate_mcp.batch": "b_1",
    "replicate_mcp.task": 3,
    "gen_ai.request.model": "owner/name",
    "gen_ai.provider.name": "replicate",
}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Return a list that collects ended spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("replicate-mcp"))
    yield exporter
    provider.shutdown()


def attempt_ended(exporter: InMemorySpanExporter, result: TaskResult) -> ReadableSpan:
    parent = tracing.present_context()
    with tracing.attempt_span(parent, batch="b_1", task=3, model="owner/name") as span:
        tracing.record_result(span, result)
    (ended,) = exporter.get_finished_spans()
    return ended


@pytest.mark.parametrize(
    ("result", "more", "status"),
    [
        (MADE, {"replicate_mcp.prediction": "p1"}, (trace.StatusCode.UNSET, None)),
        (
            failure(TASK, "no_output", "There is none.", prediction_id="p2"),
            {"replicate_mcp.prediction": "p2", "error.type": "no_output"},
            (trace.StatusCode.ERROR, "no_output"),
        ),
        (
            failure(TASK, "invalid_input", "It is wrong."),
            {"error.type": "invalid_input"},
            (trace.StatusCode.ERROR, "invalid_input"),
        ),
    ],
)
def test_span_has_the_prediction_and_error_of_its_attempt(
    spans: InMemorySpanExporter,
    result: TaskResult,
    more: dict[str, str],
    status: tuple[trace.StatusCode, str | None],
) -> None:
    span = attempt_ended(spans, result)
    assert (span.name, span.kind) == ("prediction owner/name", trace.SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {**ATTRIBUTES, **more}
    assert (span.status.status_code, span.status.description) == status


def test_span_joins_only_the_trace_named_in_the_headers(
    spans: InMemorySpanExporter,
) -> None:
    with tracing.joined_to(HEADERS):
        joined = attempt_ended(spans, MADE)
    spans.clear()
    alone = attempt_ended(spans, MADE)
    assert joined.context is not None
    assert alone.context is not None
    assert f"{joined.context.trace_id:032x}" == TRACE
    assert joined.parent is not None
    assert f"{joined.parent.span_id:016x}" == "b7ad6b7169203331"
    assert f"{alone.context.trace_id:032x}" != TRACE
    assert alone.parent is None


@in_virtual_time
async def test_each_attempt_of_a_batch_is_a_span_in_its_trace(
    spans: InMemorySpanExporter,
) -> None:
    replicate = Replicate(predict_seconds=5)
    async with running_process(limit=1) as process:
        with tracing.joined_to(HEADERS):
            batch = await process.start(
                replicate.gateway(), task(0, "a secret car"), task(1, "b [fail]")
            )
        rows = await process.rows(batch)
    ended = spans.get_finished_spans()
    found = {span.attributes["replicate_mcp.task"]: span for span in ended if span.attributes}
    assert sorted(found, key=str) == [0, 1]
    for index, span in found.items():
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
        assert span.attributes is not None
        assert isinstance(index, int)
        assert span.attributes["replicate_mcp.batch"] == batch.id
        assert span.attributes["replicate_mcp.prediction"] == rows[index].prediction_id
        assert "secret" not in str(dict(span.attributes))
    assert [found[index].status.description for index in (0, 1)] == [None, "prediction_failed"]
