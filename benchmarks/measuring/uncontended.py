"""Duration of a task's two steps without contention, compared with the raw round trip."""

import asyncio
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio

from benchmarks.measuring.sharing import ACCOUNT, watched_stretch
from replicate_mcp.app.composition import open_backend
from replicate_mcp.backends.redis.connection import Address
from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.tasks.result import GeneratedFile, TaskSuccess

TASKS = 500
_WARM = 20
"""Number of tasks before the measured ones."""

_MODEL = "black-forest-labs/flux-schnell"
_OWN = account_semaphore(ACCOUNT)
_RATE = 1_000_000
_STEPS = ("evalsha", "eval")
"""Commands that are a round trip; the other commands counted by the server run inside scripts."""


@dataclass(frozen=True, slots=True)
class Uncontended:
    """Medians of one backend.

    Attributes:
        raw_ms: duration of a PING, or of an empty write transaction in another file beside ours.
        task_ms: duration of `record_attempts` and `finish` together.
        round_trips: round trips per task, as counted by the server; None without a server.
        held_up: share of the time for which the process waited for a core.
    """

    raw_ms: float
    task_ms: float
    round_trips: float | None
    held_up: float


@dataclass(frozen=True, slots=True)
class _Raw:
    """Raw round trip, and the server's count of steps, None without a server."""

    round_trip: Callable[[], Awaitable[object]]
    steps: Callable[[], Awaitable[int | None]]


def uncontended(backend: str) -> Uncontended:
    """Run the two steps of tasks one after another, with a raw round trip before each task."""
    return asyncio.run(_uncontended(backend))


async def _uncontended(location: str) -> Uncontended:
    raw_seconds, task_seconds, other_steps = [], [], 0
    backend = await open_backend(location)
    try:
        async with _raw(location) as raw:
            room = await _open(backend)
            before = await raw.steps()
            with watched_stretch() as stretch:
                for task in range(TASKS + _WARM):
                    while not room.offers:  # only if the rate is exhausted
                        await anyio.sleep(room.retry_in or 0)
                        room, other_steps = await backend.admit(), other_steps + 1
                    raw_seconds.append(await _timed(raw.round_trip))
                    began = time.perf_counter()
                    room = await _make(backend, room.offers[0].permit, task)
                    task_seconds.append(time.perf_counter() - began)
            after = await raw.steps()
    finally:
        await backend.close()
    counted = None if before is None or after is None else after - before - other_steps
    return Uncontended(
        raw_ms=statistics.median(raw_seconds[_WARM:]) * 1_000,
        task_ms=statistics.median(task_seconds[_WARM:]) * 1_000,
        round_trips=None if counted is None else counted / (TASKS + _WARM),
        held_up=stretch.held_up,
    )


async def _open(backend: Backend) -> AdmissionResult:
    """Open a batch whose tasks are admitted one at a time, each when the previous one ends."""
    count = TASKS + _WARM
    await backend.declare_limit(_OWN, 1, per_minute=_RATE)
    tasks = tuple(JournalTask(f"a red car {task}", f"{task}.png", _MODEL) for task in range(count))
    batch = NewBatch("uncontended", "server", ACCOUNT, "replicate-global", tasks)
    return await backend.open_batch(batch, QueueEntry(batch.id, (_OWN,), ACCOUNT, count))


async def _make(backend: Backend, permit: int, task: int) -> AdmissionResult:
    """Run a task's two steps without the prediction between them."""
    prompt = f"a red car {task}"
    attempt = Attempt(
        "uncontended", task, _MODEL, hash_inputs({"prompt": prompt}), 600, time.time(), 700
    )
    noted = await backend.record_attempts({permit: attempt})
    assert permit in noted.cancel_after, "the offer is gone"
    made = GeneratedFile(
        url=f"https://replicate.delivery/{task}.png",
        filename=f"{task}.png",
        expires_at=datetime.now(UTC),
    )
    result = TaskSuccess(
        task_index=task,
        prompt=prompt,
        output_filename=made.filename,
        model=_MODEL,
        prediction_id=f"prediction{task}",
        count=1,
        generated_files=(made,),
    )
    room = await backend.finish(permit, "uncontended", result)
    assert room is not None, "the prediction is another's"
    return room


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


@asynccontextmanager
async def _raw(location: str) -> AsyncIterator[_Raw]:
    if location.startswith("sqlite"):
        path = location.removeprefix("sqlite:///") + ".raw"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")

        async def transaction() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")

        async def uncounted() -> None:
            return None

        yield _Raw(transaction, uncounted)
        connection.close()
        return

    from redis.asyncio import Redis

    async with Redis.from_url(Address.parse(location).url) as client:

        async def steps() -> int:
            counts: dict[str, Any] = await client.info("commandstats")
            return sum(counts.get(f"cmdstat_{name}", {}).get("calls", 0) for name in _STEPS)

        yield _Raw(client.ping, steps)
