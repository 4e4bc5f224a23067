"""Servers that share one Redis: many in each of a few processes, idle but for one of them."""

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

from backends.servers import RunningServer, open_for_admission, running_server
from benchmarks.measuring.cost import seconds_without_core
from benchmarks.measuring.crew import PATIENCE_SECONDS, Crew, Step
from benchmarks.measuring.sharing import ACCOUNT, LIMIT, settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.backends.redis.connection import LEASE_SECONDS
from replicate_mcp.semaphores.context_permits import ContextPermit
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator

PROCESSES = 4
TASKS = 400
PREDICT_SECONDS = 0.5

_SETTLING_SECONDS = LEASE_SECONDS + 5
"""By then, the processes of the generation before have been declared dead."""

_IDLE_SECONDS = 20.0
_HELD = "held-by-a-dead-process"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a server has spent since its start, and the time of reading."""

    commands: int
    cpu_seconds: float
    waited_seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """Figures of servers that share one Redis.

    Attributes:
        servers: number of servers.
        idle_commands: commands a second while all are idle, those of scripts included.
        idle_cpu: share of one core that Redis uses meanwhile.
        held_up: share of that time for which Redis waited for a core.
        join_ms: duration of another server's joining.
        task_commands: commands a task of one server's batch, without those of the idle servers.
        task_cpu_ms: Redis's CPU time a task, likewise.
        batch_seconds: duration of the batch.
        freed_seconds: time from the death of a process until a waiting one has its permit.
    """

    servers: int
    idle_commands: float
    idle_cpu: float
    held_up: float
    join_ms: float
    task_commands: float
    task_cpu_ms: float
    batch_seconds: float
    freed_seconds: float


@dataclass(frozen=True, slots=True)
class _Times:
    join_seconds: float
    batch_seconds: float
    granted_at: float


def measure(crew: Crew, simulator: Simulator, *, kind: str, servers: int) -> Fleet:
    """Start `servers` servers on a new Redis or Valkey, and measure."""
    simulator.reset()
    with running_server(kind) as redis:
        anyio.run(open_for_admission, redis, "replicate-mcp", ACCOUNT)
        settings = settings_for(simulator.url, redis.url())
        spent: list[Spent] = []
        killed_at: list[float] = []

        def lead(step: Step) -> None:
            step.wait()  # All have joined.
            time.sleep(_SETTLING_SECONDS)
            spent.append(_spent(redis))
            time.sleep(_IDLE_SECONDS)
            spent.append(_spent(redis))
            step.wait()  # Another one joins, and leaves.
            step.wait()
            spent.append(_spent(redis))
            step.wait()  # One runs a batch.
            step.wait()
            spent.append(_spent(redis))
            with _holding_process(settings) as kill:
                step.wait()  # One waits for the permit of a process that dies.
                time.sleep(1)
                kill()
                killed_at.append(time.monotonic())
                step.wait()

        counts = [len(range(number, servers, PROCESSES)) for number in range(PROCESSES)]
        times, *_ = crew.run(PROCESSES, partial(_take_part, settings, counts), lead)
    idle, batch = _Difference(spent[0], spent[1]), _Difference(spent[2], spent[3])
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


class _Difference:
    def __init__(self, before: Spent, after: Spent) -> None:
        self.seconds = after.at - before.at
        self.commands = after.commands - before.commands
        self.commands_a_second = self.commands / self.seconds
        self.cpu = (after.cpu_seconds - before.cpu_seconds) / self.seconds


def _spent(redis: RunningServer) -> Spent:
    with redis.client as client:
        cpu, stats = client.info("cpu"), client.info("commandstats")
        waited_seconds = seconds_without_core(client.info("server")["process_id"])
    commands = sum(each["calls"] for each in stats.values())
    cpu_seconds = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return Spent(commands, cpu_seconds, waited_seconds, time.monotonic())


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


def _take_part(settings: Settings, counts: list[int], number: int, step: Step) -> _Times | None:
    return asyncio.run(_part(settings, counts[number], step, leads=number == 0))


async def _part(settings: Settings, count: int, step: Step, *, leads: bool) -> _Times | None:
    async with anyio.create_task_group() as group:
        for _ in range(count - leads):
            await group.start(_serve, settings)
        async with _joined(settings) as app:
            await step.reached()  # All have joined.
            await step.reached()  # The idle servers were measured.
            join_seconds = await _join(settings) if leads else 0.0
            await step.reached()
            await step.reached()  # One runs a batch.
            batch_seconds = await _run_batch(app) if leads else 0.0
            await step.reached()
            await step.reached()  # A process has a permit, and dies.
            granted_at = await _acquire(app) if leads else 0.0
            await step.reached()
        group.cancel_scope.cancel()
    return _Times(join_seconds, batch_seconds, granted_at) if leads else None


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
