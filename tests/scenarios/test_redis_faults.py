"""Redis faults in the middle of a batch, while a process is killed at the same moment.

In every case, no limit is exceeded, created predictions are delivered or accounted for, and work
continues without intervention.
"""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from backends.servers import KINDS, RunningServer, open_for_admission, running_server
from pairs import pairs
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.errors import UnknownBatch
from replicate_mcp.simulator import running_simulator_process
from replicate_mcp.tasks.result import BatchResult
from scenarios.conftest import Programs

LIMIT = 4
LEASE = 1.0
MINE = 10
THEIRS = 6
PREFIX = "faults"

Fault = Callable[[RunningServer], Awaitable[None]]


async def forgets_everything(server: RunningServer) -> None:
    server.restart()


async def comes_back_from_its_last_snapshot(server: RunningServer) -> None:
    server.restart()


async def stands_still_for_longer_than_a_lease(server: RunningServer) -> None:
    server.pause()
    await anyio.sleep(2 * LEASE)
    server.go_on()


async def is_out_of_memory(server: RunningServer) -> None:
    server.configure(maxmemory_policy="noeviction", maxmemory=1)
    await anyio.sleep(2 * LEASE)
    server.configure(maxmemory=0)


async def evicts_the_permits(server: RunningServer) -> None:
    with server.client as client:
        assert client.delete(f"{{{PREFIX}}}:permits")


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        forgets_everything,
        comes_back_from_its_last_snapshot,
        stands_still_for_longer_than_a_lease,
        is_out_of_memory,
        evicts_the_permits,
    )
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with running_server(request.param) as server:
        yield server


@pytest.fixture
def programs(server: RunningServer, tmp_path: Path) -> Iterator[Programs]:
    anyio.run(open_for_admission, server, PREFIX, "acme")
    with running_simulator_process(
        predict_seconds="1.5-2.5",
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
    ) as simulator:
        programs = Programs(
            simulator,
            tmp_path,
            {
                "REPLICATE_CONCURRENT_LIMIT": str(LIMIT),
                "REPLICATE_MCP_BACKEND": server.url(PREFIX, lease=LEASE),
            },
        )
        yield programs
        programs.stop()


async def ended(app: App, batch_id: str) -> BatchResult:
    with anyio.fail_after(60):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


async def nothing_in_use(app: App) -> None:
    with anyio.fail_after(30):
        while (await app.semaphores.list_for(app.caller()))[0].in_use:
            await anyio.sleep(0.1)


@pytest.mark.parametrize(("server", "fault"), pairs(KINDS, FAULTS), indirect=["server"])
async def test_redis_failure_loses_and_duplicates_no_image(
    server: RunningServer, programs: Programs, fault: str
) -> None:
    simulator = programs.simulator
    async with programs.app() as app:
        other = programs.start([{"prompt": f"theirs {n}", "seed": 1} for n in range(THEIRS)])
        programs.begin(other)
        await simulator.reached(account="acme", in_flight=LIMIT)
        (theirs,) = await app.batches.list(app.caller())
        mine = await app.batches.start(
            app.caller(), BatchRequest([{"prompt": f"mine {n}", "seed": 1} for n in range(MINE)])
        )
        await simulator.reached(account="acme", created=6)
        if fault == "comes_back_from_its_last_snapshot":
            server.save()
            await simulator.reached(account="acme", created=9)
        other.kill()
        await FAULTS[fault](server)
        own = await ended(app, mine)
        left = None
        try:
            left = await ended(app, theirs.batch_id)
        except UnknownBatch:
            assert fault == "forgets_everything"
        await nothing_in_use(app)
    account = simulator.account("acme")
    assert account["max_in_flight"] <= LIMIT
    assert (own.successful_count, own.failed_count) == (MINE, 0)
    made = {each["id"]: each["input"]["prompt"] for each in simulator.predictions("acme")}
    delivered = [row.prediction_id for row in own.successful_results]
    assert sorted(delivered) == sorted(each for each, prompt in made.items() if "mine" in prompt)
    if left is None:
        return
    assert left.successful_count + left.failed_count == THEIRS
    reported = {row.prediction_id: row.prompt for row in left.successful_results}
    unknown = {
        row.prompt for row in left.failed_results if row.error_code == "create_outcome_unknown"
    }
    for prediction, prompt in made.items():
        assert "mine" in prompt or reported.get(prediction) == prompt or prompt in unknown
    if fault != "comes_back_from_its_last_snapshot":
        assert not unknown
    for row in left.failed_results:
        assert row.prompt in unknown or row.prompt not in made.values(), "made, but not delivered"
