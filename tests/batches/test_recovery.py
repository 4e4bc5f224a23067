"""Recovery of an attempt whose process is dead: its row, its permit and its prediction."""

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import pytest

from batches.direct import (
    ACCOUNT,
    MODEL,
    Answer,
    Process,
    Replicate,
    changed,
    lost,
    refused,
    running_process,
    task,
    unsent,
    wrapped,
)
from batches.orphans import (
    CAR,
    MADE,
    freed,
    kind,
    left,
    never_ends,
    now,
    recovered,
)
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.attempt_store import AttemptRecord
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.tasks.result import TaskFailure, TaskSuccess

# Whether the prediction's id is known, its outcome, whether its batch was cancelled; then
# the code, `retryable`, and the prediction's final status.
CASES: list[tuple[bool, str, bool, str, bool, str | None]] = [
    (True, "runs", False, MADE, False, "succeeded"),
    (True, "has ended", False, MADE, False, "succeeded"),
    (True, "fails", False, "prediction_failed", True, "failed"),
    (True, "is absent", False, "create_outcome_unknown", False, None),
    (True, "runs", True, "canceled", True, "canceled"),
    (True, "has ended", True, MADE, False, "succeeded"),
    (False, "runs", False, MADE, False, "succeeded"),
    (False, "has ended", False, MADE, False, "succeeded"),
    (False, "fails", False, "prediction_failed", True, "failed"),
    (False, "is absent", False, "interrupted", True, None),
    (False, "runs", True, "canceled", True, "canceled"),
    (False, "has ended", True, MADE, False, "succeeded"),
    (False, "is absent", True, "interrupted", True, None),
]


@pytest.mark.parametrize(("known", "prediction", "cancel", "code", "retryable", "status"), CASES)
@in_virtual_time
async def test_orphaned_attempt_gets_its_result_and_frees_its_permit(
    known: bool, prediction: str, cancel: bool, code: str, retryable: bool, status: str | None
) -> None:
    prompt = "a red car [fail]" if prediction == "fails" else "a red car"
    replicate = Replicate(predict_seconds=0 if prediction == "has ended" else 40)
    async with running_process() as process:
        (permit,) = await left(process, {"prompt": prompt})
        made = "p0" if prediction == "is absent" else replicate.made(prompt)
        if known:
            assert await process.store.claim_prediction(permit, "b_1", made)
        if cancel:
            await process.store.cancel_batch("b_1")
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert kind(row) == (code, retryable)
        assert row.prediction_id == (None if code == "interrupted" else made)
        assert (row.prompt, row.output_filename) == ("prompt 0", "car")
        assert await process.in_use() == 0
        assert await process.store.orphans(ACCOUNT) == []
    assert list(replicate.statuses().values()) == [status][: status is not None]
    assert replicate.times("create") == []
    assert len(replicate.times("cancel")) == (cancel and status is not None)
    assert (replicate.times("list") == []) == known


@in_virtual_time
async def test_recovered_result_states_the_facts_and_advice() -> None:
    replicate = Replicate()
    async with running_process() as process:
        one, _ = await left(process, CAR, {"prompt": "a blue car"})
        assert await process.store.claim_prediction(one, "b_1", "p0")
        process.runner.recover(ACCOUNT, replicate.gateway())
        unknown, interrupted = (await recovered(process, 2)).values()
    assert isinstance(unknown, TaskFailure)
    assert isinstance(interrupted, TaskFailure)
    assert unknown.error.startswith(
        "Its process ended, and what became of it could not be learned: 404: "
    )
    assert unknown.error.endswith(
        "It may have been billed: check https://replicate.com/predictions before sending it again."
    )
    assert interrupted.error == (
        "The process that ran this batch ended before this task was created. Nothing was billed: "
        "send it again."
    )


@in_virtual_time
async def test_uncreated_prediction_is_reported_after_ten_seconds_without_evidence() -> None:
    replicate = Replicate()
    async with running_process() as process:
        await left(process, CAR)
        process.runner.recover(ACCOUNT, replicate.gateway())
        await recovered(process)
        assert now() == pytest.approx(10, abs=1)


