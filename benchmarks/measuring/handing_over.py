"""Latency of handing a freed permit to another process, measured between two processes."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import anyio

from benchmarks.measuring.crew import Crew, Step
from benchmarks.measuring.sharing import settings_for, watched_stretch
from replicate_mcp.app.app import App
from replicate_mcp.semaphores.context_permits import ContextPermit

NAME = "handed-over"
TIMES = 200
"""Number of times that each process holds the permit."""

HELD_SECONDS = 0.01
"""Time for which the permit is held; the other process starts to wait after half of it."""


@dataclass(frozen=True, slots=True)
class HandingOver:
    """Latencies in milliseconds.

    Attributes:
        times: number of handovers.
        median_ms: median from release's return in one process to the grant in the other.
        p99_ms: 99th percentile of the same latency.
        from_call_ms: median from the call of release, which includes the release itself.
        held_up: share of the time for which the processes waited for a core.
    """

    times: int
    median_ms: float
    p99_ms: float
    from_call_ms: float
    held_up: float


@dataclass(frozen=True, slots=True)
class _Held:
    """Time for which a process held the permit, on the clock that all processes share."""

    process: int
    granted: float
    releasing: float
    released: float


def hand_over(crew: Crew, *, backend: str) -> HandingOver:
    """Hand a named semaphore of limit 1 back and forth between two processes."""
    results = crew.run(2, partial(_take_turns, backend), lambda step: step.wait())
    held = sorted((each for one, _ in results for each in one), key=lambda each: each.granted)
    handed = [
        (before, after) for before, after in pairwise(held) if before.process != after.process
    ]
    took = sorted((after.granted - before.released) * 1_000 for before, after in handed)
    with_step = [(after.granted - before.releasing) * 1_000 for before, after in handed]
    return HandingOver(
        times=len(handed),
        median_ms=statistics.median(took),
        p99_ms=took[int(len(took) * 0.99)],
        from_call_ms=statistics.median(with_step),
        held_up=statistics.mean(held_up for _, held_up in results),
    )


def _take_turns(backend: str, process: int, step: Step) -> tuple[list[_Held], float]:
    return asyncio.run(_turns(backend, process, step))


async def _turns(backend: str, process: int, step: Step) -> tuple[list[_Held], float]:
    # Replicate is not called, so nothing needs to listen at its address.
    settings = settings_for("http://127.0.0.1:9", backend)
    held: list[_Held] = []
    async with App.running(settings.model_copy(update={"replicate_api_token": None})) as app:
        await app.semaphores.register(NAME, 1)
        await step.reached()
        with watched_stretch() as stretch:
            for _ in range(TIMES):
                lease = ContextPermit(NAME)
                await app.semaphores.acquire(lease)
                granted = time.monotonic()
                await anyio.sleep(HELD_SECONDS)
                releasing = time.monotonic()
                await app.semaphores.release(lease)
                held.append(_Held(process, granted, releasing, time.monotonic()))
                await anyio.sleep(HELD_SECONDS / 2)
    return held, stretch.held_up
