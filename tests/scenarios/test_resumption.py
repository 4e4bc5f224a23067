"""Batches outlive their process: another one resumes them, and creates each task once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from backends.servers import KINDS
from conftest import AppFactory, environment
from http_api.conftest import Server, running_server
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.batches.recovery import IDLE_POLL_SECONDS
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult
from scenarios.conftest import LEASE_SECONDS, Programs
from scenarios.test_suspension import STOPPED_BEFORE_SENDING, check_permits, check_rows, stopped

ALWAYS = {"REPLICATE_MCP_RESUME": "always", "REPLICATE_CONCURRENT_LIMIT": "2"}


async def started(app: App, simulator: Simulator, count: int = 6) -> str:
    """Start a batch of equally named tasks, and return once two of them run."""
    tasks = [{"prompt": f"picture {n}", "output_filename": "car"} for n in range(count)]
    batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
    await simulator.reached(account="acme", in_flight=2)
    return batch_id


async def ended(app: App, batch_id: str, seconds: float = 30) -> BatchResult:
    with anyio.fail_after(seconds):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


async def test_next_process_runs_a_batch_on_as_it_was(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.5)
    async with app_with(**ALWAYS) as first:
        batch_id = await started(first, simulator)
    async with app_with(**ALWAYS) as second:
        await second.recover()
        result = await ended(second, batch_id)
        (listed,) = await second.batches.list(second.caller())
        await check_permits(second)
    rows = check_rows(result, 6)
    assert (result.status, result.successful_count, listed.resumed) == ("completed", 6, 1)
    names = [file.filename for row in result.successful_results for file in row.generated_files]
    assert sorted(names) == ["car.webp", *(f"car_{n}.webp" for n in range(2, 7))]
    made = simulator.predictions("acme")
    assert sorted(str(row.prediction_id) for row in rows) == sorted(each["id"] for each in made)
    assert {row.prompt: row.seed for row in result.successful_results} == {
        each["input"]["prompt"]: each["input"]["seed"] for each in made
    }
    assert simulator.account("acme")["max_in_flight"] == 2


async def test_batch_is_not_run_on_unless_its_policy_says_so(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.5)
    async with app_with(REPLICATE_CONCURRENT_LIMIT="2") as first:
        batch_id = await started(first, simulator)
    async with app_with(**ALWAYS) as second:
        await second.recover()
        result = await ended(second, batch_id)
        (listed,) = await second.batches.list(second.caller())
    assert (result.successful_count, listed.resumed) == (2, None)
    assert {row.error_code for row in result.failed_results} == {"interrupted"}


async def test_batch_that_was_taken_over_can_be_cancelled(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=60)
    async with app_with(**ALWAYS) as first:
        batch_id = await started(first, simulator)
    async with app_with(**ALWAYS) as second:
        await second.recover()
        with anyio.fail_after(10):
            while (progress := await second.batches.progress(batch_id)) is None:
                await anyio.sleep(0.05)
        assert (progress.finished, progress.running, progress.total) == (0, 2, 6)
        await second.batches.cancel(second.caller(), batch_id)
        result = await ended(second, batch_id)
    assert result.status == "canceled"
    assert {row.error_code for row in result.failed_results} == {"canceled"}
    account = simulator.account("acme")
    assert (account["created"], account["canceled"]) == (2, 2)


async def test_task_that_was_never_sent_is_created_by_the_process_that_runs_the_batch_on(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=0.3)
    around = {**os.environ, **environment(simulator, tmp_path), **ALWAYS}
    program = f"""{STOPPED_BEFORE_SENDING}