@in_virtual_time
async def test_recovered_image_is_delivered_in_its_actual_format() -> None:
    replicate = Replicate()
    async with running_process() as process:
        await left(process, CAR)
        made = replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
    assert isinstance(row, TaskSuccess)
    assert (row.model, row.prediction_id) == (MODEL, made)
    assert [file.filename for file in row.generated_files] == ["car.webp"]


# Permits of predictions that may still run.


@in_virtual_time
async def test_recovered_prediction_that_never_ends_gets_a_result_and_keeps_its_permit() -> None:
    replicate = Replicate(predict_seconds=10)
    replicate.always("get", changed(never_ends))
    async with running_process() as process:
        (permit,) = await left(process, CAR, cancel_after=60)
        made = replicate.made(cancel_after=60)
        assert await process.store.claim_prediction(permit, "b_1", made)
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert (kind(row), row.prediction_id) == (("create_outcome_unknown", False), made)
        assert now() == pytest.approx(60 + 60, abs=2)
        assert len(replicate.times("cancel")) == 1
        assert replicate.times("cancel")[0] == pytest.approx(60, abs=2)
        assert await process.in_use() == 1
        assert await freed(process) == pytest.approx(60 + 120, abs=5)


async def hidden(process: Process, replicate: Replicate) -> None:
    """Make the list too long to show predictions created now, and wait until it is."""
    replicate.world.configure({"page_size": 1})
    await anyio.sleep(2)
    for _ in range(25):
        replicate.made("another")


@in_virtual_time
async def test_undecidable_attempt_ends_as_unknown_and_keeps_its_permit_to_its_deadline() -> None:
    replicate = Replicate(predict_seconds=300)
    async with running_process(limit=1) as process:
        await left(process, CAR, waiting=2)
        replicate.made()
        await hidden(process, replicate)
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert (kind(row), row.prediction_id) == (("create_outcome_unknown", False), None)
        assert now() < 14
        (account,) = await process.store.semaphores()
        # Its batch may run elsewhere: its other tasks keep waiting.
        assert (account.in_use, account.waiting) == (1, 2)
        assert await process.store.orphans(ACCOUNT) == []
        while (await process.store.semaphores())[0].waiting == 2:
            await anyio.sleep(1)
        assert now() == pytest.approx(600 + 60 + 60, abs=1.1)
        assert len(await process.store.results("b_1")) == 1


@pytest.mark.parametrize("answer", [unsent, lost(carried_out=False)])
@in_virtual_time
async def test_prediction_list_is_polled_until_the_attempt_becomes_undecidable(
    answer: Answer,
) -> None:
    adopted: list[int] = []

    async def recorded(adopt: Any, permit: int) -> bool:
        adopted.append(permit)
        return bool(await adopt(permit))

    replicate = Replicate()
    replicate.always("list", answer)
    async with running_process(wrap=wrapped(adopt=recorded)) as process:
        (permit,) = await left(process, CAR, sent_at=time.time() - 50 * 60 + 90)
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert kind(row) == ("create_outcome_unknown", False)
        assert 90 < now() < 93
        assert await freed(process) < 93
        assert adopted == [permit], "the permit is kept meanwhile"
    pauses = [later - at for at, later in pairwise(replicate.times("list"))]
    assert min(pauses) >= 0.29
    assert max(pauses) < 3


@in_virtual_time
async def test_attempt_too_old_to_match_ends_as_unknown_immediately() -> None:
    replicate = Replicate()
    async with running_process() as process:
        await left(process, CAR, sent_at=time.time() - 50 * 60 - 1)
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert kind((await recovered(process))[0]) == ("create_outcome_unknown", False)
        assert await freed(process) < 5


# Which prediction belongs to the attempt, and when it was created.


@in_virtual_time
async def test_recovery_delivers_the_own_prediction_and_not_a_claimed_one() -> None:
    replicate = Replicate()
    taken: list[str] = []

    async def stale(orphans: Any, account: str) -> list[AttemptRecord]:
        return [replace(each, prediction_id=taken[0]) for each in await orphans(account)]

    async with running_process(wrap=wrapped(orphans=stale)) as process:
        orphan, other = await left(process, CAR, CAR, held=(1,))
        own, others = replicate.made(), replicate.made(cancel_after=597)
        taken.append(others)
        assert await process.store.claim_prediction(other, "b_1", others)
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert (kind(row), row.prediction_id) == ((MADE, False), own)
        assert await process.in_use() == 1, "the other's"
        assert [each.permit for each in await process.store.open_attempts(ACCOUNT)] == [other]
    assert orphan != other


