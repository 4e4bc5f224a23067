"""What is measured: how many tasks at which limit, and how long each prediction takes."""

from collections.abc import Sequence
from dataclasses import dataclass

RATE = 60_000
"""Creations a minute that the account is allowed in every scenario: out of the way."""

LARGEST_BATCH = 1_000
"""Tasks: what a batch of the engine may hold."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Some batches at a limit.

    Attributes:
        limit: predictions in flight at once.
        batches: the tasks of each batch; all of them begin at once.
        predict_seconds: of each prediction: `3.0`, or `"1-4"` for anything between, evenly.
        late: tasks of one more batch, which arrives as soon as the limit is full. Its time is then
            the one that is measured, and what is left of the others is left alone.
    """

    limit: int
    batches: tuple[int, ...]
    predict_seconds: float | str
    late: int = 0

    @property
    def tasks(self) -> int:
        """Of all the batches that begin at once."""
        return sum(self.batches)

    @property
    def shown_tasks(self) -> str:
        """The same for a person, with how they come."""
        if self.late:
            return f"{self.late} beside {self.tasks}"
        if len(self.batches) > 1:
            return f"{len(self.batches)} × {self.batches[0]:,}"
        return f"{self.tasks:,}"


def _fixed_size(limit: int, tasks: int, predict_seconds: float | str) -> Scenario:
    """So many tasks, in as few batches as hold them."""
    full, rest = divmod(tasks, LARGEST_BATCH)
    return Scenario(limit, (LARGEST_BATCH,) * full + (rest,) * bool(rest), predict_seconds)


def _filling(limit: int, predict_seconds: float | str) -> Scenario:
    """Ten times the limit, or 2,000: long enough that the beginning does not decide."""
    return _fixed_size(limit, min(10 * limit, 2_000), predict_seconds)


FIXED, VARYING = 2.5, "1-4"
"""Seconds of a prediction, with the same mean."""

SIXTY = _filling(60, VARYING)
"""600 tasks at the limit that accounts have by default."""

SMALL_BESIDE_LARGE = Scenario(10, (500,), 3.0, late=1)
"""The late one comes at the worst moment: just after everything free was taken."""

PATIENCE_SECONDS = 7.5
"""How long the quick run waits for the late one: 2.5 prediction times."""

THOUSAND_AT_NO_LATENCY = _fixed_size(60, 1_000, 0.0)
"""Predictions that end at once: what is left is what an image costs on our side."""

TEN_THOUSAND_AT_NO_LATENCY = _fixed_size(60, 10_000, 0.0)

QUICK: Sequence[Scenario] = (SIXTY, SMALL_BESIDE_LARGE, THOUSAND_AT_NO_LATENCY)

FULL: Sequence[Scenario] = (
    *(_filling(limit, seconds) for seconds in (FIXED, VARYING) for limit in (10, 60, 200, 500)),
    SMALL_BESIDE_LARGE,
    _fixed_size(60, 100, 0.0),
    THOUSAND_AT_NO_LATENCY,
    TEN_THOUSAND_AT_NO_LATENCY,
)
