"""The process's batches: start, end, and changes made by other processes."""

import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from batches.direct import (
    ACCOUNT,
    OTHER_TOKEN,
    OWN,
    TOKEN,
    Process,
    Replicate,
    refused,
    running_process,
    task,
    wrapped,
)
from batches.orphans import CAR, freed, left, now, recovered, with_token
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.batches.memory_limit import estimate_bytes
from replicate_mcp.batches.observer import NullObserver
from replicate_mcp.batches.planning import PlannedBatch
from replicate_mcp.batches.runner import FREE_MEMORY_SECONDS
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.errors import BackendUnavailable, TaskProblem, TooManyBatches
from replicate_mcp.platform import memory
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.tasks.result import TaskResult, TaskSuccess


def code(row: TaskResult) -> str:
    return "made" if isinstance(row, TaskSuccess) else row.error_code


async def start(process: Process, replicate: Replicate, *tasks: Any, **more: Any) -> RunningBatch:
    options: dict[str, Any] = {
        "gateway": replicate.gateway(),
        "account": ACCOUNT,
        "caller": "server",
        "shown_semaphore": "shown",
        "semaphores": (OWN,),
        **more,
    }
    return await process.runner.start(PlannedBatch(tasks or (task(),), **options))


def faulty(index: int) -> Any:
    from dataclasses import replace

    return replace(task(index), problems=(TaskProblem(index, "seed", "seed is wrong."),))


@in_virtual_time
async def test_runner_tracks_a_batch_until_its_end() -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process() as process:
        batch = await start(process, replicate, task(0), task(1))
        assert process.runner.running(batch.id) is batch
        assert process.runner.running("another") is None
        await process.rows(batch)
        await anyio.sleep(0)
        assert process.runner.running(batch.id) is None
        assert process.dispatcher._entries == {}


@in_virtual_time
async def test_freed_memory_is_returned_once_after_the_last_running_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned = threading.Event()
    calls: list[float] = []

    def trim(kept: int) -> int:
        calls.append(kept)
        returned.set()
        return 1

    monkeypatch.setattr(memory, "memory_trimmer", lambda: trim)
    replicate = Replicate(predict_seconds=20)
    async with running_process() as process:
        first = await start(process, replicate)
        await anyio.sleep(10)
        second = await start(process, replicate)
        await process.rows(first)
        await process.rows(second)
        ended = anyio.current_time()
        await anyio.sleep(1)
        await process.rows(await start(process, replicate))
        await anyio.sleep_until(ended + FREE_MEMORY_SECONDS - 1)
        assert not calls
        await anyio.sleep(2)
        assert returned.wait(10)
        await anyio.sleep(3 * FREE_MEMORY_SECONDS)
    assert calls == [0]


@in_virtual_time
async def test_batch_starts_with_the_requested_options() -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process() as process:
        first, second = await start(process, replicate), await start(process, replicate)
        assert first.id != second.id
        assert first.id.startswith("b_")
        assert len(first.id) == 2 + 16
        assert (first.caller, first.account, first.weight) == ("server", ACCOUNT, 0)
        assert (first.opened, first.deadline) == (0, 3600)
        state = await process.store.get_batch(first.id)
        assert state is not None
        assert (state.caller, state.account, state.semaphore) == ("server", ACCOUNT, "shown")
        (kept,) = await process.store.tasks(first.id)
        assert (kept.prompt, kept.output_filename) == ("a red car", "0.png")
        assert kept.model == task().model
        await process.rows(first)


class Ended(NullObserver):
    def __init__(self) -> None:
        self.seen: list[tuple[str, float | None]] = []

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        self.seen.append((code(result), seconds_at_replicate))


@in_virtual_time
async def test_invalid_tasks_fail_immediately_and_valid_tasks_run() -> None:
    replicate = Replicate(predict_seconds=20)
    ended = Ended()
    async with running_process(observer=ended) as process:
        batch = await start(process, replicate, faulty(0), task(1), faulty(2))
        assert (batch.failed, batch.invalid, batch.finished, batch.total) == (2, 2, 2, 3)
        assert ended.seen == [("invalid_input", None)] * 2
        rows = await process.rows(batch)
        assert [code(rows[index]) for index in range(3)] == [
            *("invalid_input", "made", "invalid_input")
        ]
    assert len(replicate.times("create")) == 1


@in_virtual_time
async def test_batch_may_have_its_own_limit() -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process() as process:
        batch = await start(process, replicate, *map(task, range(4)), max_running=2)
        await anyio.sleep(1)
        assert (batch.running, len(batch.pending)) == (2, 2)
        await process.rows(batch)
        assert now() == pytest.approx(40, abs=1)


