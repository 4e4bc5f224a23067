"""Cancellation: running predictions are cancelled at Replicate, and each waiting task ends once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from batches.direct import (
    OWN,
    Answer,
    Process,
    Replicate,
    lost,
    refused,
    running_process,
    slow,
    task,
    unsent,
    wrapped,
)
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.cancellation import cancel_quietly, stop_prediction
from replicate_mcp.batches.observer import NullObserver
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.exceptions import ApiStatusError
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

CANCELED = ("canceled", "The batch was cancelled before this task was created.", True)
THROTTLED = ", because Replicate throttled the account, to about {} creations a minute now"
CANCELED_RUNNING = ("canceled", "The task was cancelled while it ran.", True)


def now() -> float:
    return asyncio.get_running_loop().time()


def reason(row: TaskResult) -> tuple[str, str, bool]:
    assert isinstance(row, TaskFailure)
    return row.error_code, row.error, row.retryable


# Responses to the cancel calls, and the expected times of the calls.
PACES: list[Any] = [
    pytest.param([], [0], id="at once"),
    pytest.param([refused(500)], [0, 0.5], id="500"),
    pytest.param([refused(400)], [0, 0.5], id="400"),
    pytest.param([refused(402)], [0, 0.5], id="402"),
    pytest.param([lost(carried_out=False)], [0, 0.5], id="reset"),
    pytest.param([unsent], [0, 0.5], id="no connection"),
    pytest.param([refused(500)] * 7, [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5], id="for long"),
    pytest.param([refused(429)], [0, 0.5], id="429 without Retry-After"),
    pytest.param([refused(429, retry_after=0)], [0, 0.5], id="429 that asks for no pause"),
    pytest.param([refused(429, retry_after=7)], [0, 7], id="429 that asks for a longer pause"),
    pytest.param([refused(503, retry_after=2)], [0, 2], id="503 that asks for a longer pause"),
    pytest.param(
        [refused(500), refused(429, retry_after=12), refused(429, retry_after=1), refused(500)],
        [0, 0.5, 12.5, 14.5, 18.5],
        id="500, then 429",
    ),
    pytest.param([refused(404)], [0], id="no such prediction"),
    pytest.param([refused(409)], [0], id="it has ended"),
    pytest.param([refused(422)], [0], id="it cannot be cancelled"),
]


@pytest.mark.parametrize(("answers", "times"), PACES)
@in_virtual_time
async def test_cancel_is_retried_honouring_retry_after(
    answers: list[Answer], times: list[float]
) -> None:
    replicate = Replicate(predict_seconds=100)
    prediction = replicate.made()
    replicate.answer("cancel", *answers)
    await stop_prediction(replicate.gateway(), prediction)
    assert replicate.times("cancel") == pytest.approx(times)
    assert now() == pytest.approx(times[-1])
    if len(times) > len(answers):
        assert replicate.statuses()[prediction] in ("aborted", "canceled")


@in_virtual_time
async def test_failing_cancel_is_given_up_after_five_minutes() -> None:
    replicate = Replicate(predict_seconds=1_000)
    prediction = replicate.made()
    replicate.always("cancel", refused(500))
    await stop_prediction(replicate.gateway(), prediction)
    assert now() == 300
    times = replicate.times("cancel")
    assert len(times) == 78
    assert times[-1] == pytest.approx(299.5)


@in_virtual_time
async def test_retry_after_beyond_five_minutes_is_not_awaited() -> None:
    replicate = Replicate(predict_seconds=1_000)
    replicate.always("cancel", refused(429, retry_after=3_000))
    await stop_prediction(replicate.gateway(), replicate.made())
    assert (now(), len(replicate.calls)) == (300, 1)


@pytest.mark.parametrize("status", [401, 403])
@in_virtual_time
async def test_cancel_is_not_retried_with_a_rejected_token(status: int) -> None:
    replicate = Replicate(predict_seconds=100)
    prediction = replicate.made()
    replicate.always("cancel", refused(status))
    with pytest.raises(ApiStatusError) as caught:
        await stop_prediction(replicate.gateway(), prediction)
    assert caught.value.status == status
    await cancel_quietly(replicate.gateway(), prediction)  # The follower reports that.
    assert replicate.times("cancel") == [0, 0]


async def cancelled_after(
    seconds: float, process: Process, replicate: Replicate, *tasks: Any
) -> tuple[RunningBatch, dict[int, TaskResult]]:
    """Start a batch and cancel it after `seconds`; return it with its rows once it has ended."""
    batch = await process.start(replicate.gateway(), *tasks)
    await anyio.sleep(seconds)
    process.runner.cancel(batch)
    return batch, await process.rows(batch)


@pytest.mark.parametrize(
    ("running_for", "stopped_within"),
    [
        # Its id is unknown while its response is held, so the list has to be read.
        pytest.param(30, 1, id="its answer is held"),
        pytest.param(70, 1, id="it is followed"),
    ],
)
@in_virtual_time
async def test_cancelling_a_batch_cancels_running_predictions_and_creates_nothing_more(
    running_for: float, stopped_within: float
) -> None:
    replicate = Replicate(predict_seconds=200)
    async with running_process(limit=2) as process:
        batch, rows = await cancelled_after(
            running_for, process, replicate, *(task(n, f"car {n}") for n in range(4))
        )
        assert now() <= running_for + stopped_within
        assert [reason(rows[n]) for n in range(4)] == [CANCELED_RUNNING] * 2 + [CANCELED] * 2
        assert list(replicate.statuses().values()) == ["canceled"] * 2
        assert (len(replicate.times("create")), len(replicate.times("cancel"))) == (2, 2)
        lists = len(replicate.times("list"))
        await anyio.sleep(60)
        assert len(replicate.times("list")) == lists, "no call waits for the list any more"
        assert (batch.failed, batch.succeeded, await process.in_use()) == (4, 0, 0)


@in_virtual_time
async def test_repeatedly_rejected_cancel_succeeds_while_the_creation_is_held() -> None:
    replicate = Replicate(predict_seconds=1_000)
    replicate.answer("cancel", refused(500), refused(500), refused(429, retry_after=20))
    async with running_process() as process:
        _, rows = await cancelled_after(5, process, replicate, task())
        assert reason(rows[0]) == CANCELED_RUNNING
        first, *later = replicate.times("cancel")
        assert [at - first for at in later] == pytest.approx([0.5, 1.5, 21.5])


@in_virtual_time
async def test_cancelling_a_batch_twice_cancels_it_once() -> None:
    replicate = Replicate(predict_seconds=200)
    replicate.answer("cancel", refused(429, retry_after=5))
    async with running_process() as process:
        batch = await process.start(replicate.gateway(), task())
        await anyio.sleep(70)  # The prediction is being followed: its id is known.
        process.runner.cancel(batch)
        await anyio.sleep(1)
        process.runner.cancel(batch)
        await batch.ended.wait()
        assert replicate.times("cancel") == pytest.approx([70, 75])


@in_virtual_time
async def test_cancelled_creation_missing_from_the_list_ends_with_its_own_response() -> None:
    replicate = Replicate(predict_seconds=40, list_lag_seconds=1_000)
    async with running_process() as process:
        batch, rows = await cancelled_after(5, process, replicate, task())
        assert isinstance(rows[0], TaskSuccess)
        assert now() == pytest.approx(40, abs=1)
        assert replicate.times("cancel") == []
        assert batch.succeeded == 1


@in_virtual_time
async def test_cancelled_creation_with_a_late_response_is_cancelled_by_id() -> None:
    replicate = Replicate(predict_seconds=200, list_lag_seconds=1_000)
    async with running_process() as process:
        _, rows = await cancelled_after(5.5, process, replicate, task())
        assert reason(rows[0]) == CANCELED_RUNNING
        assert replicate.times("cancel") == pytest.approx([60], abs=1)  # Its hold is over.


@in_virtual_time
async def test_revoked_token_does_not_prevent_cancelling_other_predictions() -> None:
    replicate = Replicate(predict_seconds=200)
    replicate.answer("cancel", refused(403))
    async with running_process() as process:
        _, rows = await cancelled_after(
            70, process, replicate, *(task(n, f"{n}") for n in range(3))
        )
        # The first one's token is rejected once: it runs on, and its follower sees its end.
        assert sorted(replicate.statuses().values()) == ["canceled", "canceled", "succeeded"]
        assert len(rows) == 3


@in_virtual_time
async def test_task_waiting_for_a_retry_ends_once_when_its_batch_is_cancelled() -> None:
    replicate = Replicate(predict_seconds=200)
    replicate.answer("create", unsent)
    async with running_process(limit=1) as process:
        batch, rows = await cancelled_after(
            0.2, process, replicate, *(task(n, f"car {n}") for n in range(3))
        )
        assert now() < 0.5, "it is not waited for"
        assert [reason(rows[n]) for n in range(3)] == [CANCELED] * 3
        assert len(await process.store.results(batch.id)) == batch.failed == 3
        assert not batch.pending
        assert (replicate.predictions, await process.in_use()) == ([], 0)


@in_virtual_time
async def test_waiting_tasks_are_recorded_in_chunks_of_a_hundred_and_reported_each() -> None:
    replicate = Replicate(predict_seconds=200)
    sizes: list[int] = []
    ended: list[tuple[int, float | None]] = []

    async def recorded(record: Callable[..., Awaitable[Any]], batch: str, rows: Any) -> Any:
        sizes.append(len(rows))
        return await record(batch, rows)

    class Ended(NullObserver):
        def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
            ended.append((result.task_index, seconds_at_replicate))

    wrap = wrapped(record_results=recorded)
    async with running_process(limit=1, wrap=wrap, observer=Ended()) as process:
        batch, rows = await cancelled_after(
            1, process, replicate, *(task(n, f"car {n}") for n in range(251))
        )
        assert sizes == [100, 100, 50]
        assert ended[:250] == [(n, None) for n in range(1, 251)]
        assert list(rows) == [*range(1, 251), 0], "they end in the order in which they waited"
        assert batch.failed == 251


@in_virtual_time
async def test_cancelled_batch_is_dequeued_before_its_results_are_recorded() -> None:
    replicate = Replicate(predict_seconds=200)
    waiting: list[int] = []

    async def recorded(record: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        waiting.append((await process.own()).waiting)
        return await record(*args)

    async with running_process(limit=1, wrap=wrapped(record_results=recorded)) as process:
        tasks = [task(n, f"car {n}") for n in range(3)]
        _, rows = await cancelled_after(1, process, replicate, *tasks)
        assert waiting == [0], "others are not kept waiting for it"
        assert len(rows) == 3


@in_virtual_time
async def test_cancelled_creation_is_reconciled_only_until_its_response_arrives() -> None:
    replicate = Replicate(predict_seconds=200, list_lag_seconds=1_000, cancel_seconds=30)
    async with running_process() as process:
        await cancelled_after(5, process, replicate, task())
        assert replicate.times("list")
        assert max(replicate.times("list")) <= 60
        assert now() >= 90


@in_virtual_time
async def test_nothing_is_created_after_a_cancel() -> None:
    replicate = Replicate()
    async with running_process() as process:
        batch = await process.start(replicate.gateway(), task())
        process.runner.cancel(batch)
        assert batch.stop_reason == CANCELED
        assert batch.stopping.is_set()
        assert reason((await process.rows(batch))[0]) == CANCELED
        assert replicate.times("create") == []


@in_virtual_time
async def test_creation_arriving_late_at_replicate_is_still_cancelled() -> None:
    replicate = Replicate(predict_seconds=40)
    replicate.answer("create", slow(15))
    async with running_process() as process:
        _, rows = await cancelled_after(1, process, replicate, task())
        assert reason(rows[0]) == CANCELED_RUNNING
        assert now() <= 16


@in_virtual_time
async def test_cancel_leaves_possible_predictions_of_an_equal_batch_untouched() -> None:
    replicate = Replicate(predict_seconds=30, list_deadlines=False)
    replicate.answer("create", slow(5))
    async with running_process() as process:
        batch = await process.start(replicate.gateway(), task())
        kept = await process.start(replicate.gateway(), task())
        await anyio.sleep(2)  # The list shows only the other batch's prediction.
        process.runner.cancel(batch)
        assert isinstance((await process.rows(kept))[0], TaskSuccess)
        assert reason((await process.rows(batch))[0]) == CANCELED_RUNNING
        assert list(replicate.statuses().values()) == ["succeeded", "canceled"]


@in_virtual_time
async def test_nothing_is_cancelled_from_a_list_the_token_may_not_read() -> None:
    replicate = Replicate(predict_seconds=40)
    replicate.always("list", refused(401))
    async with running_process() as process:
        _, rows = await cancelled_after(5, process, replicate, task())
        assert isinstance(rows[0], TaskSuccess)
        assert replicate.times("cancel") == []
        assert len(replicate.times("list")) == 1


# Responses to the creations, and the reason reported for tasks that were not created in time.
TIMES_UP: list[Any] = [
    pytest.param([], "", id="nothing is wrong"),
    pytest.param([refused(503)], ", because Replicate answered 503 to its creations", id="503"),
    pytest.param([refused(429, retry_after=900)], THROTTLED.format(7), id="429"),
    pytest.param(
        [refused(429, retry_after=900), slow(1, refused(503))],
        THROTTLED.format(7),
        id="429 and then 503",
    ),
]


@pytest.mark.parametrize(("answers", "why"), TIMES_UP)
@in_virtual_time
async def test_tasks_not_created_in_time_report_the_reason(answers: list[Answer], why: str) -> None:
    replicate = Replicate(predict_seconds=200)
    replicate.answer("create", *answers)
    async with running_process(limit=2, batch_seconds=12) as process:
        await process.store.register("a-name", 5)
        await process.store.set_rate(OWN, 7.4)
        tasks = [task(n, f"car {n}") for n in range(3)]
        assert reason(await last_row_at_deadline(process, replicate, *tasks)) == out_of_time(why)


def out_of_time(why: str) -> tuple[str, str, bool]:
    sentence = f"The batch's time was up before this task was created{why}: send it again."
    return "deadline_exceeded", sentence, True


async def last_row_at_deadline(
    process: Process, replicate: Replicate, *tasks: PlannedTask
) -> TaskResult:
    """Start a batch and return the row of its last task."""
    batch = await process.start(replicate.gateway(), *tasks)
    while True:
        for row in await process.store.results(batch.id):
            if row.task_index == len(tasks) - 1:
                return row
        await anyio.sleep(1)


@pytest.mark.parametrize(("rate", "shown"), [(0.3, 1), (1.6, 2), (40.4, 40)])
@in_virtual_time
async def test_reported_rate_is_rounded_and_at_least_one(rate: float, shown: int) -> None:
    replicate = Replicate()
    replicate.always("create", refused(429, retry_after=900))
    async with running_process(limit=1, batch_seconds=12) as process:
        batch = await process.start(replicate.gateway(), task())
        await anyio.sleep(1)
        await process.store.set_rate(OWN, rate)
        assert reason((await process.rows(batch))[0]) == out_of_time(THROTTLED.format(shown))


@in_virtual_time
async def test_batch_waiting_because_another_was_throttled_reports_it() -> None:
    replicate = Replicate()
    replicate.always("create", refused(429, retry_after=900))
    async with running_process(batch_seconds=12) as process:
        await process.store.set_rate(OWN, 30)
        await process.start(replicate.gateway(), task())
        await anyio.sleep(1)
        assert reason(await last_row_at_deadline(process, replicate, task())) == out_of_time(
            THROTTLED.format(30)
        )
        assert len(replicate.times("create")) == 1


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([refused(429, retry_after=900)], ", because Replicate throttled the account"),
        ([], ""),
    ],
)
@in_virtual_time
async def test_unavailable_backend_does_not_prevent_tasks_from_ending(
    answers: list[Answer], why: str
) -> None:
    replicate = Replicate(predict_seconds=200)
    replicate.answer("create", *answers)

    async def away(_: object) -> None:
        raise BackendUnavailable("It is away.")

    async with running_process(limit=1, batch_seconds=12, wrap=wrapped(semaphores=away)) as process:
        row = await last_row_at_deadline(process, replicate, task(0), task(1))
        assert reason(row) == out_of_time(why)
