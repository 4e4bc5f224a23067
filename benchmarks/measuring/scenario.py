"""Scenarios: number of tasks, limit, and duration of the predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

RATE = 60_000
"""Creations per minute allowed in every scenario, high enough not to matter."""

LARGEST_BATCH = 1_000
"""Maximum number of tasks in a batch of the engine."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Batches that run under a limit.

    Attributes:
        limit: maximum number of concurrent predictions.
        batches: number of tasks of each batch; all batches start at the same time.
        predict_seconds: duration of a prediction: `3.0`, or `"1-4"` for a uniform distribution.
        late: number of tasks of another batch, which starts as soon as the limit is full. Only this
            batch is measured then, and the others are not waited for.
    """

    limit: int
    batches: tuple[int, ...]
    predict_seconds: float | str
    late: int = 0

    @property
    def tasks(self) -> int:
        """Total number of tasks in the batches that start at the same time."""
        return sum(self.batches)

    @property
    def shown_tasks(self) -> str:
        """Number and grouping of the tasks, for display."""
        if self.late:
            return f"{self.late} beside {self.tasks}"
        if len(self.batches) > 1:
            return f"{len(self.batches)} × {self.batches[0]:,}"
        return f"{self.tasks:,}"


def _fixed_size(limit: int, tasks: int, predict_seconds: float | str) -> Scenario:
    """Return a scenario of `tasks` tasks in as few batches as possible."""
    full, rest = divmod(tasks, LARGEST_BATCH)
    return Scenario(limit, (LARGEST_BATCH,) * full + (rest,) * bool(rest), predict_seconds)


def _filling(limit: int, predict_seconds: float | str) -> Scenario:
    """Return a scenario of ten times the limit, at most 2,000 tasks, to outweigh the start."""
    return _fixed_size(limit, min(10 * limit, 2_000), predict_seconds)


FIXED, VARYING = 2.5, "1-4"
"""Duration of a prediction in seconds, with the same mean."""

SIXTY = _filling(60, VARYING)
"""600 tasks at the default limit of accounts."""

SMALL_BESIDE_LARGE = Scenario(10, (500,), 3.0, late=1)
"""The late task arrives at the worst moment: just after all permits were taken."""

PATIENCE_SECONDS = 7.5
"""Timeout for the late task in the quick run: 2.5 predictions."""

THOUSAND_AT_NO_LATENCY = _fixed_size(60, 1_000, 0.0)
"""Predictions without duration, so that only the overhead per image remains."""

TEN_THOUSAND_AT_NO_LATENCY = _fixed_size(60, 10_000, 0.0)

QUICK: Sequence[Scenario] = (SIXTY, SMALL_BESIDE_LARGE, THOUSAND_AT_NO_LATENCY)

FULL: Sequence[Scenario] = (
    *(_filling(limit, seconds) for seconds in (FIXED, VARYING) for limit in (10, 60, 200, 500)),
    SMALL_BESIDE_LARGE,
    _fixed_size(60, 100, 0.0),
    THOUSAND_AT_NO_LATENCY,
    TEN_THOUSAND_AT_NO_LATENCY,
)