@in_virtual_time
async def test_equal_filenames_are_numbered_by_expected_counts() -> None:
    from dataclasses import replace

    replicate = Replicate(predict_seconds=1)
    async with running_process() as process:
        two = replace(task(0, "x", num_outputs=2), output_filename="fox.png", expected_count=2)
        one = replace(task(1, "y"), output_filename="fox.png")
        rows = await process.rows(await start(process, replicate, two, one))
    names = [
        [file.filename.partition(".")[0] for file in row.generated_files]
        for row in (rows[0], rows[1])
        if isinstance(row, TaskSuccess)
    ]
    assert names == [["fox_1", "fox_2"], ["fox"]]


@pytest.mark.parametrize(
    ("counts", "prompt", "in_thread"),
    [
        ([1], "x", False),
        ([10**9] * 3, "x", False),  # At most 100 names are planned for a task.
        ([100] * 4, "x", True),
        ([1], "x" * 60_000, False),
        ([1], "x" * 70_000, True),
        ([100] * 2, "x" * 15_000, True),
    ],
)
@in_virtual_time
async def test_long_preparation_of_a_batch_leaves_the_event_loop_free(
    counts: list[int], prompt: str, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    threads: list[bool] = []
    run_sync = anyio.to_thread.run_sync

    async def recorded(work: Any, *args: Any, **options: Any) -> Any:
        threads.append("limiter" in options)
        return await run_sync(work, *args, **options)

    tasks = [
        replace(task(place, prompt), expected_count=count) for place, count in enumerate(counts)
    ]
    async with running_process() as process:
        # Undone before virtual time restores the function that it replaces.
        with monkeypatch.context() as patch:
            patch.setattr(anyio.to_thread, "run_sync", recorded)
            batch = await start(process, Replicate(), *tasks)
        assert any(threads) == in_thread
        await process.rows(batch)


# Rejected batches.


@in_virtual_time
async def test_batch_that_fails_to_start_leaves_no_state() -> None:
    async def unavailable(open_batch: Any, *args: Any) -> Any:
        raise BackendUnavailable("locked")

    async with running_process(wrap=wrapped(open_batch=unavailable)) as process:
        with pytest.raises(BackendUnavailable):
            await start(process, Replicate())
        assert process.runner._batches == {}
        assert process.dispatcher._entries == {}


@in_virtual_time
async def test_idempotency_key_starts_one_batch() -> None:
    replicate = Replicate()
    async with running_process() as process:
        first = await start(process, replicate, key=IdempotencyKey("k", "d1"))
        with pytest.raises(IdempotencyKeyExists) as taken:
            await start(process, replicate, key=IdempotencyKey("k", "d2"))
        assert (taken.value.batch_id, taken.value.digest) == (first.id, "d1")
        await process.rows(first)
    assert len(replicate.times("create")) == 1


@in_virtual_time
async def test_batch_over_the_memory_limit_is_rejected_unless_its_key_exists() -> None:
    replicate = Replicate(predict_seconds=20)
    weight = estimate_bytes([task()])
    async with running_process(max_bytes=4 * weight) as process:
        first = await start(process, replicate, key=IdempotencyKey("k", "d1"))
        assert first.weight == weight
        for key in (None, IdempotencyKey("other", "d2")):
            with pytest.raises(TooManyBatches):
                await start(process, replicate, key=key)
        with pytest.raises(IdempotencyKeyExists):
            await start(process, replicate, key=IdempotencyKey("k", "d1"))
        assert list(process.runner._batches) == [first.id]
        await process.rows(first)
        await anyio.sleep(0)
        await process.rows(await start(process, replicate))


# Deadlines.


@in_virtual_time
async def test_batch_ends_at_its_deadline_with_tasks_waiting() -> None:
    replicate = Replicate(predict_seconds=1_000)
    async with running_process(limit=1, batch_seconds=100, prediction_seconds=80) as process:
        batch = await start(process, replicate, *map(task, range(3)))
        rows = await process.rows(batch)
        assert {code(row) for row in rows.values()} == {"deadline_exceeded"}
        assert now() == pytest.approx(100, abs=1)
        assert await freed(process) < 102
    assert sorted(each.asked.cancel_after or 0 for each in replicate.predictions) == [20, 80]


@in_virtual_time
async def test_predictions_running_at_the_batch_deadline_are_followed_to_their_end() -> None:
    replicate = Replicate(predict_seconds=98)
    async with running_process(batch_seconds=100) as process:
        batch = await start(process, replicate)
        await anyio.sleep(96)
        assert batch.stop_reason is not None
        assert process.runner.running(batch.id) is batch
        assert [code(row) for row in (await process.rows(batch)).values()] == ["made"]


@in_virtual_time
async def test_batch_deadline_holds_across_machine_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from replicate_mcp.batches import runner

    slept = 0.0
    monkeypatch.setattr(runner, "steady_time", lambda: steady_time() + slept)
    replicate = Replicate(predict_seconds=1_000)
    async with running_process(limit=1, batch_seconds=500) as process:
        batch = await start(process, replicate, task(0), task(1))
        await anyio.sleep(21)
        slept = 1_000.0
        await anyio.sleep(10)
        assert batch.stop_reason is not None


# Orphans of dead processes.


@in_virtual_time
async def test_orphans_are_recovered_with_any_token_of_the_account() -> None:
    replicate = Replicate(predict_seconds=5)
    replicate.always("get", with_token(TOKEN, refused(401)))
    async with running_process() as process:
        (permit,) = await left(process, CAR)
        assert await process.store.claim_prediction(permit, "b_1", replicate.made())
        process.runner.recover(ACCOUNT, replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        assert code((await recovered(process))[0]) == "made"


# Changes by other processes.


@in_virtual_time
async def test_batch_cancelled_by_another_process_stops_within_a_second() -> None:
    replicate = Replicate(predict_seconds=300)
    async with running_process() as process:
        batch = await start(process, replicate)
        other = await start(process, replicate, task(0, "b"))
        await anyio.sleep(20.5)
        await process.store.cancel_batch(batch.id)
        assert [code(row) for row in (await process.rows(batch)).values()] == ["canceled"]
        assert 20.5 <= now() < 21.6
        assert (batch.canceled, other.canceled) == (True, False)
    assert sorted(replicate.statuses().values()) == ["canceled", "processing"]


@in_virtual_time
async def test_taken_over_batch_is_let_go_and_what_runs_is_followed() -> None:
    taken: list[str] = []

    async def interrupted(whole: Any) -> list[str]:
        found = [*taken, "b_of_nobody"] if taken else []
        taken.clear()
        return found

    replicate = Replicate(predict_seconds=20)
    async with running_process(limit=1, wrap=wrapped(interrupted_batches=interrupted)) as process:
        batch = await start(process, replicate, task(0), task(1))
        await anyio.sleep(1)
        taken.append(batch.id)
        await batch.ended.wait()
        assert now() < 3
        await anyio.sleep(0)
        assert process.runner.running(batch.id) is None
        (row,) = (await recovered(process, batch=batch.id)).values()
        assert (row.task_index, code(row)) == (0, "made")
        await anyio.sleep(30)  # The other task is the other process's, which writes its result.
        assert len(await process.store.results(batch.id)) == 1
    assert len(replicate.times("create")) == 1


@pytest.mark.parametrize("method", ["canceled_batches", "interrupted_batches"])
@in_virtual_time
async def test_cancellation_is_noticed_after_a_temporary_backend_outage(
    method: str,
) -> None:
    async def unavailable(whole: Any) -> Any:
        if now() < 30:
            raise BackendUnavailable("locked")
        return await whole()

    replicate = Replicate(predict_seconds=300)
    async with running_process(wrap=wrapped(**{method: unavailable})) as process:
        batch = await start(process, replicate)
        await anyio.sleep(5)
        await process.store.cancel_batch(batch.id)
        assert [code(row) for row in (await process.rows(batch)).values()] == ["canceled"]
        assert now() < 34


@in_virtual_time
async def test_journal_is_not_polled_for_cancellations_without_batches() -> None:
    asked: list[float] = []

    async def counted(whole: Any) -> Any:
        asked.append(now())
        return await whole()

    replicate = Replicate(predict_seconds=10)
    async with running_process(wrap=wrapped(canceled_batches=counted)) as process:
        await anyio.sleep(100)
        assert asked == []
        await process.rows(await start(process, replicate))
        await anyio.sleep(100)
        assert 5 <= len(asked) <= 15


@in_virtual_time
async def test_rejected_batch_does_not_block_the_next_of_its_account() -> None:
    replicate = Replicate()
    replicate.answer("create", refused(401))
    async with running_process() as process:
        rows = await process.rows(await start(process, replicate, *map(task, range(3))))
        assert "unauthorized" in {code(row) for row in rows.values()}
        rows = await process.rows(await start(process, replicate))
        assert [code(row) for row in rows.values()] == ["made"]
