"""Many processes share one account: together they fill its limit, and no result is lost."""

import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest

from replicate_mcp.app.app import App
from replicate_mcp.app.batches import BatchRequest
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult
from scenarios.conftest import Programs

pytestmark = pytest.mark.soak

ProgramsAt = Callable[..., Programs]


async def result_of(process: subprocess.Popen[str]) -> BatchResult:
    out, _ = await anyio.to_thread.run_sync(process.communicate)
    return BatchResult.model_validate_json(out)


async def batch_of_dead_process(app: App) -> BatchResult:
    """Return the caller's only batch that no live process of the test runs, once it has ended."""
    batches = await app.batches.list(app.caller())
    batch_id = batches[-1].batch_id
    with anyio.fail_after(60):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


def utilisation(simulator: Simulator, limit: int) -> float:
    timeline = simulator.timeline("acme")
    start = next(at for at, count in timeline if count == limit)
    end = float(simulator.account("acme")["last_creation"])
    used = sum(
        count * (min(until, end) - at)
        for (at, count), (until, _) in pairwise(timeline)
        if start <= at < end
    )
    return used / (limit * (end - start))


@pytest.mark.alone
async def test_eight_processes_fill_one_limit_and_share_it_fairly(programs_at: ProgramsAt) -> None:
    limit, each = 20, 70
    programs = programs_at(limit, lease=15, predict_seconds="1-2")
    started = [
        programs.start([{"prompt": f"{name} {n}"} for n in range(each)]) for name in range(8)
    ]
    programs.begin(*started)
    for process in started:
        assert (await result_of(process)).successful_count == each
    account = programs.simulator.account("acme")
    assert (account["created"], account["max_in_flight"]) == (8 * each, limit)
    assert utilisation(programs.simulator, limit) >= 0.98
    # Each one's share while all wait: the first to arrive took all units that were free then.
    owners = [p["input"]["prompt"].split()[0] for p in programs.simulator.predictions("acme")]
    first_done = min(max(n for n, owner in enumerate(owners) if owner == str(o)) for o in range(8))
    all_wait = owners[limit:first_done]
    shares = Counter(all_wait)
    fair = len(all_wait) / 8
    assert all(0.8 * fair <= shares[str(name)] <= 1.2 * fair for name in range(8)), shares


@pytest.mark.timed
@pytest.mark.parametrize("prompt", ["car {n}", "the same car"], ids=["own", "same"])
async def test_killed_process_loses_nothing_and_its_permits_are_freed_as_predictions_end(
    programs_at: ProgramsAt, prompt: str
) -> None:
    programs = programs_at(10, predict_seconds="3-5")
    simulator = programs.simulator
    tasks = [{"prompt": prompt.format(n=n), "seed": 1} for n in range(30)]
    async with programs.app() as app:
        await app.semaphores.list_for(app.caller())
        first = programs.start(tasks)
        programs.begin(first)
        await simulator.reached(account="acme", in_flight=10)
        mine = await app.batches.start(app.caller(), BatchRequest(tasks))
        first.kill()
        await app.batches.wait(app.caller(), mine, seconds=None)
        own = await app.batches.result(app.caller(), mine)
        left = await batch_of_dead_process(app)
    assert own.successful_count == 30
    assert left.successful_count + left.failed_count == 30
    assert {row.error_code for row in left.failed_results} == {"interrupted"}
    delivered = [row.prediction_id for row in (*own.successful_results, *left.successful_results)]
    made = simulator.predictions("acme")
    assert sorted(delivered) == sorted(p["id"] for p in made)
    assert simulator.account("acme")["max_in_flight"] == 10
    # While tasks waited, each end was followed by a creation within a second.
    created = sorted(p["created"] for p in made)
    for ended in sorted(p["ended"] for p in made)[: len(made) - 10]:
        follower = created[10 + sorted(p["ended"] for p in made).index(ended)]
        assert follower - ended <= 1.0


