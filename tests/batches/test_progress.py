"""How far a batch is, in the words of its progress."""

import time
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batches.running import running_batch
from replicate_mcp.batches import progress as module
from replicate_mcp.batches.progress import progress

NOW = 1_000.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "steady_time", lambda: NOW)


# Fields of a batch of ten tasks, and its line.
LINES: list[tuple[dict[str, Any], str]] = [
    ({}, "0/10 done, 0 running"),
    ({"began": NOW - 8, "creating": {1: 0}, "following": {2: "p"}}, "0/10 done, 2 running"),
    # Half of what runs is done: 4 + 1 of 10 took 10 s.
    (
        {"succeeded": 4, "began": NOW - 10, "creating": {1: 0}, "following": {2: "p"}},
        "4/10 done, 2 running, about 10 s left",
    ),
    ({"succeeded": 4, "began": None}, "4/10 done, 0 running"),
    (
        {"succeeded": 3, "failed": 1, "began": NOW - 4},
        "4/10 done, 0 running, 1 failed, about 6 s left",
    ),
    # Tasks that failed before it began took no time, and none is left for them.
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
def test_a_batch_tells_its_counts_and_what_is_left(fields: dict[str, Any], line: str) -> None:
    found = progress(running_batch(10, **fields))
    assert (found.line, found.notice, found.message) == (line, "", line)
    batch = running_batch(10, **fields)
    assert (found.finished, found.total, found.running) == (batch.finished, 10, batch.running)


def unanswered(seconds: float | None) -> Any:
    since = None if seconds is None else time.time() - seconds
    return cast(Any, SimpleNamespace(unanswered_since=since))


def paused(seconds: float) -> Any:
    return cast(Any, SimpleNamespace(paused_for=seconds))


@pytest.mark.parametrize(("seconds", "is_told"), [(None, False), (1.5, False), (2.5, True)])
def test_a_replicate_that_does_not_answer_is_told_after_two_seconds(
    seconds: float | None, is_told: bool
) -> None:
    found = progress(running_batch(gateway=unanswered(seconds), holder=paused(0)))
    if not is_told:
        assert found.notice == ""
        return
    clock = time.strftime("%H:%M", time.localtime(time.time() - 2.5))
    assert found.notice == f"Replicate has not answered since {clock}, trying again."
    assert found.message == f"{found.line}. {found.notice}"


@pytest.mark.parametrize(
    ("pause", "pending", "creating", "is_told"),
    [
        (7.2, 1, 0, True),
        (0.0, 1, 0, False),
        (7.2, 0, 0, False),
        (7.2, 1, 1, False),
    ],
)
def test_a_redis_that_admits_nothing_yet_is_told_while_all_tasks_wait(
    pause: float, pending: int, creating: int, is_told: bool
) -> None:
    found = progress(
        running_batch(
            holder=paused(pause),
            pending=deque(range(pending)),
            creating={number: number for number in range(creating)},
        )
    )
    assert found.notice == (
        "Redis is new or was restarted: waiting 8 s for the other processes to report what runs."
        if is_told
        else ""
    )


def test_that_replicate_does_not_answer_comes_before_that_redis_admits_nothing() -> None:
    found = progress(
        running_batch(gateway=unanswered(60), holder=paused(7), pending=deque(range(1)))
    )
    assert found.notice.startswith("Replicate has not answered")
