"""An account's limit is filled and never exceeded, whatever its value."""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from conftest import settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.batches import BatchRequest
from replicate_mcp.simulator import Simulator, running_simulator_process
from replicate_mcp.tasks.result import BatchResult

pytestmark = pytest.mark.soak

UNLIMITED = 60_000


@contextmanager
def replicate(**settings: Any) -> Iterator[Simulator]:
    """Run the simulator in its own process, without an effective rate limit unless one is given."""
    rates = {"requests_per_minute": UNLIMITED, "burst": UNLIMITED}
    others = {"other_requests_per_minute": UNLIMITED, "other_burst": UNLIMITED}
    with running_simulator_process(**(rates | others | settings)) as simulator:
        yield simulator


async def made(app: App, tasks: int) -> BatchResult:
    caller = app.caller()
    batch_id = await app.batches.start(
        caller, BatchRequest([{"prompt": f"car {n}"} for n in range(tasks)])
    )
    with anyio.fail_after(300):
        await app.batches.wait(caller, batch_id, seconds=None)
    return await app.batches.result(caller, batch_id)


def seconds_used(simulator: Simulator) -> float:
    """Return the seconds from the first creation to the last end."""
    account = simulator.account("acme")
    return float(account["last_end"]) - float(account["first_creation"])


def utilisation(simulator: Simulator, limit: int) -> float:
    """Return the used share of the limit, from when it is first reached to the last creation."""
    timeline = simulator.timeline("acme")
    start = next(at for at, count in timeline if count == limit)
    end = simulator.account("acme")["last_creation"]
    used = sum(
        count * (min(until, end) - at)
        for (at, count), (until, _) in pairwise(timeline)
        if start <= at < end
    )
    return float(used / (limit * (end - start)))


def greedy_schedule(simulator: Simulator, limit: int) -> float:
    """Return the duration of the same predictions if each starts the moment another ends."""
    free_at = [0.0] * limit
    for prediction in simulator.predictions("acme"):
        took = prediction["ended"] - prediction["created"]
        heapq.heapreplace(free_at, free_at[0] + took)
    return max(free_at)


@pytest.mark.alone
async def test_limit_is_nearly_full_while_tasks_wait(tmp_path: Path) -> None:
    with replicate(predict_seconds="1-4", seed=7) as simulator:
        async with App.running(settings_for(simulator, tmp_path)) as app:
            result = await made(app, 600)
        assert result.successful_count == 600
        assert simulator.account("acme")["max_in_flight"] == 60
        assert utilisation(simulator, 60) >= 0.985
        assert seconds_used(simulator) <= 1.02 * greedy_schedule(simulator, 60)


@pytest.mark.alone
async def test_single_image_starts_at_its_next_turn_beside_a_batch_of_five_hundred(
    tmp_path: Path,
) -> None:
    with replicate(predict_seconds=3) as simulator:
        settings = settings_for(simulator, tmp_path, REPLICATE_CONCURRENT_LIMIT="10")
        async with App.running(settings) as app:
            large = await app.batches.start(app.caller(), BatchRequest([{"prompt": "large"}] * 500))
            await simulator.reached(account="acme", created=10)
            asked_at = anyio.current_time()
            assert (await made(app, 1)).successful_count == 1
            assert anyio.current_time() - asked_at <= 2.2 * 3
            await app.batches.cancel(app.caller(), large)
            await app.batches.wait_until_stopped(large)


@pytest.mark.timed
async def test_silently_lowered_account_rate_is_fully_used(tmp_path: Path) -> None:
    with replicate(requests_per_minute=120, burst=1) as simulator:
        async with App.running(settings_for(simulator, tmp_path)) as app:
            result = await made(app, 60)
        account = simulator.account("acme")
        assert result.successful_count == account["created"] == 60
        assert seconds_used(simulator) <= 1.3 * 60 / 2
        assert account["throttled"] <= 75


@pytest.mark.timed
async def test_announced_lower_rate_causes_few_429s(
    tmp_path: Path,
) -> None:
    wording = {"throttle_wording": "announced"}
    with replicate(requests_per_minute=120, burst=1, **wording) as simulator:
        settings = settings_for(simulator, tmp_path, REPLICATE_CONCURRENT_LIMIT="10")
        async with App.running(settings) as app:
            result = await made(app, 60)
        account = simulator.account("acme")
        assert result.successful_count == account["created"] == 60
        assert seconds_used(simulator) <= 1.3 * 60 / 2
        assert account["throttled"] <= 10


@pytest.mark.timed
async def test_default_rate_of_replicate_causes_no_429s(tmp_path: Path) -> None:
    with replicate(requests_per_minute=600, burst=600) as simulator:
        settings = settings_for(simulator, tmp_path, REPLICATE_REQUESTS_PER_MINUTE="600")
        async with App.running(settings) as app:
            result = await made(app, 1_000)
        assert result.successful_count == 1_000
        assert simulator.account("acme")["throttled"] == 0
        assert seconds_used(simulator) <= 1.02 * (1_000 - 600) / 10


@pytest.mark.timed
async def test_following_two_hundred_long_predictions_stays_within_the_rate_of_other_calls(
    tmp_path: Path,
) -> None:
    # Held for a minute each, then polled: any call over the rate would be rejected and counted.
    with replicate(
        predict_seconds=300, other_requests_per_minute=3_000, other_burst=100
    ) as simulator:
        settings = settings_for(simulator, tmp_path, REPLICATE_CONCURRENT_LIMIT="200")
        async with App.running(settings) as app:
            batch = await app.batches.start(
                app.caller(), BatchRequest([{"prompt": f"{n}"} for n in range(200)])
            )
            await simulator.reached(account="acme", created=200)
            before = simulator.account("acme")["other_calls"] + 1
            for calls in (0, 1_500):
                with suppress(TimeoutError):
                    await simulator.reached(account="acme", within=60, other_calls=before + calls)
            account = simulator.account("acme")
            assert account["other_calls"] >= before + 1_500
            assert account["in_flight"] == 200
            assert account["throttled"] == 0
            await app.batches.cancel(app.caller(), batch)
            await app.batches.wait_until_stopped(batch)
