"""Races in recovery: two processes, equal attempts, and a batch that is still running."""

from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batches.direct import (
    ACCOUNT,
    OTHER_TOKEN,
    Process,
    Replicate,
    refused,
    running_process,
    task,
    wrapped,
)
from batches.orphans import CAR, MADE, freed, kind, left, now, recovered
from batches.virtual_time import Schedule, in_virtual_time
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.tasks.result import TaskSuccess

STEPS = ("orphans", "adopt", "claim_prediction", "finish", "record_results", "release", "abandon")


@given(st.lists(st.integers(0, 7), max_size=25))
@example([1] * 25)
@settings(max_examples=10, deadline=None)
@in_virtual_time
async def test_orphan_found_by_two_processes_is_recovered_once(choices: list[int]) -> None:
    with Schedule(choices) as schedule:
        replicate = Replicate(predict_seconds=3)
        finished: list[int] = []

        async def counted(finish: Any, permit: int, *args: Any, **kwargs: Any) -> Any:
            finished.append(permit)
            return await finish(permit, *args, **kwargs)

        def both(backend: Any) -> Any:
            return schedule.hold(wrapped(finish=counted)(backend), *STEPS)

        async with running_process(wrap=both) as one:
            two = Process(one.store, one.backend, one.group)
            permits = await left(one, CAR, CAR)
            replicate.made()
            replicate.made(cancel_after=597)
            one.runner.recover(ACCOUNT, replicate.gateway())
            two.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
            rows = await recovered(one, 2)
            await freed(one)
            assert {kind(row) for row in rows.values()} == {(MADE, False)}
            assert len({row.prediction_id for row in rows.values()}) == 2
            assert sorted(finished) == permits
            assert len(await one.store.results("b_1")) == 2
    assert replicate.times("create") == []


@in_virtual_time
async def test_orphan_is_not_judged_while_the_list_is_unreadable() -> None:
    replicate = Replicate(predict_seconds=300)
    replicate.always("list", refused(503))
    async with running_process() as process:
        await left(process, CAR)
        made = replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(120)
        assert await process.store.results("b_1") == []
        assert await process.in_use() == 1
        replicate.always("list", None)
        row = (await recovered(process))[0]
        assert (kind(row), row.prediction_id) == ((MADE, False), made)


async def lapsed(process: Process, batch: RunningBatch) -> None:
    """Orphan the attempts of a batch, as if its process had been declared dead."""
    for permit in [*batch.creating, *batch.following]:
        await process.store.abandon(permit)


@pytest.mark.parametrize("predict_seconds", [30, 90], ids=["answer held", "followed"])
@pytest.mark.parametrize("lapsed_at", [5, 70])
@in_virtual_time
async def test_own_running_task_taken_for_dead_is_recorded_once(
    predict_seconds: int, lapsed_at: int
) -> None:
    replicate = Replicate(predict_seconds=predict_seconds)
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        await anyio.sleep(lapsed_at)
        await lapsed(process, batch)
        rows = await process.rows(batch)
        assert [kind(row) for row in rows.values()] == [(MADE, False)]
        assert await freed(process) < predict_seconds + 5 or lapsed_at > predict_seconds
        await anyio.sleep(30)
        assert len(await process.store.results(batch.id)) == 1
        assert await process.store.orphans(ACCOUNT) == []
    assert len(replicate.times("create")) == 1
    assert set(replicate.statuses().values()) == {"succeeded"}


@in_virtual_time
async def test_own_running_task_taken_for_dead_is_cancelled_once() -> None:
    replicate = Replicate(predict_seconds=300)
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        await anyio.sleep(5)
        await lapsed(process, batch)
        await anyio.sleep(10)
        await process.store.cancel_batch(batch.id)
        rows = await process.rows(batch)
        assert [kind(row) for row in rows.values()] == [("canceled", True)]
        assert await freed(process) < 25
    assert list(replicate.statuses().values()) == ["canceled"]


@in_virtual_time
async def test_other_tasks_continue_while_one_is_recovered() -> None:
    replicate = Replicate(predict_seconds=30)
    async with running_process(limit=2) as process:
        tasks = [task(number, f"car {number}") for number in range(5)]
        batch = await process.start(replicate.gateway(), *tasks)
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        await anyio.sleep(5)
        await process.store.abandon(min(batch.creating))
        rows = await process.rows(batch)
        assert {kind(row) for row in rows.values()} == {(MADE, False)}
        assert len(rows) == 5
        assert len({row.prediction_id for row in rows.values()}) == 5
        made = [row for row in rows.values() if isinstance(row, TaskSuccess)]
        names = [row.generated_files[0].filename for row in made]
        assert len(set(names)) == 5
        assert await freed(process) == now()
    assert len(replicate.times("create")) == 5


@in_virtual_time
async def test_orphan_does_not_take_the_prediction_of_an_equal_running_attempt() -> None:
    replicate = Replicate(predict_seconds=40)
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        await anyio.sleep(1)
        await left(process, {"prompt": "a red car"}, cancel_after=500)
        own = replicate.made(cancel_after=500)
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        recovered_row = (await recovered(process))[0]
        (row,) = (await process.rows(batch)).values()
        assert recovered_row.prediction_id == own
        assert row.prediction_id != own
        assert kind(row) == kind(recovered_row) == (MADE, False)
        assert await freed(process) == now()
