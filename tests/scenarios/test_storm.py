"""All faults at once: no result is lost, and no prediction is billed twice."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from conftest import settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.simulator import running_simulator_process

TASKS = 300


@pytest.mark.soak
async def test_fault_storm_loses_nothing_and_makes_each_image_once(tmp_path: Path) -> None:
    with running_simulator_process(
        predict_seconds="0.3-1",
        requests_per_minute=60_000,
        burst=60_000,
        creation_429=0.2,
        creation_5xx=0.05,
        creation_5xx_after=0.05,
        creation_reset=0.05,
        creation_reset_after=0.05,
        list_lag_seconds=2,
    ) as simulator:
        same: dict[str, Any] = {"prompt": "the same car", "seed": 1}
        tasks = [same if n % 3 == 0 else {"prompt": f"car {n}"} for n in range(TASKS)]
        async with App.running(settings_for(simulator, tmp_path)) as app:
            batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
            with anyio.fail_after(400):
                await app.batches.wait(app.caller(), batch_id, seconds=None)
            result = await app.batches.result(app.caller(), batch_id)
        stats = simulator.account("acme")
        made = {each["id"] for each in simulator.predictions()}
    delivered = [row.prediction_id for row in result.successful_results]
    assert (result.successful_count, result.failed_count) == (TASKS, 0)
    assert sorted(row.task_index for row in result.successful_results) == list(range(TASKS))
    assert len(set(delivered)) == TASKS
    assert set(delivered) == made
    assert stats["max_in_flight"] <= 60
