"""Batches with tasks that need the images of others, run on by another process."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from batches.direct import ACCOUNT, OWN, Process, Replicate, task
from batches.test_dependencies import code, edit, images_in, start
from batches.virtual_time import EPOCH, in_virtual_time
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.tasks.references import Reference
from replicate_mcp.tasks.result import GeneratedFile, TaskFailure, TaskResult, TaskSuccess


@asynccontextmanager
async def process_on(state: Path, *, limit: int = 10) -> AsyncIterator[Process]:
    """Run an engine on a state file, whose batches any other process runs on."""
    backend = await SqliteBackend.open(str(state), clock=time.time)
    try:
        await backend.declare_limit(OWN, limit, per_minute=60_000)
        async with anyio.create_task_group() as group:
            process = Process(backend, backend, group, resume="always")
            group.start_soon(process.dispatcher.run)
            group.start_soon(process.runner.watch_cancellations)
            try:
                yield process
            finally:
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()


async def is_running(process: Process, batch_id: str) -> bool:
    found = await process.store.get_batch(batch_id)
    assert found is not None
    return found.status == "running"


async def run_on(
    state: Path,
    replicate: Replicate,
    tasks: Sequence[PlannedTask],
    after: float,
    *,
    limit: int = 10,
    images: Mapping[Reference, GeneratedFile] | None = None,
) -> dict[int, TaskResult]:
    """Start a batch, end its process after some seconds, and return the rows that another makes."""
    async with process_on(state, limit=limit) as first:
        batch = await start(first, replicate.gateway(), tasks, images)
        await anyio.sleep(after)
    async with process_on(state, limit=limit) as second:
        second.runner.recover(ACCOUNT, replicate.gateway())
        with anyio.fail_after(120):
            while await is_running(second, batch.id):
                await anyio.sleep(0.5)
        await anyio.sleep(5)
        own = await second.own()
        assert (own.in_use, own.waiting) == (0, 0)
        return {row.task_index: row for row in await second.store.results(batch.id)}


@pytest.mark.parametrize("after", [0.0, 1.0, 3.5, 5.0, 6.5])
def test_chain_is_run_on_from_wherever_its_process_ended(after: float, tmp_path: Path) -> None:
    run_chain(after, tmp_path / "state.db")


@in_virtual_time
async def run_chain(after: float, state: Path) -> None:
    replicate = Replicate(predict_seconds="3")
    tasks = [edit(0, 1), task(1), edit(2, 0, 1), edit(3, 2, prompt="[fail] x"), edit(4, 3)]
    rows = await run_on(state, replicate, tasks, after)
    assert [code(rows[index]) for index in range(5)] == [
        *("made", "made", "made", "prediction_failed", "dependency_failed")
    ]
    urls = {
        index: row.generated_files[0].url
        for index, row in rows.items()
        if isinstance(row, TaskSuccess)
    }
    assert images_in(replicate) == [None, [urls[1]], [urls[0], urls[1]], [urls[2]]]


@in_virtual_time
async def run_after_failure(state: Path) -> None:
    replicate = Replicate(predict_seconds="3,30")
    tasks = [task(0, "[fail] x"), task(1), edit(2, 1), edit(3, 0), edit(4, 3)]
    rows = await run_on(state, replicate, tasks, 10)
    assert [code(rows[index]) for index in range(5)] == [
        *("prediction_failed", "made", "made", "dependency_failed", "dependency_failed")
    ]
    assert len(replicate.predictions) == 3


def test_source_that_failed_before_fails_its_tasks_once(tmp_path: Path) -> None:
    run_after_failure(tmp_path / "state.db")


@in_virtual_time
async def run_with_earlier_batch(state: Path) -> None:
    replicate = Replicate(predict_seconds="4")
    async with process_on(state) as process:
        earlier = await start(process, replicate.gateway(), [task(0)])
        (made,) = (await process.rows(earlier)).values()
    assert isinstance(made, TaskSuccess)
    there, gone = Reference(0, earlier.id), Reference(0, "b_gone")
    lost = replace_url(made.generated_files[0])
    tasks = [edit(0, there), edit(1, gone), edit(2, 1), edit(3, 0)]
    images = {there: made.generated_files[0], gone: lost}
    rows = await run_on(state, replicate, tasks, 2, limit=1, images=images)
    assert [code(rows[index]) for index in range(4)] == [
        *("made", "dependency_failed", "dependency_failed", "made")
    ]
    row = rows[1]
    assert isinstance(row, TaskFailure)
    assert row.error == (
        "It needs the image of task 0 of batch b_gone, which is not in the journal any more: "
        "make that again first."
    )
    assert images_in(replicate)[1] == [made.generated_files[0].url]


def replace_url(file: GeneratedFile) -> GeneratedFile:
    expires = datetime.fromtimestamp(EPOCH, UTC) + timedelta(hours=1)
    return file.model_copy(update={"url": "https://replicate.delivery/gone", "expires_at": expires})


def test_images_of_earlier_batches_are_read_from_the_journal_again(tmp_path: Path) -> None:
    run_with_earlier_batch(tmp_path / "state.db")


def test_task_that_cannot_be_created_again_fails_those_that_need_it(tmp_path: Path) -> None:
    run_with_secret(tmp_path / "state.db")


@in_virtual_time
async def run_with_secret(state: Path) -> None:
    replicate = Replicate(predict_seconds="4")
    secret = replace(task(1), secrets=("hf_token",))
    rows = await run_on(state, replicate, [task(0), secret, edit(2, 1), edit(3, 0)], 2, limit=1)
    assert [code(rows[index]) for index in range(4)] == [
        *("made", "interrupted", "dependency_failed", "made")
    ]
