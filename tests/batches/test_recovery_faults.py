"""An internal error during the recovery of one attempt affects only that attempt."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from batches.playback import Playback, running_playback
from batches.test_arbitrary_predictions import settings_of
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.batches import recovery
from replicate_mcp.batches.outcome import outcome
from replicate_mcp.settings import Settings

pytestmark = pytest.mark.usefixtures("short_intervals")

PREDICTION_SECONDS = 8


def short_lived(playback: Playback, state: str) -> Settings:
    return settings_of(playback, state).model_copy(
        update={"prediction_seconds": PREDICTION_SECONDS}
    )


async def permits_out(app: App) -> int:
    return (await app.semaphores.list_for(app.caller()))[0].in_use


def test_unexpected_error_ends_its_task_and_frees_its_permit_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(task: Any, *rest: Any, **options: Any) -> Any:
        if task.index == 1:
            raise KeyError("an unexpected fault")
        return outcome(task, *rest, **options)

    monkeypatch.setattr(recovery, "outcome", faulty)
    monkeypatch.setattr(recovery, "HOLD_SECONDS", 0)
    monkeypatch.setattr(recovery, "DEADLINE_GRACE_SECONDS", 0)

    async def run(playback: Playback) -> None:
        settings = short_lived(playback, f"sqlite://{tmp_path / 'state.db'}")
        async with App.running(settings) as app:
            tasks = [{"prompt": f"picture {number}"} for number in range(3)]
            batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
            with anyio.fail_after(30):
                while len(playback.predictions) < len(tasks):
                    await anyio.sleep(0.02)
        async with App.running(settings) as app:
            with anyio.fail_after(60):
                await app.batches.wait(app.caller(), batch_id, seconds=None)
                result = await app.batches.result(app.caller(), batch_id)
                assert [row.task_index for row in result.successful_results] == [0, 2]
                (failed,) = result.failed_results
                assert (failed.task_index, failed.error_code) == (1, "create_outcome_unknown")
                assert not failed.retryable
                # Its prediction may run until its deadline, and holds its permit until then.
                assert await permits_out(app) == 1
                while await permits_out(app):
                    await anyio.sleep(0.05)

    with running_playback(Playback()) as playback:
        playback.created, playback.listed = None, json.dumps
        anyio.run(run, playback)
        assert len(playback.predictions) == 3
