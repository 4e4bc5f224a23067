"""Processes that share one limit, each with more tasks than it can make while they are watched."""

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
from replicate_mcp.app.batches import BatchRequest
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator

ACCOUNT = "shared"
"""The simulator reads it from the token."""

LIMIT = 20
PREDICT_SECONDS, MEAN_SECONDS = "1-2", 1.5


@dataclass(slots=True)
class Stretch:
    """What a stretch of work cost one process."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0

    @property
    def held_up(self) -> float:
        """The share of it that was spent waiting for a core that others had."""
        return self.waited_seconds / self.seconds


@dataclass(frozen=True, slots=True)
class Shared:
    """What came of a limit that so many processes shared.

    Attributes:
        tasks: that were created while they were watched; all of them waited meanwhile.
        utilisation: the share of the limit that was in flight.
        luckiest: its grants, beside an equal share; None where nobody else was there.
        unluckiest: the same for the one with the fewest.
        cpu_ms: CPU time of all processes, a task.
        held_up: the share of the time that a process waited for a core that others had.
        exceeded: by how many predictions in flight the limit was exceeded.
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
    """Let so many processes share the limit, and watch them for so long."""
    # The first to come takes all that is free; it must not run dry before the others.
    tasks = LIMIT + math.ceil(1.5 * LIMIT * seconds / MEAN_SECONDS / count)
    part = _Part(settings_for(simulator.url, backend), tasks, seconds)
    watched = [0.0, 0.0]

    def lead(step: Step) -> None:
        step.wait()  # All have made an image each, so that nothing is imported any more.
        simulator.configure(predict_seconds=PREDICT_SECONDS)
        step.wait()  # They begin.
        step.wait()  # All wait for the limit, which the first of them fill.
        simulator.wait_for(account=ACCOUNT, in_flight=LIMIT)
        step.wait()
        watched[0] = simulator.stats()["now"]
        step.wait()  # They have been watched for long enough.
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
    """The settings of a process that takes part."""
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
    """Count what the block costs, without costing anything itself; known when it ends."""
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