@pytest.mark.parametrize("seed", range(5))
async def test_every_image_is_delivered_once_after_a_kill_at_any_moment(
    programs_at: ProgramsAt, request: pytest.FixtureRequest, seed: int
) -> None:
    moments = random.Random(seed)
    programs = programs_at(5, predict_seconds="0.2-0.8")
    simulator = programs.simulator
    delivered: list[str] = []
    rounds = 2 if "valkey" in request.node.name else 10
    for _ in range(rounds):
        tasks: list[dict[str, Any]] = [{"prompt": "the same car", "seed": 1}] * 12
        async with programs.app() as app:
            await app.semaphores.list_for(app.caller())
            first = programs.start(tasks)
            programs.begin(first)
            await simulator.reached(account="acme", created=len(delivered) + 1)
            before = await app.batches.list(app.caller(), limit=1)
            mine = await app.batches.start(app.caller(), BatchRequest(tasks))
            await anyio.sleep(moments.uniform(0, 2))
            first.kill()
            with anyio.fail_after(60):
                for batch_id in (mine, before[0].batch_id):
                    await app.batches.wait(app.caller(), batch_id, seconds=None)
            own = await app.batches.result(app.caller(), mine)
            left = await app.batches.result(app.caller(), before[0].batch_id)
        assert own.successful_count == 12
        assert left.successful_count + left.failed_count == 12
        assert {row.error_code for row in left.failed_results} <= {"interrupted"}
        rows = (*own.successful_results, *left.successful_results)
        delivered += [row.prediction_id for row in rows]
    assert sorted(delivered) == sorted(p["id"] for p in simulator.predictions("acme"))
    assert simulator.account("acme")["max_in_flight"] == 5


async def test_new_process_delivers_all_predictions_after_every_process_was_killed(
    programs_at: ProgramsAt,
) -> None:
    programs = programs_at(6, predict_seconds="2-3")
    simulator = programs.simulator
    started = [programs.start([{"prompt": f"{name} {n}"} for n in range(9)]) for name in range(3)]
    programs.begin(*started)
    await simulator.reached(account="acme", in_flight=6)
    for process in started:
        process.kill()
    async with programs.app() as app:
        await app.semaphores.list_for(app.caller())
        batches = await app.batches.list(app.caller())
        with anyio.fail_after(60):
            for batch in batches:
                await app.batches.wait(app.caller(), batch.batch_id, seconds=None)
        results = [await app.batches.result(app.caller(), batch.batch_id) for batch in batches]
    delivered = [row.prediction_id for each in results for row in each.successful_results]
    assert sorted(delivered) == sorted(p["id"] for p in simulator.predictions("acme"))
    codes = {row.error_code for each in results for row in each.failed_results}
    assert codes == {"interrupted"}


@pytest.mark.timed
async def test_suspended_process_does_not_stall_others_and_resumes(
    programs_at: ProgramsAt,
) -> None:
    programs = programs_at(6, lease=30, predict_seconds="0.3-0.6")
    simulator = programs.simulator
    first, second = (
        programs.start([{"prompt": f"{name} {n}"} for n in range(80)]) for name in range(2)
    )
    programs.begin(first, second)
    await simulator.reached(account="acme", created=12)
    first.send_signal(signal.SIGSTOP)
    others = simulator.account("acme")["created"]
    await simulator.reached(account="acme", created=others + 30, within=30)
    first.send_signal(signal.SIGCONT)
    results = [await result_of(process) for process in (first, second)]
    assert [result.successful_count for result in results] == [80, 80]
    delivered = [row.prediction_id for each in results for row in each.successful_results]
    assert sorted(delivered) == sorted(p["id"] for p in simulator.predictions("acme"))
    assert simulator.account("acme")["max_in_flight"] == 6


async def test_replicate_clock_an_hour_off_changes_nothing(programs_at: ProgramsAt) -> None:
    programs = programs_at(5, predict_seconds="1-2", clock_offset_seconds=3_600)
    simulator = programs.simulator
    async with programs.app() as app:
        await app.semaphores.list_for(app.caller())
        first = programs.start([{"prompt": "the same car", "seed": 1}] * 12)
        programs.begin(first)
        await simulator.reached(account="acme", in_flight=5)
        first.kill()
        left = await batch_of_dead_process(app)
    delivered = [row.prediction_id for row in left.successful_results]
    assert sorted(delivered) == sorted(p["id"] for p in simulator.predictions("acme"))
    assert {row.error_code for row in left.failed_results} == {"interrupted"}


FORKING = """
import os, time
import replicate_mcp
_generate = replicate_mcp.generate_images
async def generate_images(tasks):
    if not os.fork():
        time.sleep(8)
        os._exit(0)
    return await _generate(tasks)
replicate_mcp.generate_images = generate_images
"""


async def test_surviving_forked_child_does_not_keep_its_dead_parent_alive(
    programs_at: ProgramsAt,
) -> None:
    programs = programs_at(2, predict_seconds=1)
    async with programs.app() as app:
        await app.semaphores.list_for(app.caller())
        parent = programs.start([{"prompt": f"car {n}"} for n in range(4)], before=FORKING)
        programs.begin(parent)
        await programs.simulator.reached(account="acme", in_flight=2)
        parent.kill()
        left = await batch_of_dead_process(app)
    assert left.successful_count >= 2
    assert {row.error_code for row in left.failed_results} <= {"interrupted"}
