"""Comparison of both contestants in the same scenario, run in turn."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measuring.measurement import Measurement, measure
from benchmarks.measuring.scenario import Scenario

Figure = Callable[[Measurement], float | None]
"""Function that returns a figure of a measurement; None if its scenario has no such figure."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measurements of a scenario; those with the same index were made in succession."""

    scenario: Scenario
    raw: Sequence[Measurement]
    engine: Sequence[Measurement]

    def ratio(self, figure: Figure) -> float:
        """Return the median over all pairs of the engine's figure divided by the raw client's."""
        pairs = zip(self.engine, self.raw, strict=True)
        return statistics.median(
            (figure(engine) or 0) / (figure(raw) or 1) for engine, raw in pairs
        )


def compare(scenario: Scenario, *, runs: int, backend: str, patience: float | None) -> Comparison:
    """Run both contestants in turn, `runs` times; the other arguments are those of `measure`."""
    comparison = Comparison(scenario, raw := [], engine := [])
    for _ in range(runs):
        raw.append(measure(scenario, "raw client", backend=backend, patience=patience))
        engine.append(measure(scenario, "engine", backend=backend, patience=patience))
    return comparison


def median(runs: Sequence[Measurement], figure: Figure) -> float | None:
    """Return the median of a figure; None if the scenario has no such figure."""
    found = [value for run in runs if (value := figure(run)) is not None]
    return statistics.median(found) if found else None
