"""`GET /metrics`: Prometheus metrics of this process and of the semaphores that it shares."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from replicate_mcp.http_api.dependencies import AppDep, CallerDep
from replicate_mcp.http_api.openapi import FOR_CALLERS, Responses, error_responses
from replicate_mcp.semaphores.status import SemaphoreStatus
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800, 3600)

_TEXT: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

router = APIRouter()


class Metrics:
    """Observer that counts the events of this process's batches."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._creations = Counter(
            "replicate_mcp_creations", "Creations sent to Replicate", registry=registry
        )
        self._throttled = Counter(
            "replicate_mcp_throttled", "Creations answered with 429", registry=registry
        )
        self._lost = Counter(
            "replicate_mcp_responses_lost",
            "Creations whose response was lost and reconciled with the list of predictions",
            registry=registry,
        )
        self._again = Counter(
            "replicate_mcp_creations_retried",
            "Creations to be sent again because nothing was made",
            registry=registry,
        )
        self._resumed = Counter(
            "replicate_mcp_batches_resumed",
            "Batches resumed here after the process that ran them had ended",
            registry=registry,
        )
        self._tasks = Counter(
            "replicate_mcp_tasks", "Tasks ended, by outcome", ["outcome"], registry=registry
        )
        self._waiting = Histogram(
            "replicate_mcp_waiting_seconds",
            "How long a task waited before its creation was sent",
            buckets=_SECONDS,
            registry=registry,
        )
        self._at_replicate = Histogram(
            "replicate_mcp_replicate_seconds",
            "How long a task took from its creation to its result",
            buckets=_SECONDS,
            registry=registry,
        )

    def creation_sent(self, waited_seconds: float) -> None:
        """Count a creation that is sent after its task waited for `waited_seconds`."""
        self._creations.inc()
        self._waiting.observe(waited_seconds)

    def creation_throttled(self) -> None:
        """Count a creation answered with 429."""
        self._throttled.inc()

    def response_lost(self) -> None:
        """Count a creation whose answer was lost."""
        self._lost.inc()

    def creation_retried(self) -> None:
        """Count a task whose creation will be sent again."""
        self._again.inc()

    def batch_resumed(self) -> None:
        """Count a batch that was taken over from a process that has ended."""
        self._resumed.inc()

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        """Count a task's result, and the seconds it took at Replicate, if known."""
        outcome = "succeeded" if isinstance(result, TaskSuccess) else result.error_code
        self._tasks.labels(outcome).inc()
        if seconds_at_replicate is not None:
            self._at_replicate.observe(seconds_at_replicate)


@router.get(
    "/metrics",
    response_class=Response,
    responses=_TEXT | error_responses(401, 502),
    openapi_extra=FOR_CALLERS,
)
async def metrics(request: Request, app: AppDep, caller: CallerDep) -> Response:
    """Return metrics in Prometheus' text format.

    They cover the semaphores that the caller can see; for callers that use the server's token, also
    the counters of this process.
    """
    text = generate_latest(_semaphores(await app.semaphores.list_for(caller)))
    if not caller.has_own_token:
        counted: Metrics = request.app.state.metrics
        text += generate_latest(counted.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _semaphores(states: list[SemaphoreStatus]) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, what: str) -> Gauge:
        return Gauge(f"replicate_mcp_{name}", what, ["semaphore"], registry=registry)

    limit = gauge("semaphore_limit", "Predictions that may be in flight at once")
    in_use = gauge("permits_in_use", "Permits in use")
    waiting = gauge("permits_waiting", "Tasks that wait for a permit")
    utilisation = gauge("semaphore_utilisation", "Share of the limit in use")
    rate = gauge("requests_per_minute", "Creations a minute that the account is found to allow")
    for state in states:
        limit.labels(state.name).set(state.limit)
        in_use.labels(state.name).set(state.in_use)
        waiting.labels(state.name).set(state.waiting)
        utilisation.labels(state.name).set(state.in_use / state.limit)
        if state.requests_per_minute is not None:
            rate.labels(state.name).set(state.requests_per_minute)
    return registry
