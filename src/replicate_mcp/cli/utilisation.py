"""How full a limit was kept, by Replicate's own account of what was in flight when."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Fullness:
    """What a timeline of predictions in flight tells.

    Attributes:
        most: the most that were in flight at once.
        prediction_seconds: of all predictions together: what one at a time takes at least.
        share: of the limit, on average from the first creation to the last, from 0 to 1; the tail
            is left out, in which nothing waits any more and the last ones just end. None where all
            was created at once, so that nothing ever waited.
    """

    most: int
    prediction_seconds: float
    share: float | None


def fullness(timeline: Sequence[tuple[float, int]], *, limit: int, tasks: int) -> Fullness:
    """Read a timeline: each change of the number in flight, when and how many since."""
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
