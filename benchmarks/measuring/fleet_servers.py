"""Servers that share one store: many in each of a few processes, idle but for one of them."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event as ProcessEvent

import anyio
from anyio.abc import TaskStatus

from benchmarks.measuring.crew import PATIENCE_SECONDS, Crew, Step
from benchmarks.measuring.fleet_results import Fleet
from benchmarks.measuring.fleet_stores import OwnSpending, Spent, running_store, together
from benchmarks.measuring.sharing import LIMIT, settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.semaphores.context_permits import ContextPermit
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator

PROCESSES = 4
TASKS = 400
PREDICT_SECONDS = 0.5

_IDLE_SECONDS = 20.0
_HELD = "held-by-a-dead-process"


@dataclass(frozen=True, slots=True)
class _Times:
    join_seconds: float
    batch_seconds: float
    granted_at: float


@dataclass(frozen=True, slots=True)
class _Part:
    """What one process of the crew measured: its own spending, and the times if it leads."""

    spent: list[Spent]
    times: _Times | None


def measure(crew: Crew, simulator: Simulator, *, kind: str, servers: int) -> Fleet:
    """Start `servers` servers on a new store of a kind, and measure."""
    simulator.reset()
    with running_store(kind) as store:
        settings = settings_for(simulator.url, store.url)
        spent: list[Spent] = []
        killed_at: list[float] = []

        def read() -> None:
            if store.server is not None:
                spent.append(store.server())

        def lead(step: Step) -> None:
            step.wait()  # All have joined.
            time.sleep(store.settling_seconds)
            step.wait()  # All are idle.
            read()
            time.sleep(_IDLE_SECONDS)
            read()
            step.wait()  # Another one joins, and leaves.
            step.wait()
            read()
            step.wait()  # One runs a batch.
            step.wait()
            read()
            with _holding_process(settings) as kill:
                step.wait()  # One waits for the permit of a process that dies.
                time.sleep(1)
                kill()
                killed_at.append(time.monotonic())
                step.wait()

        processes = processes_for(kind, servers)
        counts = [len(range(number, servers, processes)) for number in range(processes)]
        parts = crew.run(processes, partial(_take_part, settings, counts), lead)
    if not spent:
        spent = [together(each) for each in zip(*(part.spent for part in parts), strict=True)]
    idle, batch = _Difference(spent[0], spent[1]), _Difference(spent[2], spent[3])
    times = parts[0].times
    assert times is not None
    return Fleet(
        servers=servers,
        idle_commands=idle.commands_a_second,
        idle_cpu=idle.cpu,
        held_up=(spent[1].waited_seconds - spent[0].waited_seconds) / idle.seconds,
        join_ms=times.join_seconds * 1_000,
        task_commands=(batch.commands - idle.commands_a_second * batch.seconds) / TASKS,
        task_cpu_ms=(batch.cpu - idle.cpu) * batch.seconds / TASKS * 1_000,
        batch_seconds=times.batch_seconds,
        freed_seconds=times.granted_at - killed_at[0],
    )


def processes_for(kind: str, servers: int) -> int:
    """Return the number of processes: one a server with SQLite, whose locks are a process's."""
    return servers if kind == "sqlite" else min(servers, PROCESSES)


class _Difference:
    def __init__(self, before: Spent, after: Spent) -> None:
        self.seconds = after.at - before.at
        self.commands = after.commands - before.commands
        self.commands_a_second = self.commands / self.seconds
        self.cpu = (after.cpu_seconds - before.cpu_seconds) / self.seconds


@contextmanager
def _holding_process(settings: Settings) -> Iterator[Callable[[], None]]:
    """Run a process that holds the only permit of a semaphore; yield the function that kills it."""
    context = multiprocessing.get_context("spawn")
    holds = context.Event()
    process = context.Process(target=_hold, args=(settings, holds), daemon=True)
    process.start()
    try:
        assert holds.wait(PATIENCE_SECONDS), "the process did not get its permit"
        yield process.kill
    finally:
        process.kill()
        process.join()


def _hold(settings: Settings, holds: ProcessEvent) -> None:
    async def run() -> None:
        async with App.running(settings) as app:
            await app.semaphores.register(_HELD, 1)
            await app.semaphores.acquire(ContextPermit(_HELD))
            holds.set()
            await anyio.sleep_forever()

    asyncio.run(run())


def _take_part(settings: Settings, counts: list[int], number: int, step: Step) -> _Part:
    return asyncio.run(_part(settings, counts[number], step, leads=number == 0))


async def _part(settings: Settings, count: int, step: Step, *, leads: bool) -> _Part:
    own, spent = OwnSpending(), list[Spent]()
    async with anyio.create_task_group() as group:
        for _ in range(count - leads):
            await group.start(_serve, settings)
        async with _joined(settings) as app:
            await step.reached()  # All have joined.
            await step.reached()  # All are idle.
            spent.append(own.read())
            await anyio.sleep(_IDLE_SECONDS)
            spent.append(own.read())
            await step.reached()
            join_seconds = await _join(settings) if leads else 0.0
            await step.reached()
            await step.reached()  # One runs a batch.
            spent.append(own.read())
            batch_seconds = await _run_batch(app) if leads else 0.0
            await step.reached()
            spent.append(own.read())
            await step.reached()  # A process has a permit, and dies.
            granted_at = await _acquire(app) if leads else 0.0
            await step.reached()
        group.cancel_scope.cancel()
    return _Part(spent, _Times(join_seconds, batch_seconds, granted_at) if leads else None)


async def _serve(settings: Settings, *, task_status: TaskStatus[None]) -> None:
    async with _joined(settings):
        task_status.started()
        await anyio.sleep_forever()


@asynccontextmanager
async def _joined(settings: Settings) -> AsyncIterator[App]:
    async with App.running(settings) as app:
        await app.semaphores.list_for(app.caller())
        yield app


async def _join(settings: Settings) -> float:
    began = time.perf_counter()
    async with _joined(settings):
        return time.perf_counter() - began


async def _run_batch(app: App) -> float:
    began, caller = time.perf_counter(), app.caller()
    tasks = [{"prompt": f"a red car {task}"} for task in range(TASKS)]
    batch = await app.batches.start(caller, BatchRequest(tasks))
    await app.batches.wait(caller, batch, seconds=None)
    result = await app.batches.result(caller, batch)
    assert result.successful_count == TASKS, result.failed_results
    return time.perf_counter() - began


async def _acquire(app: App) -> float:
    lease = ContextPermit(_HELD)
    await app.semaphores.acquire(lease)
    granted_at = time.monotonic()
    await app.semaphores.release(lease)
    return granted_at


IDEAL_SECONDS = TASKS / LIMIT * PREDICT_SECONDS
"""Duration of the batch without any overhead."""
