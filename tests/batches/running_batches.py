"""A running batch, reduced to its counts, for tests of values derived from them."""

from collections import deque
from types import SimpleNamespace
from typing import Any, cast

from opentelemetry.context import Context

from replicate_mcp.batches.dependencies import Dependencies
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.filenames import BatchFilenames


def running_batch(total: int = 4, **fields: Any) -> RunningBatch:
    """Return a batch whose account responds and whose backend admits."""
    given: dict[str, Any] = {
        "id": "b",
        "caller": "server",
        "account": "acme",
        "tasks": [cast(Any, None)] * total,
        "gateway": cast(Any, SimpleNamespace(unanswered_since=None)),
        "reconciler": cast(Any, None),
        "dispatcher": cast(Any, SimpleNamespace(paused_for=0.0)),
        "names": BatchFilenames([], []),
        "deadline": 0.0,
        "opened": 0.0,
        "trace": Context(),
        "pending": deque(),
        "dependencies": Dependencies([]),
        "entry": QueueEntry("b", (), "acme", 0),
        **fields,
    }
    return RunningBatch(**given)