@pytest.mark.parametrize("offset", [-3_600, 3_600])
@in_virtual_time
async def test_clock_is_synced_before_attempts_are_judged(offset: int) -> None:
    replicate = Replicate(clock_offset_seconds=offset, list_lag_seconds=5, predict_seconds=30)
    async with running_process() as process:
        await left(process, CAR, sent_at=time.time() + offset)
        made = replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert (kind(row), row.prediction_id) == ((MADE, False), made)


@in_virtual_time
async def test_orphan_deadline_uses_the_replicate_clock() -> None:
    replicate = Replicate(clock_offset_seconds=3_600, predict_seconds=40)
    async with running_process() as process:
        (permit,) = await left(process, CAR, cancel_after=60, sent_at=time.time() + 3_600)
        assert await process.store.claim_prediction(permit, "b_1", replicate.made())
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert kind((await recovered(process))[0]) == (MADE, False)
    assert replicate.times("cancel") == []


@in_virtual_time
async def test_recovered_permit_is_offered_immediately_to_a_waiting_batch() -> None:
    replicate = Replicate(predict_seconds=40)
    async with running_process(limit=1) as process:
        (permit,) = await left(process, CAR)
        assert await process.store.claim_prediction(permit, "b_1", replicate.made())
        batch = await process.start(replicate.gateway(), task(0, "b"))
        process.runner.recover(ACCOUNT, replicate.gateway())
        await recovered(process)
        ended = now()
        await process.rows(batch)
    assert replicate.times("create") == [pytest.approx(ended, abs=0.3)]


@in_virtual_time
async def test_batch_evicted_from_the_journal_does_not_count_as_cancelled() -> None:
    async def gone(batch: Any, batch_id: str) -> None:
        return None

    replicate = Replicate(predict_seconds=30)
    async with running_process(wrap=wrapped(get_batch=gone)) as process:
        await left(process, CAR)
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert kind((await recovered(process))[0]) == (MADE, False)
    assert replicate.times("cancel") == []


# Batches cancelled during recovery.


@in_virtual_time
async def test_batch_cancelled_during_recovery_is_stopped_within_a_second() -> None:
    replicate = Replicate(predict_seconds=300)
    async with running_process() as process:
        await left(process, CAR, {"prompt": "a blue car"})
        replicate.made()
        replicate.made("a blue car")
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(20.5)
        assert replicate.times("cancel") == []
        await process.store.cancel_batch("b_1")
        rows = await recovered(process, 2)
        assert {kind(row) for row in rows.values()} == {("canceled", True)}
        assert await process.in_use() == 0
    assert len(replicate.times("cancel")) == 2
    assert all(20.5 <= at <= 21.6 for at in replicate.times("cancel"))
    assert set(replicate.statuses().values()) == {"canceled"}


@in_virtual_time
async def test_cancellation_is_noticed_after_a_temporary_journal_outage() -> None:
    async def unavailable(batch: Any, batch_id: str) -> Any:
        if 10 < now() < 30:
            raise BackendUnavailable("locked")
        return await batch(batch_id)

    replicate = Replicate(predict_seconds=300)
    async with running_process(wrap=wrapped(get_batch=unavailable)) as process:
        await left(process, CAR)
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(20)
        await process.store.cancel_batch("b_1")
        assert kind((await recovered(process))[0]) == ("canceled", True)
    assert replicate.times("cancel") == pytest.approx([31], abs=1)


@in_virtual_time
async def test_rejected_cancel_does_not_prevent_the_result() -> None:
    replicate = Replicate(predict_seconds=30)
    replicate.always("cancel", refused(403))
    async with running_process() as process:
        await left(process, CAR)
        replicate.made()
        await process.store.cancel_batch("b_1")
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert kind((await recovered(process))[0]) == (MADE, False)
    assert len(replicate.times("cancel")) == 1
