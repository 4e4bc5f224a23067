"""What a person asked to stop is stopped at Replicate too, whatever goes wrong on the way."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from conftest import AppFactory, environment, settings_for
from replicate_mcp.app import App
from replicate_mcp.simulator import Simulator, running_simulator_process


@pytest.mark.soak
async def test_after_a_stop_at_any_moment_nothing_runs_and_nothing_is_created(
    tmp_path: Path,
) -> None:
    moments = random.Random(3)
    with running_simulator_process(
        predict_seconds="0.5-60",
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
        creation_429=0.1,
        creation_5xx=0.05,
        creation_5xx_after=0.1,
        creation_reset_after=0.1,
        cancel_429=0.1,
        cancel_5xx=0.1,
        cancel_5xx_after=0.1,
        cancel_reset=0.1,
        list_lag_seconds=1,
    ) as simulator:
        settings = settings_for(simulator, tmp_path, REPLICATE_CONCURRENT_LIMIT="10")
        async with App.running(settings) as app:
            for _ in range(12):
                batch_id = await app.start_batch(app.caller(), [{"prompt": "a car"}] * 25)
                await anyio.sleep(moments.uniform(0, 2))
                await app.cancel(app.caller(), batch_id)
                with anyio.fail_after(90):
                    await app.stopped(batch_id)
                stopped = simulator.account("acme")
                assert stopped["in_flight"] == 0
                result = await app.result(app.caller(), batch_id)
                assert result.status == "canceled"
                assert result.successful_count + result.failed_count == 25
            await anyio.sleep(2)
            assert simulator.account("acme")["creations_seen"] == stopped["creations_seen"]


def say(server: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()


@pytest.mark.parametrize("end", ["stdin", "terminate", "kill"])
async def test_what_merely_went_away_cancels_nothing_and_its_images_are_delivered_by_the_next(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path, end: str
) -> None:
    simulator.configure(predict_seconds=2)
    with subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment(simulator, tmp_path), "REPLICATE_CONCURRENT_LIMIT": "2"},
        text=True,
    ) as server:
        client = {"name": "t", "version": "1"}
        asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        say(server, {"id": 1, "method": "initialize", "params": asked})
        assert server.stdout is not None
        server.stdout.readline()
        say(server, {"method": "notifications/initialized"})
        arguments = {"tasks": [{"prompt": f"car {n}"} for n in range(5)]}
        params = {"name": "generate_images", "arguments": arguments}
        say(server, {"id": 2, "method": "tools/call", "params": params})
        await simulator.reached(account="acme", in_flight=2)
        if end == "stdin":
            assert server.stdin is not None
            server.stdin.close()
        else:
            getattr(server, end)()
        server.wait(5)
    account = simulator.account("acme")
    assert (account["in_flight"], account["canceled"]) == (2, 0)
    async with app_with() as app:
        await app.semaphores(app.caller())
        batch_id = (await app.result(app.caller(), None)).batch_id
        with anyio.fail_after(20):
            await app.wait(app.caller(), batch_id, seconds=None)
        result = await app.result(app.caller(), batch_id)
    assert result.successful_count == 2
    assert [row.error_code for row in result.failed_results] == ["interrupted"] * 3
    assert simulator.account("acme")["created"] == 2
