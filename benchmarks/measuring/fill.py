"""Utilisation of a limit, from the simulator's timeline; the same for every contestant."""

import heapq
from collections.abc import Sequence

from replicate_mcp.cli.utilisation import fullness


def utilisation(timeline: Sequence[tuple[float, int]], *, limit: int, tasks: int) -> float | None:
    """Return the share of the limit that was in flight while tasks waited, from 0 to 1.

    This is the integral of the number in flight, from when the limit is first reached (from the
    first creation if it never is) to the last creation, divided by the limit times that span. It
    leaves out the initial burst, and the tail in which nothing waits. None if all tasks were
    created at once, so that none waited.

    Args:
        timeline: (seconds, number in flight since then) for each change of that number.
        limit: maximum number of concurrent predictions.
        tasks: number of tasks.
    """
    full = next((place for place, (_, count) in enumerate(timeline) if count >= limit), 0)
    return fullness(timeline[full:], limit=limit, tasks=tasks).share


def greedy_seconds(processing_seconds: Sequence[float], limit: int) -> float:
    """Return the time of greedy list scheduling: each task runs on the slot that is free first.

    Args:
        processing_seconds: durations of the predictions, in the order of creation.
        limit: number of slots.
    """
    free_at = [0.0] * limit
    for seconds in processing_seconds:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)
