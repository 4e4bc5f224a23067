"""System sleep: the steady clock advances, the event loop's clock does not."""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import anyio
import pytest

from batches.playback import Playback, running_playback
from batches.test_arbitrary_predictions import settings_of
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.batches import runner
from replicate_mcp.platform import clock


class Sleeping:
    """The machine's clocks; `sleep` advances only the steady one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._slept = 0.0
        monotonic = time.monotonic
        slept = SimpleNamespace(clock_gettime=lambda _: monotonic() + self._slept)
        monkeypatch.setattr(clock, "time", slept)
        monkeypatch.setattr(clock, "_CLOCK", 0)

    def sleep(self, seconds: float) -> None:
        self._slept += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Sleeping:
    monkeypatch.setattr(runner, "DEADLINE_POLL_SECONDS", 0.05)
    return Sleeping(monkeypatch)


def test_batch_creates_nothing_past_its_deadline_after_machine_sleep(
    machine: Sleeping,
) -> None:
    async def run(playback: Playback) -> None:
        settings = settings_of(playback).model_copy(update={"concurrent_limit": 1})
        async with App.running(settings) as app:
            tasks = [{"prompt": f"picture {number}"} for number in range(3)]
            batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
            with anyio.fail_after(30):
                while not playback.predictions:
                    await anyio.sleep(0.01)
                machine.sleep(settings.batch_seconds)
                while True:
                    result = await app.batches.result(app.caller(), batch_id)
                    if result.failed_count == 2:
                        break
                    await anyio.sleep(0.01)
            codes = {row.task_index: row.error_code for row in result.failed_results}
            assert codes == {1: "deadline_exceeded", 2: "deadline_exceeded"}
            assert len(playback.predictions) == 1

    with running_playback(Playback()) as playback:
        playback.created = None  # The first creation is held.
        anyio.run(run, playback)


def test_connection_idle_during_machine_sleep_is_not_reused(
    machine: Sleeping,
) -> None:
    async def run(playback: Playback) -> None:
        async with App.running(settings_of(playback)) as app:
            for _ in range(2):
                batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "a"}]))
                await app.batches.wait(app.caller(), batch_id, seconds=None)
            before = playback.connections
            batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "b"}]))
            await app.batches.wait(app.caller(), batch_id, seconds=None)
            assert playback.connections == before  # Without sleep, it is reused.
            machine.sleep(60)
            batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "c"}]))
            await app.batches.wait(app.caller(), batch_id, seconds=None)
            assert playback.connections > before

    with running_playback(Playback()) as playback:
        anyio.run(run, playback)


async def test_timer_of_minutes_ends_after_machine_sleep(
    machine: Sleeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "SLEEP_POLL_SECONDS", 0.01)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(clock.steady_sleep, 600)
            await anyio.wait_all_tasks_blocked()
            machine.sleep(600)
    with anyio.move_on_after(0.1) as scope:
        await clock.steady_sleep(600)
    assert scope.cancelled_caught


@pytest.fixture
def reloaded() -> Iterator[Callable[[], int | None]]:
    """Reload the module so that it chooses a clock; return the clock's id."""

    def reload() -> int | None:
        number: int | None = importlib.reload(clock)._CLOCK
        return number

    yield reload
    importlib.reload(clock)


def test_every_operating_system_has_a_clock_that_counts_sleep(
    reloaded: Callable[[], int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":
        assert reloaded() == time.CLOCK_BOOTTIME
    with monkeypatch.context() as macos:
        macos.delattr(time, "CLOCK_BOOTTIME", raising=False)
        assert reloaded() == time.CLOCK_MONOTONIC
    with monkeypatch.context() as windows:
        for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime"):
            windows.delattr(time, name, raising=False)
        assert reloaded() is None
        assert clock.steady_time() == pytest.approx(time.monotonic(), abs=1)
