"""Dead processes leave nothing behind: every permit is freed and every result delivered."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from conftest import AppFactory, environment
from fork_server import FORKABLE
from replicate_mcp.app.app import App
from replicate_mcp.app.batches import BatchRequest
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult

OTHER_TOKEN = "r8_acme_2"

PROGRAM = """
import asyncio, sys
from replicate_mcp import generate_images
tasks = [{"prompt": p, "seed": 1, "output_filename": "car"} for p in sys.argv[1:]]
asyncio.run(generate_images(tasks))
"""


@contextmanager
def running(simulator: Simulator, folder: Path, *prompts: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run another program with its own batch, at a limit of three."""
    around = {**os.environ, **environment(simulator, folder), "REPLICATE_CONCURRENT_LIMIT": "3"}
    with subprocess.Popen(
        [sys.executable, "-c", FORKABLE + PROGRAM, *prompts], env=around
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def ended(app: App, batch_id: str) -> BatchResult:
    with anyio.fail_after(30):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


@pytest.mark.parametrize("prompts", [("a", "b", "c", "d", "e"), ("same",) * 5], ids=["own", "same"])
async def test_permits_of_a_killed_process_are_freed_and_its_images_delivered(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path, prompts: tuple[str, ...]
) -> None:
    simulator.configure(predict_seconds=2.5)
    async with app_with(REPLICATE_CONCURRENT_LIMIT="3") as app:
        with running(simulator, tmp_path, *prompts) as other:
            await simulator.reached(account="acme", in_flight=3)
            killed = (await app.batches.result(app.caller(), None)).batch_id
            mine = await app.batches.start(
                app.caller(), BatchRequest([{"prompt": p, "seed": 1} for p in prompts])
            )
            other.kill()
            other.wait()
        left = await ended(app, killed)
        own = await ended(app, mine)
        (account,) = await app.semaphores.list_for(app.caller())
    assert own.successful_count == 5
    assert left.successful_count == 3
    assert {row.error_code for row in left.failed_results} == {"interrupted"}
    assert all(row.retryable for row in left.failed_results)
    names = [file.filename for row in left.successful_results for file in row.generated_files]
    assert sorted(names) == ["car.webp", "car_2.webp", "car_3.webp"]
    delivered = [row.prediction_id for row in (*left.successful_results, *own.successful_results)]
    stats = simulator.account("acme")
    assert len(set(delivered)) == 8
    assert (stats["created"], stats["max_in_flight"]) == (8, 3)
    assert account.in_use == 0


async def test_later_process_delivers_orphaned_predictions(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=1)
    with running(simulator, tmp_path, "a", "b") as other:
        await simulator.reached(account="acme", in_flight=2)
        other.kill()
        other.wait()
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        left = (await app.batches.result(app.caller(), None)).batch_id
        result = await ended(app, left)
    assert (result.status, result.successful_count) == ("completed", 2)
    assert simulator.account("acme")["created"] == 2


async def left_with_two_running(app_with: AppFactory, simulator: Simulator) -> str:
    """Return the batch of an app that was closed while both of its predictions ran."""
    async with app_with() as first:
        batch_id = await first.batches.start(
            first.caller(), BatchRequest([{"prompt": "a"}, {"prompt": "b"}])
        )
        await simulator.reached(account="acme", in_flight=2)
    return batch_id


async def test_running_predictions_of_a_stopped_app_pass_to_the_next(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=1.5)
    batch_id = await left_with_two_running(app_with, simulator)
    async with app_with() as second:
        await second.semaphores.list_for(second.caller())
        result = await ended(second, batch_id)
    assert result.successful_count == 2
    assert all(row.seed is not None for row in result.successful_results)
    assert simulator.account("acme")["created"] == 2


async def test_connection_resets_during_reconciliation_lose_no_image(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=1)
    batch_id = await left_with_two_running(app_with, simulator)
    simulator.fault_next("reset", 8, on="get")
    async with app_with() as second:
        await second.recover()
        result = await ended(second, batch_id)
    assert (result.successful_count, result.failed_count) == (2, 0)
    account = simulator.account("acme")
    assert (account["faults"], account["created"]) == (8, 2)


async def test_orphans_are_delivered_after_a_downtime_past_their_deadline(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=0.5)
    batch_id = await left_with_two_running(app_with, simulator)
    await simulator.reached(account="acme", succeeded=2)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as file, file:
        file.execute(  # A quarter of an hour ago.
            "UPDATE permit SET taken_at = taken_at - 900, sent_at = sent_at - 900,"
            " ends_by = ends_by - 900"
        )
    async with app_with() as second:
        await second.recover()
        result = await ended(second, batch_id)
    assert (result.successful_count, result.failed_count) == (2, 0)
    assert simulator.account("acme")["created"] == 2


async def test_too_long_list_does_not_cause_orphans_to_be_recreated(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=1, page_size=1)
    async with app_with() as first:
        batch_id = await first.batches.start(first.caller(), BatchRequest([{"prompt": "mine"}]))
        await simulator.reached(account="acme", in_flight=1)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {OTHER_TOKEN}"}) as client:
        url = f"{simulator.url}/v1/models/black-forest-labs/flux-schnell/predictions"
        for _ in range(25):  # More than the number of pages that are read.
            await client.post(url, json={"input": {"prompt": "another"}})
    async with app_with() as second:
        await second.recover()
        result = await ended(second, batch_id)
    (row,) = result.failed_results
    assert (row.error_code, row.retryable) == ("create_outcome_unknown", False)


async def test_cancelling_a_recovered_batch_cancels_its_predictions(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=60)
    batch_id = await left_with_two_running(app_with, simulator)
    asked = simulator.account("acme")["other_calls"]
    async with app_with() as second:
        await second.recover()
        await simulator.reached(account="acme", other_calls=asked + 8)  # It follows both.
        await second.batches.cancel(second.caller(), batch_id)
        await simulator.reached(account="acme", in_flight=0, within=3)
        result = await ended(second, batch_id)
    assert result.status == "canceled"
    assert {row.error_code for row in result.failed_results} == {"canceled"}
    assert simulator.account("acme")["canceled"] == 2
