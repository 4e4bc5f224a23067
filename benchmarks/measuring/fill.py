"""How well a limit was filled, by the simulator's own account; the same for every contestant."""

import heapq
from collections.abc import Sequence

from replicate_mcp.cli.utilisation import fullness


def utilisation(timeline: Sequence[tuple[float, int]], *, limit: int, tasks: int) -> float | None:
    """The share of the limit that was in flight while tasks waited, from 0 to 1.

    It is the integral of the number in flight, from when the limit is first reached (from the first
    creation, where it never is) to the last creation, divided by the limit times that span. So
    neither the first flood nor the tail counts, in which nothing waits any more. None where all was
    created at once, so that nothing waited.

    Args:
        timeline: each change of the number in flight: when, and how many since.
    """
    full = next((place for place, (_, count) in enumerate(timeline) if count >= limit), 0)
    return fullness(timeline[full:], limit=limit, tasks=tasks).share


def greedy_seconds(processing_seconds: Sequence[float], limit: int) -> float:
    """The time of greedy list scheduling: each in turn on whichever of `limit` is free first.

    Args:
        processing_seconds: of each prediction, in the order of their creation.
    """
    free_at = [0.0] * limit
    for seconds in processing_seconds:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)
