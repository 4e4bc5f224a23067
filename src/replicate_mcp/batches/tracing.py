"""A span for each attempt, joined to the trace of the call that started its batch.

Without OpenTelemetry's SDK in the process, nothing is recorded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context

from replicate_mcp.tasks.result import TaskResult, TaskSuccess

_tracer = trace.get_tracer("replicate-mcp")


def present_context() -> Context:
    """Return the current trace context, for spans that begin later."""
    return context.get_current()


@contextmanager
def joined_to(headers: Mapping[str, str]) -> Iterator[None]:
    """Run the block in the trace that a request's headers (`traceparent`) name, if any."""
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def attempt_span(parent: Context, *, batch: str, task: int, model: str) -> Iterator[trace.Span]:
    """Yield a span for an attempt, without prompt and inputs."""
    attributes: dict[str, str | int] = {
        "replicate_mcp.batch": batch,
        "replicate_mcp.task": task,
        "gen_ai.request.model": model,
        "gen_ai.provider.name": "replicate",
    }
    with _tracer.start_as_current_span(
        f"prediction {model}", parent, trace.SpanKind.CLIENT, attributes
    ) as span:
        yield span


def record_result(span: trace.Span, result: TaskResult) -> None:
    """Add the result of an attempt to its span."""
    if result.prediction_id:
        span.set_attribute("replicate_mcp.prediction", result.prediction_id)
    if not isinstance(result, TaskSuccess):
        span.set_attribute("error.type", result.error_code)
        span.set_status(trace.StatusCode.ERROR, result.error_code)
