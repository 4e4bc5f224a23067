"""A machine that slept: the steady clock has gone on, the event loop's has not."""

import time
from types import SimpleNamespace

import anyio
import pytest

from batches.playback import Playback, running_playback
from batches.test_arbitrary_predictions import settings_of
from replicate_mcp.app import App
from replicate_mcp.batches import runner
from replicate_mcp.callers_batches import BatchRequest
from replicate_mcp.platform import clock


class Sleeping:
    """The machine's clocks; `sleep` lets the steady one jump."""

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


def test_a_batch_creates_nothing_past_its_deadline_though_the_machine_slept(
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
        playback.created = None  # The first one is held.
        anyio.run(run, playback)


def test_a_connection_that_was_idle_while_the_machine_slept_is_not_used_again(
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
            assert playback.connections == before  # Without sleep it is.
            machine.sleep(60)
            batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "c"}]))
            await app.batches.wait(app.caller(), batch_id, seconds=None)
            assert playback.connections > before

    with running_playback(Playback()) as playback:
        anyio.run(run, playback)
