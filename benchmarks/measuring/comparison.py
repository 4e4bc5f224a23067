"""Both contestants in the same scenario, in turn."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measuring.measurement import Measurement, measure
from benchmarks.measuring.scenario import Scenario

Figure = Callable[[Measurement], float | None]
"""Reads one figure of a measurement; None where its scenario says nothing about it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A scenario, and what each run of it came to; the two at one place followed each other."""

    scenario: Scenario
    raw: Sequence[Measurement]
    engine: Sequence[Measurement]

    def ratio(self, figure: Figure) -> float:
        """The engine's figure divided by the raw client's: the median over the pairs."""
        pairs = zip(self.engine, self.raw, strict=True)
        return statistics.median(
            (figure(engine) or 0) / (figure(raw) or 1) for engine, raw in pairs
        )


def compare(scenario: Scenario, *, runs: int, backend: str, patience: float | None) -> Comparison:
    """Let both run, in turn, so often; the rest as in `measure`."""
    comparison = Comparison(scenario, raw := [], engine := [])
    for _ in range(runs):
        raw.append(measure(scenario, "raw client", backend=backend, patience=patience))
        engine.append(measure(scenario, "engine", backend=backend, patience=patience))
    return comparison


def median(runs: Sequence[Measurement], figure: Figure) -> float | None:
    """The median of a figure; None where the scenario says nothing about it."""
    found = [value for run in runs if (value := figure(run)) is not None]
    return statistics.median(found) if found else None
