"""Answers about a batch: one state, and exactly the rows that it counts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batches.direct import ACCOUNT, OWN, finished, wrapped
from replicate_mcp.app.batches import BatchOperations
from replicate_mcp.app.composition import Components
from replicate_mcp.auth import Caller
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.errors import UnknownBatch
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.settings import Settings

SERVER = Caller("server", "r8_acme_1")


def operations(backend: Backend) -> BatchOperations:
    parts = SimpleNamespace(backend=backend, runner=SimpleNamespace(running=lambda _: None))

    async def components() -> Components:
        return cast(Components, parts)

    return BatchOperations(Settings(), components)


@asynccontextmanager
async def backend_with_batch(tasks: int) -> AsyncIterator[SqliteBackend]:
    backend = await SqliteBackend.open()
    await backend.declare_limit(OWN, 10, per_minute=600)
    journal = tuple(JournalTask("p", f"{n}.png", "o/m") for n in range(tasks))
    await backend.open_batch(
        NewBatch("b_1", "server", ACCOUNT, "replicate-global", journal),
        QueueEntry("b_1", (OWN,), ACCOUNT, tasks),
    )
    try:
        yield backend
    finally:
        await backend.close()


async def test_answer_has_the_rows_that_its_one_state_counts() -> None:
    async with backend_with_batch(3) as backend:
        await backend.record_results("b_1", [finished(0)])
        loaded = []

        async def finish_afterwards(get_batch: Any, batch_id: str) -> Any:
            state = await get_batch(batch_id)
            loaded.append(batch_id)
            await backend.record_results(batch_id, [finished(1)])
            return state

        batches = operations(wrapped(get_batch=finish_afterwards)(backend))
        first = await batches.result(SERVER, "b_1")
        assert loaded == ["b_1"]
        assert (first.failed_count, first.pending_count, first.cursor) == (1, 2, 1)
        assert [row.task_index for row in first.failed_results] == [0]
        second = await batches.result(SERVER, "b_1", after=first.cursor)
        assert [row.task_index for row in second.failed_results] == [1]
        assert (await batches.result(SERVER, "b_1", after=9)).cursor == 2


async def test_batch_that_the_journal_drops_meanwhile_is_unknown() -> None:
    async with backend_with_batch(1) as backend:
        await backend.record_results("b_1", [finished(0)])
        dropped = False

        async def state(get_batch: Any, batch_id: str) -> Any:
            return None if dropped else await get_batch(batch_id)

        async def results(_: Any, batch_id: str, **page: Any) -> Any:
            nonlocal dropped
            dropped = True
            return []

        batches = operations(wrapped(get_batch=state, results=results)(backend))
        with pytest.raises(UnknownBatch):
            await batches.result(SERVER, "b_1")
