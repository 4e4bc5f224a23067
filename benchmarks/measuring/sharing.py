"""Processes that share one limit, each with more tasks than it can finish while measured."""

import asyncio
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from benchmarks.measuring.cost import seconds_without_core
from benchmarks.measuring.crew import Crew, Step
from benchmarks.measuring.fill import utilisation
from benchmarks.measuring.scenario import RATE
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator

ACCOUNT = "shared"
"""Account at the simulator, as named in the token."""

LIMIT = 20
PREDICT_SECONDS, MEAN_SECONDS = "1-2", 1.5


@dataclass(slots=True)
class Stretch:
    """Cost of a piece of work for one process."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0

    @property
    def held_up(self) -> float:
        """Share of the time for which the process waited for a core."""
        return self.waited_seconds / self.seconds


@dataclass(frozen=True, slots=True)
class Shared:
    """Figures of a limit shared by several processes.

    Attributes:
        processes: number of processes.
        tasks: number of tasks created during the measurement, while all processes waited.
        utilisation: share of the limit in flight.
        luckiest: most grants of a process relative to an equal share; None for a single process.
        unluckiest: fewest grants of a process relative to an equal share.
        cpu_ms: CPU time of all processes, per task.
        held_up: share of the time for which a process waited for a core.
        exceeded: number of predictions in flight above the limit.
    """

    processes: int
    tasks: int
    utilisation: float | None
    luckiest: float | None
    unluckiest: float | None
    cpu_ms: float
    held_up: float
    exceeded: int


@dataclass(frozen=True, slots=True)
class _Part:
    settings: Settings
    tasks: int
    seconds: float


def share(crew: Crew, simulator: Simulator, *, backend: str, count: int, seconds: float) -> Shared:
    """Share the limit among `count` processes, and measure for `seconds`."""
    # The first process takes all free permits; it must not run out of tasks before the others.
    tasks = LIMIT + math.ceil(1.5 * LIMIT * seconds / MEAN_SECONDS / count)
    part = _Part(settings_for(simulator.url, backend), tasks, seconds)
    watched = [0.0, 0.0]

    def lead(step: Step) -> None:
        step.wait()  # Every process has made an image, so that all imports are done.
        simulator.configure(predict_seconds=PREDICT_SECONDS)
        step.wait()  # Start.
        step.wait()  # All processes wait; the first of them fill the limit.
        simulator.wait_for(account=ACCOUNT, in_flight=LIMIT)
        step.wait()
        watched[0] = simulator.stats()["now"]
        step.wait()  # End of the measurement.
        watched[1] = simulator.stats()["now"]

    simulator.reset()
    stretches = crew.run(count, partial(_take_part, part), lead)
    begun, ended = watched
    timeline = [(at, now) for at, now in simulator.timeline(ACCOUNT) if begun <= at <= ended]
    predictions = simulator.predictions(ACCOUNT)
    made = [each for each in predictions if begun <= each["created"] <= ended]
    grants = Counter({str(number): 0 for number in range(count)})
    grants.update(each["input"]["prompt"].split()[0] for each in made)
    equal = len(made) / count
    return Shared(
        processes=count,
        tasks=len(made),
        utilisation=utilisation(timeline, limit=LIMIT, tasks=len(made)),
        luckiest=max(grants.values()) / equal if count > 1 else None,
        unluckiest=min(grants.values()) / equal if count > 1 else None,
        cpu_ms=sum(each.cpu_seconds for each in stretches) / len(made) * 1_000,
        held_up=statistics.mean(each.held_up for each in stretches),
        exceeded=max(0, simulator.account(ACCOUNT)["max_in_flight"] - LIMIT),
    )


def settings_for(base_url: str, backend: str) -> Settings:
    """Return the settings of a process."""
    return Settings.model_validate(
        {
            "REPLICATE_API_TOKEN": f"r8_{ACCOUNT}_1",
            "REPLICATE_BASE_URL": base_url,
            "REPLICATE_MCP_BACKEND": backend,
            "REPLICATE_CONCURRENT_LIMIT": LIMIT,
            "REPLICATE_REQUESTS_PER_MINUTE": RATE,
        }
    )


@contextmanager
def watched_stretch() -> Iterator[Stretch]:
    """Measure the cost of the block with minimal overhead; complete when the block ends."""
    stretch = Stretch()
    waited, cpu, began = seconds_without_core(), time.process_time(), time.perf_counter()
    yield stretch
    stretch.seconds = time.perf_counter() - began
    stretch.cpu_seconds = time.process_time() - cpu
    stretch.waited_seconds = seconds_without_core() - waited


def _take_part(part: _Part, number: int, step: Step) -> Stretch:
    return asyncio.run(_part_of(part, number, step))


async def _part_of(part: _Part, number: int, step: Step) -> Stretch:
    async with App.running(part.settings) as app:
        caller = app.caller()
        first = await app.batches.start(caller, BatchRequest(_tasks(number, 1)))
        await app.batches.wait(caller, first, seconds=None)
        await step.reached()
        await step.reached()
        batch = await app.batches.start(caller, BatchRequest(_tasks(number, part.tasks)))
        await step.reached()
        await step.reached()
        with watched_stretch() as stretch:
            await anyio.sleep(part.seconds)
        await step.reached()
        result = await app.batches.result(caller, batch)
        assert not result.failed_results, result.failed_results
        assert result.pending_count, "a process ran out of tasks, so it did not wait any more"
        return stretch


def _tasks(number: int, count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{number} {task}"} for task in range(count)]
