"""Progress messages of a batch, and when they are reported."""

import time
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from batches.running_batches import running_batch
from batches.test_running_batch import FAILED, MADE
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches import progress as module
from replicate_mcp.batches.progress import Progress, progress, watch

NOW = 1_000.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "steady_time", lambda: NOW)


# Fields of a batch of ten tasks, and its progress line.
LINES: list[tuple[dict[str, Any], str]] = [
    ({}, "0/10 done, 0 running"),
    ({"began": NOW - 8, "creating": {1: 0}, "following": {2: "p"}}, "0/10 done, 2 running"),
    # Half of the running tasks count as done: 4 + 1 of 10 took 10 s.
    (
        {"succeeded": 4, "began": NOW - 10, "creating": {1: 0}, "following": {2: "p"}},
        "4/10 done, 2 running, about 10 s left",
    ),
    ({"succeeded": 4, "began": None}, "4/10 done, 0 running"),
    ({"succeeded": 1, "began": NOW - 4}, "1/10 done, 0 running, about 36 s left"),
    (
        {"succeeded": 3, "failed": 1, "began": NOW - 4},
        "4/10 done, 0 running, 1 failed, about 6 s left",
    ),
    # Tasks that failed before the start took no time, and no estimate includes them.
    (
        {"succeeded": 2, "failed": 5, "invalid": 5, "began": NOW - 4},
        "7/10 done, 0 running, 5 failed, about 6 s left",
    ),
    ({"failed": 5, "invalid": 5, "began": NOW - 4}, "5/10 done, 0 running, 5 failed"),
    ({"succeeded": 9, "began": NOW - 0.1}, "9/10 done, 0 running, about 1 s left"),
    ({"succeeded": 10, "began": NOW - 4}, "10/10 done, 0 running"),
    (
        {"succeeded": 4, "failed": 1, "began": NOW - 4, "canceled": True},
        "5/10 done, 0 running, 1 not made",
    ),
]


@pytest.mark.parametrize(("fields", "line"), LINES)
def test_progress_line_shows_counts_and_remaining_tasks(fields: dict[str, Any], line: str) -> None:
    found = progress(running_batch(10, **fields))
    assert (found.line, found.notice, found.message) == (line, "", line)
    batch = running_batch(10, **fields)
    assert (found.finished, found.total, found.running) == (batch.finished, 10, batch.running)


def unanswered(seconds: float | None) -> Any:
    since = None if seconds is None else time.time() - seconds
    return cast(Any, SimpleNamespace(unanswered_since=since))


def paused(seconds: float) -> Any:
    return cast(Any, SimpleNamespace(paused_for=seconds))


@pytest.mark.parametrize(
    ("seconds", "is_reported"), [(None, False), (1.5, False), (2.0, True), (2.5, True)]
)
@in_virtual_time
async def test_unresponsive_replicate_is_reported_after_two_seconds(
    seconds: float | None, is_reported: bool
) -> None:
    found = progress(running_batch(gateway=unanswered(seconds), dispatcher=paused(0)))
    if not is_reported:
        assert found.notice == ""
        return
    assert seconds is not None
    clock = time.strftime("%H:%M", time.localtime(time.time() - seconds))
    assert found.notice == f"Replicate has not answered since {clock}, trying again."
    assert found.message == f"{found.line}. {found.notice}"


@pytest.mark.parametrize(
    ("pause", "pending", "creating", "is_reported"),
    [
        (7.2, 1, 0, True),
        (0.0, 1, 0, False),
        (7.2, 0, 0, False),
        (7.2, 1, 1, False),
    ],
)
def test_redis_admission_pause_is_reported_while_all_tasks_wait(
    pause: float, pending: int, creating: int, is_reported: bool
) -> None:
    found = progress(
        running_batch(
            dispatcher=paused(pause),
            pending=deque(range(pending)),
            creating={number: number for number in range(creating)},
        )
    )
    assert found.notice == (
        "Redis is new or was restarted: waiting 8 s for the other processes to report what runs."
        if is_reported
        else ""
    )


def test_unresponsive_replicate_notice_takes_precedence_over_redis_pause() -> None:
    found = progress(
        running_batch(gateway=unanswered(60), dispatcher=paused(7), pending=deque(range(1)))
    )
    assert found.notice.startswith("Replicate has not answered")


def test_message_without_a_notice_is_the_progress_line() -> None:
    assert Progress(1, 2, 1, "1/2 done").message == "1/2 done"


# When progress is reported.


class Reports:
    """Records each report: its time and the number of finished tasks.

    Args:
        seconds: the duration of each callback.
    """

    def __init__(self, seconds: float = 0) -> None:
        self._seconds = seconds
        self.seen: list[tuple[float, int]] = []

    async def note(self, reported: Progress) -> None:
        self.seen.append((round(anyio.current_time(), 3), reported.finished))
        await anyio.sleep(self._seconds)


@in_virtual_time
async def test_changes_are_reported_soon_and_unchanged_progress_every_five_seconds() -> None:
    batch, reports = running_batch(3), Reports()
    async with anyio.create_task_group() as group:
        group.start_soon(watch, batch, reports.note)
        await anyio.sleep(1)
        batch.add_result(MADE)
        await anyio.sleep(0.05)
        batch.add_result(FAILED)
        await anyio.sleep(10.95)
        batch.add_result(MADE)
    assert reports.seen == [(0.1, 0), (1.0, 1), (1.1, 2), (6.1, 2), (11.1, 2), (12.0, 3)]
    assert anyio.current_time() == 12


@in_virtual_time
async def test_change_of_only_the_running_count_is_not_reported_early() -> None:
    batch, reports = running_batch(1), Reports()
    async with anyio.create_task_group() as group:
        group.start_soon(watch, batch, reports.note)
        await anyio.sleep(1)
        batch.notify()
        await anyio.sleep(1)
        batch.add_result(MADE)
    assert reports.seen == [(0.1, 0), (2.0, 1)]


@in_virtual_time
async def test_batch_end_during_a_report_is_reported() -> None:
    batch, reports = running_batch(1), Reports(seconds=2)
    async with anyio.create_task_group() as group:
        group.start_soon(watch, batch, reports.note)
        await anyio.sleep(1)
        batch.add_result(MADE)
    assert reports.seen == [(0.1, 0), (2.1, 1)]


@in_virtual_time
async def test_ended_batch_is_reported_once() -> None:
    batch, reports = running_batch(1), Reports()
    batch.add_result(MADE)
    await watch(batch, reports.note)
    assert reports.seen == [(0, 1)]


@in_virtual_time
async def test_batch_end_is_awaited_without_reports() -> None:
    batch = running_batch(1)

    async def end() -> None:
        await anyio.sleep(7)
        batch.add_result(MADE)

    async with anyio.create_task_group() as group:
        group.start_soon(end)
        await watch(batch, None)
        assert anyio.current_time() == 7