import asyncio
from replicate_mcp import generate_images
asyncio.run(generate_images([{{"prompt": "same", "seed": 1}}] * 3))
"""
    with subprocess.Popen([sys.executable, "-c", program], env=around, text=True) as process:
        await stopped(process)
        process.kill()
    async with app_with(**ALWAYS) as app:
        await app.recover()
        batch_id = (await app.batches.result(app.caller(), None)).batch_id
        result = await ended(app, batch_id)
        await check_permits(app)
    assert result.successful_count == 3
    assert simulator.account("acme")["created"] == 3


@pytest.mark.parametrize("programs_at", [KINDS[-1]], indirect=True)
async def test_creation_recorded_half_a_lease_ago_is_not_sent(
    programs_at: Callable[..., Programs],
) -> None:
    programs = programs_at(2, predict_seconds=0.3)
    programs.variables["REPLICATE_MCP_RESUME"] = "always"
    simulator = programs.simulator
    async with programs.app() as app:
        await app.recover()
        tasks = [{"prompt": f"own {n}"} for n in range(4)]
        suspended = programs.start(tasks, before=STOPPED_BEFORE_SENDING)
        await anyio.to_thread.run_sync(programs.begin, suspended)
        await stopped(suspended)
        batch_id = (await app.batches.result(app.caller(), None)).batch_id
        result = await ended(app, batch_id, 60)
        assert simulator.account("acme")["created"] == 4
        suspended.send_signal(signal.SIGCONT)
        out, _ = await anyio.to_thread.run_sync(suspended.communicate)
        await check_permits(app)
    assert result.successful_count == 4
    assert BatchResult.model_validate_json(out).successful_count == 4
    assert simulator.account("acme")["created"] == 4


# Servers over HTTP.

ASYNC = {"Prefer": "respond-async"}


@contextmanager
def http_server(programs: Programs) -> Iterator[Server]:
    around = environment(programs.simulator, programs.folder)
    with running_server({**around, **programs.variables}) as server:
        yield server


def outcome(server: Server, batch_id: str) -> dict[str, Any]:
    """Wait until a batch has ended, whichever server runs it."""
    path = f"/batches/{batch_id}"
    for _ in range(12):
        found = server.get(path, params={"wait_seconds": 10}).json()
        if found["status"] != "running":
            return dict(found)
    raise AssertionError(found)


@pytest.mark.parametrize("programs_at", ["sqlite"], indirect=True)
@pytest.mark.parametrize("known", ["id", "key", "202", "nothing"])
def test_batch_that_its_caller_can_ask_for_again_goes_on_at_another_server(
    programs_at: Callable[..., Programs], known: str
) -> None:
    programs = programs_at(2, predict_seconds=1)
    simulator = programs.simulator
    body = {"prompts": [f"picture {n}" for n in range(10)]}
    headers = {"id": ASYNC, "key": {"Idempotency-Key": "k"}}.get(known, {})
    with http_server(programs) as first, http_server(programs) as second:
        client = httpx.Client(base_url=first.url, timeout=30 if known == "202" else 1)
        with ExitStack() as stack:
            if known == "202":  # Asked when the server is shutting down.
                pool = stack.enter_context(ThreadPoolExecutor())
                asked = pool.submit(client.post, "/generate-batch", json=body)
                simulator.wait_for(account="acme", in_flight=2)
                first.terminate()
                assert asked.result().status_code == 202
            else:
                try:
                    answer = client.post("/generate-batch", json=body, headers=headers)
                    assert answer.status_code == 202
                except httpx.ReadTimeout:
                    assert known != "id"
                simulator.wait_for(account="acme", in_flight=2)
                first.terminate()
        (listed,) = second.get("/batches").json()["batches"]
        ended = outcome(second, listed["batch_id"])
        metrics = second.get("/metrics").text
        if known == "key":
            again = second.post("/generate-batch", body, idempotency_key="k").json()
            assert again["batch_id"] == listed["batch_id"]
        client.close()
    made = simulator.account("acme")["created"]
    resumed = "replicate_mcp_batches_resumed_total 1.0" in metrics
    if known == "nothing":
        assert {row["error_code"] for row in ended["failed_results"]} == {"interrupted"}
        assert (made, resumed) == (ended["successful_count"], False)
        assert made < 10
    else:
        assert (ended["successful_count"], made, resumed) == (10, 10, True)


@pytest.mark.parametrize("programs_at", ["sqlite", KINDS[-1]], indirect=True)
@pytest.mark.parametrize(
    ("count", "limit", "rounds"),
    [(50, 8, 1), pytest.param(300, 20, 2, marks=pytest.mark.soak)],
    ids=["short", "long"],
)
def test_rolling_restart_creates_each_task_once_within_the_limit(
    programs_at: Callable[..., Programs], count: int, limit: int, rounds: int
) -> None:
    programs = programs_at(limit, predict_seconds="0.4-1.2", page_size=1_000)
    simulator = programs.simulator
    standstills: dict[str, list[float]] = {"SIGTERM": [], "SIGKILL": []}
    with ExitStack() as stack:
        servers = [stack.enter_context(http_server(programs)) for _ in range(3)]
        body = {"prompts": [f"picture {n}" for n in range(count)]}
        answer = servers[0].post("/generate-batch", body, prefer="respond-async")
        batch_id = answer.json()["batch_id"]
        for end in ["SIGTERM"] * rounds + ["SIGKILL"]:
            for place in range(3):
                made = simulator.account("acme")["created"]
                if made >= count:
                    break
                simulator.wait_for(account="acme", created=min(count, made + 2))
                servers[place].process.send_signal(getattr(signal, end))
                servers[place].process.wait(15)
                gone, made = time.monotonic(), simulator.account("acme")["created"]
                if made < count:
                    simulator.wait_for(account="acme", created=made + 1)
                    standstills[end].append(time.monotonic() - gone)
                servers[place] = stack.enter_context(http_server(programs))
        ended = outcome(servers[0], batch_id)
    rows = [*ended["successful_results"], *ended["failed_results"]]
    assert sorted(row["task_index"] for row in rows) == list(range(count))
    assert ended["successful_count"] == count, ended["failed_results"]
    made_ones = [each["id"] for each in simulator.predictions("acme")]
    assert sorted(row["prediction_id"] for row in rows) == sorted(made_ones)
    assert simulator.account("acme")["max_in_flight"] <= limit
    assert max(standstills["SIGTERM"]) < LEASE_SECONDS  # Less than 1 s on a quiet machine.
    # Another process notices the death within its lease, or an idle one at its next poll.
    assert max(standstills["SIGKILL"], default=0) < max(LEASE_SECONDS, IDLE_POLL_SECONDS) + 2


@pytest.mark.soak
@pytest.mark.parametrize("programs_at", ["sqlite", KINDS[-1]], indirect=True)
def test_random_kills_lose_no_task_and_create_none_twice(
    programs_at: Callable[..., Programs],
) -> None:
    programs = programs_at(10, predict_seconds="0.1-0.6", page_size=1_000)
    programs.variables["REPLICATE_MCP_RESUME"] = "always"
    simulator, dice, kills, count = programs.simulator, random.Random(7), 200, 40
    begun: list[str] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(http_server(programs)) for _ in range(3)]
        for kill in range(kills):
            if kill % 10 == 0:
                body = {"prompts": [f"{kill}, {n}" for n in range(count)]}
                answer = servers[0].post("/generate-batch", body, prefer="respond-async")
                begun.append(answer.json()["batch_id"])
            time.sleep(dice.uniform(0, 0.5))
            place = dice.randrange(3)
            servers[place].process.kill()
            servers[place].process.wait(15)
            servers[place] = stack.enter_context(http_server(programs))
        ended = [outcome(servers[0], batch_id) for batch_id in begun]
    rows = [row for each in ended for row in each["successful_results"]]
    assert [each["failed_results"] for each in ended] == [[]] * len(begun)
    assert len(rows) == count * len(begun)
    made = sorted(each["id"] for each in simulator.predictions("acme"))
    assert sorted(row["prediction_id"] for row in rows) == made
    assert simulator.account("acme")["max_in_flight"] <= 10
