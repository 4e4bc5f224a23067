"""Utilisation of a limit, from the simulator's timeline of predictions in flight."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Fullness:
    """Utilisation figures of a timeline.

    Attributes:
        most: maximum number of predictions in flight.
        prediction_seconds: sum of all predictions' seconds: the least that running them one at a
            time would take.
        share: mean share of the limit in use from the first to the last creation, from 0 to 1.
            The time after the last creation is left out, since nothing waits then. None if all
            tasks were created at once or fit into the limit.
    """

    most: int
    prediction_seconds: float
    share: float | None


def fullness(timeline: Sequence[tuple[float, int]], *, limit: int, tasks: int) -> Fullness:
    """Return the utilisation of a timeline of (seconds, number in flight since then) pairs."""
    last_creation = max(
        (at for (_, before), (at, now) in pairwise([(0.0, 0), *timeline]) if now > before),
        default=0.0,
    )
    spans = [(count, start, end) for (start, count), (end, _) in pairwise(timeline)]
    busy_seconds = sum(count * (end - start) for count, start, end in spans)
    share = None
    if tasks > limit and last_creation > timeline[0][0]:
        in_use = sum(count * (end - start) for count, start, end in spans if end <= last_creation)
        share = in_use / (limit * (last_creation - timeline[0][0]))
    return Fullness(max((count for _, count in timeline), default=0), busy_seconds, share)
