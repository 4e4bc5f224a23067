"""Helpers that orphan attempts, as a dead process does, and wait for their recovery."""

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import anyio
import httpx

from batches.direct import ACCOUNT, MODEL, OWN, Answer, Forward, Process
from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.batches.recovery import Recovery
from replicate_mcp.replicate_api.attempt_matching import CLOCK_SLACK, hash_inputs
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

CAR: Mapping[str, Any] = {"prompt": "a red car"}


async def left(
    process: Process,
    *inputs: Mapping[str, Any],
    waiting: int = 0,
    batch: str = "b_1",
    cancel_after: int = 600,
    sent_at: float | None = None,
    names: Mapping[int, str] = MappingProxyType({}),
    held: tuple[int, ...] = (),
) -> list[int]:
    """Record an attempt for each of these inputs, sent now, and orphan it; return their permits.

    Unless tasks wait, the batch has no process either, and may not be run on.

    Args:
        waiting: number of further tasks, which wait as if the batch ran on in another process.
        sent_at: time on Replicate's clock; None for this machine's time.
        names: `output_filename` of tasks whose name is not `car`.
        held: indexes of attempts that stay this process's own.
    """
    store = process.store
    count = len(inputs) + waiting
    journal = tuple(JournalTask(f"prompt {n}", names.get(n, "car"), MODEL) for n in range(count))
    admission = await store.open_batch(
        NewBatch(batch, "server", ACCOUNT, "replicate-global", journal),
        QueueEntry(batch, (OWN,), ACCOUNT, count),
    )
    offers = [each.permit for each in admission.offers if each.entry == batch][: len(inputs)]
    attempts = {
        permit: Attempt(
            batch=batch,
            task=place,
            model=MODEL,
            inputs=hash_inputs(inputs[place]),
            cancel_after=cancel_after,
            sent_at=(time.time() if sent_at is None else sent_at) - CLOCK_SLACK,
            max_seconds=cancel_after + 120,
        )
        for place, permit in enumerate(offers)
    }
    recorded = await store.record_attempts(attempts)
    assert len(recorded.cancel_after) == len(inputs)
    for place, permit in enumerate(offers):
        if place not in held:
            await store.abandon(permit)
    if not waiting:
        await store.dequeue(batch)
        await store._step(lambda _, journal: journal._db.execute("UPDATE batch SET holder = ''"))
    return offers


async def recovered(process: Process, count: int = 1, batch: str = "b_1") -> dict[int, TaskResult]:
    """Wait until `count` tasks of a batch have their rows; return them by task."""
    while len(rows := await process.store.results(batch)) < count:
        await anyio.sleep(0.25)
    return {row.task_index: row for row in rows}


async def freed(process: Process) -> float:
    """Wait until no permit is held; return the time."""
    while await process.in_use():
        await anyio.sleep(1)
    return now()


def now() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()


def recovery_of(process: Process) -> Recovery:
    """Return the recovery of the account in a process."""
    return process.runner._recoveries[ACCOUNT]


MADE = "made"


def kind(row: TaskResult) -> tuple[str, bool]:
    """Return the code of a row, and whether its task may be retried."""
    return (MADE, False) if isinstance(row, TaskSuccess) else (row.error_code, row.retryable)


def with_token(token: str, answer: Answer) -> Answer:
    """Respond with `answer` to calls with this token; leave other calls to the simulator."""

    async def answered(request: httpx.Request, forward: Forward) -> httpx.Response:
        if request.headers["authorization"] == f"Bearer {token}":
            return await answer(request, forward)
        return await forward(request)

    return answered


def failing(error: Exception) -> Any:
    async def fails(whole: Any, *args: Any, **kwargs: Any) -> Any:
        raise error

    return fails


def never_ends(document: dict[str, Any]) -> None:
    document.update(status="processing", output=None, completed_at=None)
