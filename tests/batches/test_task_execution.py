"""Faults of a creation: their effect on its task, its permit, and the number of creations."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import httpx
import pytest

from batches.direct import (
    Answer,
    Forward,
    Process,
    Replicate,
    changed,
    lost,
    refused,
    running_process,
    slow,
    task,
    unsent,
    wrapped,
)
from batches.orphans import freed, kind, never_ends, now
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches import task_execution
from replicate_mcp.batches.observer import NullObserver
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.gateway import Target
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess


async def made_of(
    process: Process, replicate: Replicate, *tasks: Any
) -> tuple[RunningBatch, list[TaskResult]]:
    """Run a batch to its end; return it with its rows."""
    batch = await process.start(replicate.gateway(), *tasks)
    rows = await process.rows(batch)
    return batch, [rows[index] for index in sorted(rows)]


# The response to a creation; then how often it is sent, and the code and `retryable` of its row.
LASTING: list[Any] = [
    pytest.param(refused(400), 1, "invalid_input", False, id="400"),
    pytest.param(refused(401), 1, "unauthorized", False, id="401"),
    pytest.param(refused(402), 1, "insufficient_credit", True, id="402"),
    pytest.param(refused(403), 1, "unauthorized", False, id="403"),
    pytest.param(refused(404), 1, "model_not_found", False, id="404"),
    pytest.param(refused(413), 1, "invalid_input", False, id="413"),
    pytest.param(refused(422), 1, "invalid_input", False, id="422"),
    pytest.param(unsent, 6, "replicate_unavailable", True, id="no connection"),
    # Each time, the list shows that no prediction was created.
    pytest.param(refused(500), 6, "replicate_unavailable", True, id="500"),
    pytest.param(refused(520), 6, "replicate_unavailable", True, id="520"),
    pytest.param(refused(529), 6, "replicate_unavailable", True, id="529"),
    pytest.param(lost(carried_out=False), 6, "replicate_unavailable", True, id="reset"),
]


@pytest.mark.parametrize(("answer", "sent", "code", "retryable"), LASTING)
@in_virtual_time
async def test_permanent_error_ends_its_task_and_frees_its_permit(
    answer: Answer, sent: int, code: str, retryable: bool
) -> None:
    replicate = Replicate()
    replicate.always("create", answer)
    async with running_process() as process:
        _, (row,) = await made_of(process, replicate)
        assert kind(row) == (code, retryable)
        assert row.prediction_id is None
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == sent
    assert replicate.predictions == []


@in_virtual_time
async def test_404_without_a_model_lookup_does_not_mean_unknown_model() -> None:
    replicate = Replicate()
    replicate.always("create", refused(404))
    named = replace(task(), target=Target(task().target.name, is_resolved=False))
    async with running_process() as process:
        _, (row,) = await made_of(process, replicate, named)
        assert kind(row) == ("replicate_unavailable", True)


# The first response to a creation; then how often it is sent until its image is complete.
PASSING: list[Any] = [
    pytest.param(refused(429), 2, id="429"),
    pytest.param(unsent, 2, id="no connection"),
    pytest.param(lost(carried_out=False), 2, id="reset before it arrived"),
    pytest.param(lost(carried_out=True), 1, id="reset after it arrived"),
    *[pytest.param(refused(status), 2, id=str(status)) for status in (500, 503, 520, 529)],
]


def made_and(answer: Answer) -> Answer:
    """Carry a creation out, and replace its response."""

    async def answered(request: httpx.Request, forward: Forward) -> httpx.Response:
        await forward(request)
        return await answer(request, forward)

    return answered


PASSING += [
    pytest.param(made_and(refused(status)), 1, id=f"made, and {status}")
    for status in (500, 503, 520, 529)
]


@pytest.mark.parametrize(("answer", "sent"), PASSING)
@in_virtual_time
async def test_transient_error_costs_no_task_and_no_second_prediction(
    answer: Answer, sent: int
) -> None:
    replicate = Replicate(predict_seconds=1)
    replicate.answer("create", answer)
    async with running_process() as process:
        _, (row,) = await made_of(process, replicate)
        assert kind(row) == ("made", False)
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == sent
    assert [each.id for each in replicate.predictions] == [row.prediction_id]


@in_virtual_time
async def test_unsent_creation_is_retried_with_exponential_backoff() -> None:
    replicate = Replicate()
    replicate.always("create", unsent)
    async with running_process() as process:
        batch = await process.start(replicate.gateway(), task(0), task(1))
        await anyio.sleep(15)
        assert await process.in_use() == 2, "the permits are of no use to others either"
        assert batch.retries == {0: 5, 1: 5}
        rows = await process.rows(batch)
        assert {kind(row) for row in rows.values()} == {("replicate_unavailable", True)}
        assert now() == pytest.approx(15.5, abs=0.1)
    times = sorted(replicate.times("create"))
    assert times == pytest.approx(
        sorted([0, 0.5, 1.5, 3.5, 7.5, 15.5, 0, 0.5, 1.5, 3.5, 7.5, 15.5]), abs=0.1
    )


@in_virtual_time
async def test_batch_cancelled_during_a_retry_delay_ends_without_waiting() -> None:
    replicate = Replicate()
    replicate.always("create", unsent)
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        await anyio.sleep(8)
        process.runner.cancel(batch)
        (row,) = (await process.rows(batch)).values()
        assert (kind(row), now()) == (("canceled", True), 8)
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == 5


@in_virtual_time
async def test_batch_cancelled_before_a_429_ends_with_the_429() -> None:
    replicate = Replicate()
    replicate.always("create", slow(5, refused(429)))
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        await anyio.sleep(2)
        process.runner.cancel(batch)
        (row,) = (await process.rows(batch)).values()
        assert kind(row) == ("canceled", True)
        assert now() < 6
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == 1


@pytest.mark.parametrize("error", [None, ValueError("a fault of our own")])
@in_virtual_time
async def test_batch_cancelled_while_an_attempt_is_recorded_ends_immediately(
    error: Exception | None,
) -> None:
    async def late(note: Any, attempts: Any, **kwargs: Any) -> Any:
        await anyio.sleep(1)  # The offers were withdrawn by now.
        if error is not None:
            raise error
        return await note(attempts, **kwargs)

    replicate = Replicate()
    async with running_process(wrap=wrapped(record_attempts=late)) as process:
        batch = await process.start(replicate.gateway(), task(0), task(1))
        await anyio.sleep(0.5)
        process.runner.cancel(batch)
        rows = await process.rows(batch)
        assert {kind(row) for row in rows.values()} == {("canceled", True)}
        assert now() < 2
        assert await process.in_use() == 0
    assert replicate.times("create") == []


@in_virtual_time
async def test_batch_has_started_with_its_first_creation() -> None:
    replicate = Replicate(predict_seconds=20)
    await anyio.sleep(50)
    async with running_process(limit=1) as process:
        batch, _ = await made_of(process, replicate, task(0), task(1))
        assert batch.began == 50
        assert now() >= 90


@pytest.mark.parametrize("status", [401, 402])
@in_virtual_time
async def test_batch_wide_error_stops_all_creations_with_one_reason(
    status: int,
) -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process(limit=2) as process:
        replicate.answer("create", _forward, refused(status))
        batch, rows = await made_of(process, replicate, *map(task, range(5)))
        assert [kind(row)[0] for row in rows].count("made") == 1
        assert len({row.error for row in rows if isinstance(row, TaskFailure)}) == 1
        assert batch.stop_reason is not None
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == 2


async def _forward(request: httpx.Request, forward: Forward) -> httpx.Response:
    return await forward(request)


@in_virtual_time
async def test_task_specific_error_ends_only_that_task() -> None:
    replicate = Replicate()
    async with running_process(limit=1) as process:
        replicate.answer("create", refused(422))
        batch, rows = await made_of(process, replicate, *map(task, range(3)))
        assert [kind(row)[0] for row in rows] == ["invalid_input", "made", "made"]
        assert (batch.stop_reason, batch.running) == (None, 0)


@in_virtual_time
async def test_throttled_task_is_requeued_and_honours_retry_after() -> None:
    replicate = Replicate()
    replicate.answer("create", *[refused(429, retry_after=20)] * 8)
    async with running_process(limit=1) as process:
        batch = await process.start(replicate.gateway())
        assert not batch.throttled
        await anyio.sleep(1)
        assert batch.throttled
        assert (await process.in_use(), batch.retries, batch.running) == (0, {}, 0)
        (row,) = (await process.rows(batch)).values()
        assert kind(row) == ("made", False)
    pauses = [later - at for at, later in pairwise(replicate.times("create"))]
    assert len(pauses) == 8
    assert min(pauses) >= 20


@in_virtual_time
async def test_429_with_a_lower_rate_lowers_the_account_rate() -> None:
    replicate = Replicate()
    words = "reduced to 6 requests per minute with a burst of 1 requests. It resets in ~10s."

    async def named(request: httpx.Request, forward: Forward) -> httpx.Response:
        return httpx.Response(429, json={"detail": words})

    replicate.answer("create", named)
    async with running_process(limit=1) as process:
        await made_of(process, replicate)
        (account,) = await process.store.semaphores()
        assert account.requests_per_minute == pytest.approx(6, rel=0.2)


# Predictions that were created, or may have been.


@in_virtual_time
async def test_creation_with_unreadable_response_is_never_retried() -> None:
    replicate = Replicate(list_lag_seconds=10_000, predict_seconds=1)
    replicate.answer("create", changed(lambda document: document.pop("id")))
    async with running_process() as process:
        _, (row,) = await made_of(process, replicate)
        assert kind(row) == ("create_outcome_unknown", False)
        assert await process.in_use() == 1
    assert len(replicate.times("create")) == 1


@in_virtual_time
async def test_possibly_created_prediction_keeps_its_permit_until_its_deadline() -> None:
    replicate = Replicate(page_size=1)

    async def lost_among_others(request: httpx.Request, forward: Forward) -> httpx.Response:
        await anyio.sleep(2)
        for _ in range(30):
            replicate.made("another")
        raise httpx.ReadError("reset")

    replicate.answer("create", lost_among_others)
    async with running_process() as process:
        _, (row,) = await made_of(process, replicate)
        assert (kind(row), row.prediction_id) == (("create_outcome_unknown", False), None)
        assert await process.in_use() == 1
        assert await freed(process) == pytest.approx(600 + 60 + 60, abs=4)
    assert len(replicate.times("create")) == 1


@in_virtual_time
async def test_stuck_prediction_gets_a_result_and_keeps_its_permit() -> None:
    replicate = Replicate(predict_seconds=500)
    replicate.always("get", changed(never_ends))
    async with running_process(prediction_seconds=100) as process:
        _, (row,) = await made_of(process, replicate)
        assert kind(row) == ("deadline_exceeded", False)
        assert row.prediction_id == replicate.predictions[0].id
        assert isinstance(row, TaskFailure)
        assert row.error.startswith("Its prediction could not be followed to its end: ")
        assert now() == pytest.approx(160, abs=2)
        assert await process.in_use() == 1
        assert await freed(process) == pytest.approx(220, abs=3)


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (403, "unauthorized"), (404, None)]
)
@in_virtual_time
async def test_unfollowable_prediction_keeps_its_id_and_permit(
    status: int, code: str | None
) -> None:
    replicate = Replicate(predict_seconds=90)
    replicate.always("get", refused(status))
    async with running_process() as process:
        _, (row,) = await made_of(process, replicate, task(0))
        assert kind(row) == (code or "create_outcome_unknown", False)
        assert row.prediction_id == replicate.predictions[0].id
        assert await process.in_use() == 1
    assert len(replicate.times("create")) == 1


@in_virtual_time
async def test_attempt_is_reconciled_again_when_its_prediction_was_claimed_by_another() -> None:
    given: list[str] = []

    async def taken(finish: Any, permit: int, batch: str, result: Any, **kwargs: Any) -> Any:
        if not given:
            given.append(result.prediction_id)
            await process.store.claim_prediction(10**6, batch, result.prediction_id)
            given.append(replicate.made())  # The attempt's own prediction.
            return None
        return await finish(permit, batch, result, **kwargs)

    replicate = Replicate(predict_seconds=1)
    async with running_process(wrap=wrapped(finish=taken)) as process:
        batch = await process.start(replicate.gateway())
        (row,) = (await process.rows(batch)).values()
        assert kind(row) == ("made", False)
        assert row.prediction_id == given[1]
        assert await process.in_use() == 0
        assert (batch.creating, batch.following) == ({}, {})
    assert len(replicate.times("create")) == 1


@in_virtual_time
async def test_task_is_retried_when_its_prediction_belongs_to_another_attempt() -> None:
    others: list[str] = []

    async def taken(finish: Any, permit: int, batch: str, result: Any, **kwargs: Any) -> Any:
        if not others:
            others.append(result.prediction_id)
            await process.store.claim_prediction(10**6, batch, result.prediction_id)
            return None
        return await finish(permit, batch, result, **kwargs)

    replicate = Replicate(predict_seconds=1)
    async with running_process(wrap=wrapped(finish=taken)) as process:
        _, (row,) = await made_of(process, replicate)
        assert kind(row) == ("made", False)
        assert row.prediction_id not in others
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == 2


@in_virtual_time
async def test_prediction_found_after_the_batch_was_cancelled_is_cancelled() -> None:
    replicate = Replicate(predict_seconds=200, list_lag_seconds=1_000)
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        await anyio.sleep(30)
        process.runner.cancel(batch)
        (row,) = (await process.rows(batch)).values()
        assert kind(row) == ("canceled", True)
        assert await process.in_use() == 0
    assert list(replicate.statuses().values()) == ["canceled"]
    assert min(replicate.times("cancel")) == pytest.approx(60, abs=1)


# Internal errors.


@in_virtual_time
async def test_internal_error_ends_the_task_and_keeps_its_permit_to_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def faulty(*_: Any, **__: Any) -> Any:
        raise KeyError("a fault of our own")

    monkeypatch.setattr(task_execution, "outcome", faulty)
    replicate = Replicate(predict_seconds=1)
    async with running_process() as process:
        batch, rows = await made_of(process, replicate, task(0), task(1))
        assert {kind(row) for row in rows} == {("create_outcome_unknown", False)}
        assert {row.prediction_id for row in rows} == {each.id for each in replicate.predictions}
        assert (batch.creating, batch.following) == ({}, {})
        assert await process.in_use() == 2
        assert await freed(process) == pytest.approx(720, abs=3)


@in_virtual_time
async def test_unrecordable_attempts_leave_their_tasks_waiting() -> None:
    failures = [ValueError("a fault of our own"), BackendUnavailable("locked")]

    async def faulty(note: Any, *args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return await note(*args, **kwargs)

    replicate = Replicate()
    async with running_process(wrap=wrapped(record_attempts=faulty)) as process:
        _, rows = await made_of(process, replicate, *map(task, range(3)))
        assert {kind(row) for row in rows} == {("made", False)}
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == 3


@in_virtual_time
async def test_unrecordable_result_ends_its_task_and_keeps_the_prediction_id() -> None:
    rows_refused = 0

    async def picky(finish: Any, permit: int, batch: str, result: Any, **kwargs: Any) -> Any:
        nonlocal rows_refused
        if isinstance(result, TaskSuccess):
            rows_refused += 1
            raise ValueError("no such row")
        return await finish(permit, batch, result, **kwargs)

    replicate = Replicate()
    async with running_process(wrap=wrapped(finish=picky)) as process:
        batch, (row,) = await made_of(process, replicate)
        assert (kind(row), rows_refused) == (("create_outcome_unknown", False), 1)
        assert row.prediction_id == replicate.predictions[0].id
        assert isinstance(row, TaskFailure)
        assert row.error == task_execution.LOST
        assert (batch.succeeded, batch.failed) == (0, 1)
        assert await process.in_use() == 0


# Recording of attempts before their creations.


@pytest.mark.parametrize(
    ("prediction", "batch", "sent"),
    [(600, 3600, 600), (30, 3600, 30), (600, 100, 100), (5, 9, 5)],
)
@in_virtual_time
async def test_prediction_timeout_is_capped_by_the_remaining_batch_time(
    prediction: int, batch: int, sent: int
) -> None:
    replicate = Replicate()
    await anyio.sleep(50)
    async with running_process(prediction_seconds=prediction, batch_seconds=batch) as process:
        began, _ = await made_of(process, replicate)
        assert began.began == 50
    assert [each.asked.cancel_after for each in replicate.predictions] == [sent]


@in_virtual_time
async def test_nothing_is_created_with_less_than_five_seconds_left() -> None:
    replicate = Replicate()
    async with running_process(batch_seconds=4) as process:
        _, (row,) = await made_of(process, replicate)
        assert kind(row) == ("deadline_exceeded", True)
        assert await process.in_use() == 0
    assert replicate.times("create") == []


@in_virtual_time
async def test_attempt_is_recorded_with_all_fields_that_identify_its_prediction() -> None:
    seen: list[Any] = []

    async def noting(note: Any, attempts: Any, **kwargs: Any) -> Any:
        seen.extend(attempts.values())
        return await note(attempts, **kwargs)

    replicate = Replicate(clock_offset_seconds=3_600)
    gateway = replicate.gateway()
    await gateway.sync_clock()
    async with running_process(wrap=wrapped(record_attempts=noting)) as process:
        three = replace(task(0, "x", num_outputs=3), expected_count=3)
        batch = await process.start(gateway, three)
        await process.rows(batch)
    (attempt,) = seen
    from replicate_mcp.replicate_api.attempt_matching import hash_inputs

    assert (attempt.batch, attempt.task, attempt.model) == (batch.id, 0, batch.tasks[0].model)
    assert attempt.inputs == hash_inputs({"prompt": "x", "num_outputs": 3})
    assert (attempt.cancel_after, attempt.max_seconds) == (600, 720)
    assert attempt.sent_at == pytest.approx(gateway.now() - 5, abs=2)
    assert attempt.images == 3


@in_virtual_time
async def test_tasks_beyond_the_daily_quota_end_with_that_reason() -> None:
    replicate = Replicate(predict_seconds=5)
    async with running_process(images_per_day=2) as process:
        batch, rows = await made_of(process, replicate, *map(task, range(5)))
        assert (
            sorted(kind(row) for row in rows) == [("daily_limit", True)] * 3 + [("made", False)] * 2
        )
        assert batch.stop_reason is not None
        assert await process.in_use() == 0
    assert len(replicate.times("create")) == 2


@in_virtual_time
async def test_withdrawn_offer_leaves_its_task_waiting() -> None:
    lost_offers = 0

    async def late(note: Any, attempts: Any, **kwargs: Any) -> Any:
        nonlocal lost_offers
        if not lost_offers:
            lost_offers = len(attempts)
            await anyio.sleep(1)  # The offers were withdrawn by now.
        return await note(attempts, **kwargs)

    replicate = Replicate()
    async with running_process(wrap=wrapped(record_attempts=late)) as process:
        _, rows = await made_of(process, replicate, *map(task, range(3)))
        assert {kind(row) for row in rows} == {("made", False)}
    assert lost_offers == 3
    assert len(replicate.times("create")) == 3


# Observer.


class Counted(NullObserver):
    """Records the events that it receives."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def creation_sent(self, waited_seconds: float) -> None:
        self.seen.append(("sent", round(waited_seconds)))

    def creation_throttled(self) -> None:
        self.seen.append("throttled")

    def response_lost(self) -> None:
        self.seen.append("lost")

    def creation_retried(self) -> None:
        self.seen.append("again")

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        at = None if seconds_at_replicate is None else round(seconds_at_replicate)
        self.seen.append((kind(result)[0], at))


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        ([], [("sent", 0), ("made", 20)]),
        ([refused(429)], [("sent", 0), "throttled", ("sent", 1), ("made", 20)]),
        ([unsent], [("sent", 0), "again", ("sent", 0), ("made", 20)]),
        ([lost(carried_out=True)], [("sent", 0), "lost", ("made", 20)]),
        ([refused(404)], [("sent", 0), ("model_not_found", 0)]),
    ],
)
@in_virtual_time
async def test_observer_receives_each_creation_event(
    answers: list[Answer], seen: list[Any]
) -> None:
    replicate = Replicate(predict_seconds=20)
    replicate.answer("create", *answers)
    counted = Counted()
    await anyio.sleep(1_000)
    async with running_process(observer=counted) as process:
        await made_of(process, replicate)
    assert counted.seen == seen


