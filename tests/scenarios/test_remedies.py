"""Remedies interrupted by a fault: one prediction and one row per task, and all permits released.

Each cell of the matrix in `remedy_cells.py` is a test: the fault is real, and occurs during the
remedy at the moment that its scenario in `remedy_scenarios.py` chooses.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from backends.link import Link, link_to
from backends.servers import RunningServer, running_server
from conftest import simulator_without_a_rate
from fork_server import FORKABLE
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.simulator import Simulator
from scenarios import remedy_scenarios
from scenarios.remedy_cells import (
    BACKEND,
    CALLS,
    CELLS,
    FAULTS,
    IMPOSSIBLE,
    KILLS,
    REMEDIES,
    Cell,
    cells,
    sample,
)
from scenarios.remedy_faults import LEASE, ROUTES
from scenarios.remedy_scenarios import SCENARIOS
from scenarios.remedy_stage import LIMIT, PATIENCE, Stage

TESTS = Path(__file__).parent.parent

PROGRAM = (
    FORKABLE
    + """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("scenarios.remedy_program", run_name="__main__", alter_sys=True)
"""
)

SAMPLE = sample()

Play = Callable[[Cell], AbstractAsyncContextManager[Stage]]


@pytest.fixture(scope="module")
def replicate() -> Iterator[Simulator]:
    with simulator_without_a_rate() as running:
        yield running


@pytest.fixture(scope="module")
def redis() -> Iterator[RunningServer]:
    with running_server("redis") as server:
        yield server


@pytest.fixture
def play(
    replicate: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Play:
    """Set up a cell: on Redis for a fault of Redis, else on a state file."""

    @asynccontextmanager
    async def staged(cell: Cell) -> AsyncIterator[Stage]:
        replicate.reset()

        def stage(server: RunningServer | None = None, link: Link | None = None) -> Stage:
            return Stage(
                cell.remedy,
                cell.fault,
                simulator=replicate,
                folder=tmp_path,
                patch=monkeypatch,
                server=server,
                link=link,
            )

        is_call = cell.fault in CALLS and cell.remedy in ROUTES
        if cell.fault.startswith("sqlite") or cell.fault in KILLS or is_call:
            yield stage()
            return
        server = request.getfixturevalue("redis")
        async with link_to(server) as link:
            ready = stage(server, link)
            await _opened(server, ready.account)
            yield ready

    return staged


async def _opened(server: RunningServer, account: str) -> None:
    """Wait until the server, which may be new, admits the account."""
    backend = await RedisBackend.open(server.url("remedies", lease=LEASE))
    with anyio.fail_after(PATIENCE):
        while not await backend.has_lost_state(account):
            await anyio.sleep(0.02)
    await backend.import_running(account, [])
    await backend.close()


def parametrised(*faults: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "cell",
        [
            pytest.param(each, id=each.id, marks=[] if each.id in SAMPLE else [pytest.mark.soak])
            for each in cells(*faults)
        ],
    )


@parametrised(*CALLS)
async def test_failed_call_or_response_has_its_documented_outcome(play: Play, cell: Cell) -> None:
    async with play(cell) as stage:
        assert await SCENARIOS[cell.remedy](stage) == cell.ends


@parametrised(*BACKEND)
async def test_temporary_backend_outage_has_its_documented_outcome(play: Play, cell: Cell) -> None:
    async with play(cell) as stage:
        assert await SCENARIOS[cell.remedy](stage) == cell.ends


@parametrised(*KILLS)
async def test_process_kill_has_its_documented_outcome(play: Play, cell: Cell) -> None:
    async with play(cell) as stage:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, str(TESTS)),
            *(cell.remedy, cell.fault, stage.account, stage.simulator.url, str(stage.folder)),
            env=dict(os.environ),
        )
        try:
            assert await _taken_over(stage, process) == cell.ends
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _taken_over(stage: Stage, process: asyncio.subprocess.Process) -> str:
    """Take over the killed process's work in this process, and return its user's outcome."""
    waits = stage.remedy == "wake-up"
    if waits:
        stage.limit = 1
        await stage.running(1)
    else:
        await _killed(process)
    async with stage.app() as app:
        if waits:
            await stage.begin(app, 1)
            await _killed(process)
        elif stage.remedy == "release":
            return await remedy_scenarios.used_again(stage, app)
        elif stage.remedy in ("account", "upload"):
            assert stage.simulator.account(stage.account)["creations_seen"] == 0
            await stage.begin(app, LIMIT)
        await app.recover()
        return await stage.ended(app)


async def _killed(process: asyncio.subprocess.Process) -> None:
    with anyio.fail_after(PATIENCE):
        assert await process.wait() == -signal.SIGKILL


def test_every_combination_is_a_cell_or_impossible() -> None:
    named = [(each.remedy, each.fault) for each in CELLS]
    named += [(each.remedy, each.fault) for each in IMPOSSIBLE]
    assert sorted(named) == sorted((remedy, fault) for remedy in REMEDIES for fault in FAULTS)
