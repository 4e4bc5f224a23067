"""Bounds on the engine's figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.measuring.comparison import Comparison, median
from benchmarks.measuring.scenario import (
    SIXTY,
    SMALL_BESIDE_LARGE,
    TEN_THOUSAND_AT_NO_LATENCY,
    THOUSAND_AT_NO_LATENCY,
    VARYING,
)

NAIVE_UTILISATION = {60: 0.996, 200: 0.983, 500: 0.872}
"""Utilisation of a naive prototype, by limit, with predictions of 1-4 s: the baseline to exceed."""

BUSY = 0.02
"""Share of time without a core from which a missed time bound is inconclusive."""


class Verdict(StrEnum):
    """Result of a bound."""

    HELD = "held"
    NOT_HELD = "not held"
    NOISE = "noise"
    """Missed while other programs kept the machine busy: measure again."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Bound on one figure.

    Attributes:
        what: what the figure measures.
        figure: measured value; None if it could not be measured.
        at_least: lower bound.
        at_most: upper bound.
        held_up: share of time without a core; 0 for figures that this does not affect.
        binding: whether a miss is a failure instead of a remark.
    """

    what: str
    figure: float | None
    at_least: float = float("-inf")
    at_most: float = float("inf")
    held_up: float | None = 0.0
    binding: bool = True

    @property
    def verdict(self) -> Verdict:
        """Result of the bound."""
        if self.figure is not None and self.at_least <= self.figure <= self.at_most:
            return Verdict.HELD
        return Verdict.NOISE if (self.held_up or 0) >= BUSY else Verdict.NOT_HELD

    @property
    def broken(self) -> bool:
        """Whether the miss is a failure."""
        return self.binding and self.verdict is Verdict.NOT_HELD


def bounds(comparisons: Sequence[Comparison]) -> Iterator[Bound]:
    """Yield all bounds that these comparisons cover."""
    for comparison in comparisons:
        yield from _of(comparison)
    runs = [run for comparison in comparisons for run in comparison.engine]
    yield Bound("predictions in flight over the limit", max(r.exceeded for r in runs), at_most=0)
    yield Bound("API calls beside one an image", max(r.other_calls for r in runs), at_most=0)


def _of(comparison: Comparison) -> Iterator[Bound]:
    scenario, engine = comparison.scenario, comparison.engine
    held_up = median(engine, lambda run: run.held_up)
    utilisation = median(engine, lambda run: run.utilisation)
    of_ideal = median(engine, lambda run: run.of_ideal)
    at = f"limit {scenario.limit}, {scenario.shown_tasks}"
    if scenario == SIXTY:
        yield Bound(f"utilisation: {at}", utilisation, at_least=0.985, held_up=held_up)
        yield Bound(f"time of the ideal: {at}", of_ideal, at_most=1.02, held_up=held_up)
    if scenario == SMALL_BESIDE_LARGE:
        yield Bound(f"prediction times: {at}", of_ideal, at_most=2.2, held_up=held_up)
    if scenario in (THOUSAND_AT_NO_LATENCY, TEN_THOUSAND_AT_NO_LATENCY):
        ratio = comparison.ratio(lambda run: run.cpu_ms)
        yield Bound(f"CPU an image, beside raw: {at}", ratio, at_most=1.5)
    if scenario == TEN_THOUSAND_AT_NO_LATENCY:
        grown = median(engine, lambda run: run.grown_mb)
        yield Bound(f"MB grown: {at}", grown, at_most=60)
    if scenario.predict_seconds == VARYING and scenario.limit in NAIVE_UTILISATION:
        naive = NAIVE_UTILISATION[scenario.limit]
        yield Bound(
            f"utilisation, to beat naive: {at}",
            utilisation,
            at_least=naive,
            held_up=held_up,
            binding=False,
        )