@pytest.mark.parametrize("answer", [unsent, refused(429), lost(carried_out=False)])
@in_virtual_time
async def test_other_errors_are_not_kept_as_server_errors(answer: Answer) -> None:
    replicate = Replicate()
    replicate.answer("create", refused(503))
    replicate.always("create", answer)
    async with running_process() as process:
        batch = await process.start(replicate.gateway())
        while len(replicate.times("create")) < 3:
            await anyio.sleep(0.1)
        assert batch.server_error == 0


@in_virtual_time
async def test_server_error_is_kept_until_another_creation_response() -> None:
    async def created_with_server_error(request: httpx.Request, forward: Forward) -> httpx.Response:
        replicate.made()
        return await refused(500)(request, forward)

    replicate = Replicate(predict_seconds=20)
    async with running_process(limit=1) as process:
        replicate.answer("create", refused(520), _forward)
        batch = await process.start(replicate.gateway())
        await anyio.sleep(1)
        assert batch.server_error == 520
        await process.rows(batch)
        assert batch.server_error == 0
        replicate.answer("create", created_with_server_error, unsent)
        batch = await process.start(replicate.gateway(), task(0), task(1, "b"))
        await anyio.sleep(10)
        assert batch.server_error == 500
        await process.rows(batch)
        assert batch.server_error == 0
