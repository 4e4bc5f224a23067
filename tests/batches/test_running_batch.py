"""Counts of a running batch, and the notification of its watchers."""

from typing import Any

import pytest

from batches.running_batches import running_batch
from batches.test_outcome import TASK
from replicate_mcp.batches.outcome import failure
from replicate_mcp.batches.running_batch import Reason, RunningBatch
from replicate_mcp.tasks.result import TaskSuccess

FAILED = failure(TASK, "no_output", "There is none.")
MADE = TaskSuccess(
    task_index=0,
    output_filename="fox",
    model="owner/name",
    prediction_id="p1",
    count=0,
    generated_files=(),
)


def state(batch: RunningBatch) -> tuple[int, int, int, int, bool]:
    return batch.total, batch.finished, batch.succeeded, batch.failed, batch.ended.is_set()


async def test_batch_ends_with_its_last_result() -> None:
    batch = running_batch(3)
    batch.add_result(MADE)
    assert state(batch) == (3, 1, 1, 0, False)
    batch.add_result(FAILED)
    assert state(batch) == (3, 2, 1, 1, False)
    batch.add_result(MADE)
    assert state(batch) == (3, 3, 2, 1, True)


@pytest.mark.parametrize("result", [MADE, FAILED], ids=["made", "failed"])
async def test_each_result_wakes_watchers_once(result: TaskSuccess) -> None:
    batch = running_batch(3)
    before = batch.changed
    batch.add_result(result)
    assert before.is_set()
    assert batch.changed is not before
    assert not batch.changed.is_set()


@pytest.mark.parametrize("field", ["gateway", "reconciler", "dispatcher", "names", "trace"])
async def test_batch_repr_omits_the_token(field: str) -> None:
    fields: dict[str, Any] = {field: "r8_secret"}
    shown = repr(running_batch(**fields))
    assert "r8_secret" not in shown
    assert "acme" in shown


async def test_new_batch_has_no_reason_to_stop() -> None:
    batch = running_batch()
    assert (batch.server_error, batch.throttled, batch.canceled) == (0, False, False)
    assert (batch.stop_reason, batch.began, batch.running, batch.finished) == (None, None, 0, 0)


async def test_running_counts_created_and_followed_tasks() -> None:
    batch = running_batch(creating={1: 0}, following={2: "p2", 3: "p3"})
    assert batch.running == 3


async def test_first_stop_reason_of_a_batch_is_kept() -> None:
    batch = running_batch()
    assert not batch.stopping.is_set()
    first: Reason = ("canceled", "First.", True)
    batch.stop_creating(first)
    batch.stop_creating(("interrupted", "Second.", True))
    assert batch.stop_reason == first
    assert batch.stopping.is_set()
