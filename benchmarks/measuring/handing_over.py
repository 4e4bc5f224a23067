"""How long a freed permit takes to another process: two hand one back and forth."""

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
"""How often each of the two holds it."""

HELD_SECONDS = 0.01
"""How long it is held: the other waits again since half of that, and is in nobody's way."""


@dataclass(frozen=True, slots=True)
class HandingOver:
    """What came of it; milliseconds.

    Attributes:
        median_ms: from release's return in one process to the grant in the other.
        p99_ms: the same, for all but one of a hundred.
        from_call_ms: the median from release's call, so with the releasing step itself.
        held_up: the share of the time that the two waited for a core that others had.
    """

    times: int
    median_ms: float
    p99_ms: float
    from_call_ms: float
    held_up: float


@dataclass(frozen=True, slots=True)
class _Held:
    """One time that a process held it, on the clock that all processes of a system share."""

    process: int
    granted: float
    releasing: float
    released: float


def hand_over(crew: Crew, *, backend: str) -> HandingOver:
    """Let two processes hand a named semaphore of limit 1 back and forth."""
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
    # Nothing is asked of Replicate, so nobody need be at its address.
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
