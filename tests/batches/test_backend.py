"""Values passed to and returned by a backend, and the retention of its journal."""

import pytest

from batches.direct import ACCOUNT, MODEL
from batches.test_outcome import TASK
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.attempt_store import Attempt, AttemptRecord, RecordedAttempts
from replicate_mcp.batches.journal import (
    BatchState,
    IdempotencyKey,
    IdempotencyKeyExists,
    JournalTask,
    NewBatch,
)
from replicate_mcp.batches.outcome import failure
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.tasks.result import BatchStatus


@pytest.mark.parametrize(
    ("total", "succeeded", "failed", "canceled", "status"),
    [
        (3, 0, 0, False, "running"),
        (3, 1, 1, False, "running"),
        (3, 0, 2, True, "running"),
        (3, 2, 1, False, "completed"),
        (3, 3, 0, False, "completed"),
        (3, 0, 3, False, "completed"),
        (3, 1, 2, True, "canceled"),
    ],
)
def test_batch_is_running_until_every_task_has_a_result(
    total: int, succeeded: int, failed: int, canceled: bool, status: BatchStatus
) -> None:
    state = BatchState("b_1", "server", ACCOUNT, "s", total, succeeded, failed, canceled, 1.0, None)
    assert state.status == status


def test_attempt_repr_omits_its_inputs() -> None:
    inputs = {"prompt": "f00d"}
    attempt = Attempt("b_1", 0, MODEL, inputs, 600, 1.0, 720.0)
    recorded = AttemptRecord(1, "b_1", 0, MODEL, inputs, 600, 1.0, None)
    for each in (attempt, recorded):
        assert "f00d" not in repr(each)
        assert "b_1" in repr(each)
    assert attempt.images == 1


def test_recorded_attempts_have_no_admission_by_default() -> None:
    assert RecordedAttempts({7: 600}) == RecordedAttempts({7: 600}, AdmissionResult(), None)


async def test_ended_batch_and_its_key_are_kept_for_a_day() -> None:
    now = 1_800_000_000.0
    backend = await SqliteBackend.open(clock=lambda: now)
    await backend.declare_limit("s", 10, per_minute=60)

    async def open_batch(name: str, key: str) -> None:
        await backend.open_batch(
            NewBatch(
                name,
                "server",
                ACCOUNT,
                "s",
                (JournalTask("p", "x.png", MODEL),),
                IdempotencyKey(key, f"digest of {name}"),
            ),
            QueueEntry(name, ("s",), ACCOUNT, 0),
        )

    async def listed() -> list[str]:
        return [each.id for each in await backend.list_batches(["server"])]

    await open_batch("b_1", "k")
    now += 3600
    await backend.record_results("b_1", [failure(TASK, "no_output", "There is none.")])
    now += 24 * 3600 - 60
    await open_batch("b_2", "another")
    assert await listed() == ["b_2", "b_1"]
    with pytest.raises(IdempotencyKeyExists) as taken:
        await open_batch("b_3", "k")
    assert (taken.value.batch_id, taken.value.digest) == ("b_1", "digest of b_1")
    assert str(taken.value) == "b_1"
    now += 120
    await open_batch("b_3", "k")
    assert await listed() == ["b_3", "b_2"]
    await backend.close()
