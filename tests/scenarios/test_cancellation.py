"""Cancelled batches are stopped at Replicate too, whatever fails in between."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from backends.link import link_to
from backends.servers import RunningServer, open_for_admission
from conftest import environment, settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api import gateway
from replicate_mcp.simulator import Simulator, running_simulator_process
from replicate_mcp.tasks.result import TaskFailure, TaskSuccess


@pytest.mark.soak
async def test_nothing_runs_or_is_created_after_a_cancel_at_any_moment(
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
                batch_id = await app.batches.start(
                    app.caller(), BatchRequest([{"prompt": "a car"}] * 25)
                )
                await anyio.sleep(moments.uniform(0, 2))
                await app.batches.cancel(app.caller(), batch_id)
                with anyio.fail_after(90):
                    await app.batches.wait_until_stopped(batch_id)
                stopped = simulator.account("acme")
                assert stopped["in_flight"] == 0
                result = await app.batches.result(app.caller(), batch_id)
                assert result.status == "canceled"
                assert result.successful_count + result.failed_count == 25
            await anyio.sleep(2)
            assert simulator.account("acme")["creations_seen"] == stopped["creations_seen"]


def say(server: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()


@contextmanager
def server(simulator: Simulator, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a server on stdio that has completed the handshake."""
    with subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment(simulator, folder), "REPLICATE_CONCURRENT_LIMIT": "2"},
        text=True,
    ) as process:
        client = {"name": "t", "version": "1"}
        asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        say(process, {"id": 1, "method": "initialize", "params": asked})
        assert process.stdout is not None
        process.stdout.readline()
        say(process, {"method": "notifications/initialized"})
        yield process
        process.kill()


@pytest.mark.parametrize("end", ["stdin", "terminate", "kill"])
async def test_disconnect_or_exit_cancels_nothing_and_the_next_process_delivers(
    simulator: Simulator, tmp_path: Path, end: str
) -> None:
    simulator.configure(predict_seconds=2)
    with server(simulator, tmp_path) as first:
        arguments = {"tasks": [{"prompt": f"car {n}"} for n in range(5)]}
        params = {"name": "generate_images", "arguments": arguments}
        say(first, {"id": 2, "method": "tools/call", "params": params})
        await simulator.reached(account="acme", in_flight=2)
        if end == "stdin":
            assert first.stdin is not None
            first.stdin.close()
        else:
            getattr(first, end)()
        first.wait(20)
    account = simulator.account("acme")
    assert (account["in_flight"], account["canceled"]) == (2, 0)
    with server(simulator, tmp_path):  # No request is sent: the server polls by itself.
        await simulator.reached(account="acme", in_flight=0)
        with anyio.fail_after(20):
            backend = await SqliteBackend.open(str(tmp_path / "state.db"))
            while (batch := (await backend.list_batches(["server"]))[0]).status == "running":
                await anyio.sleep(0.1)
    rows = await backend.results(batch.id)
    await backend.close()
    made = [row for row in rows if isinstance(row, TaskSuccess)]
    lost = [row.error_code for row in rows if isinstance(row, TaskFailure)]
    assert (len(made), lost) == (2, ["interrupted"] * 3)
    assert simulator.account("acme")["created"] == 2


async def test_cancel_during_a_backend_outage_still_cancels_at_replicate(
    simulator: Simulator,
    tmp_path: Path,
    servers: Callable[[str], RunningServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "HOLD_SECONDS", 1)  # Until then, a prediction's id is unknown.
    simulator.configure(predict_seconds=60)
    async with link_to(servers("valkey")) as link:
        server = servers("valkey")
        await open_for_admission(server, tmp_path.name, "acme")
        url = server.url(tmp_path.name, lease=3, port=link.port)
        settings = settings_for(simulator, tmp_path, REPLICATE_MCP_BACKEND=url)
        async with App.running(settings) as app:
            caller = app.caller()
            tasks = [{"prompt": f"car {n}"} for n in range(3)]
            batch_id = await app.batches.start(caller, BatchRequest(tasks))
            await simulator.reached(account="acme", in_flight=3)
            calls = simulator.account("acme")["other_calls"]
            await simulator.reached(account="acme", other_calls=calls + 3)  # They are followed.
            await link.cut()
            for asks in (app.caller("r8_other_1"), caller):
                assert simulator.account("acme")["in_flight"] == 3
                with pytest.raises(BackendUnavailable):
                    await app.batches.cancel(asks, batch_id)
            await simulator.reached(account="acme", in_flight=0)
            await link.restore()
            with anyio.fail_after(20):
                await app.batches.wait(caller, batch_id, seconds=None)
            result = await app.batches.result(caller, batch_id)
    assert {row.error_code for row in result.failed_results} == {"canceled"}
