"""Compare the engine with the raw `replicate` client under a plain semaphore.

Both make the same images on the same simulator, in turn, each in a separate process, after one
image that is not measured. Prints one table and the result of each bound, draws one plot, and exits
with 1 if a bound is missed and other programs on the machine were not the cause.

Utilisation is computed from the simulator's timeline, for both alike: the integral of the number of
predictions in flight, from when the limit is first reached to the last creation, divided by the
limit times that span.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for running this file directly

from benchmarks.measuring.bounds import bounds
from benchmarks.measuring.comparison import compare
from benchmarks.measuring.fleet_results import read_fleets
from benchmarks.measuring.scenario import FULL, PATIENCE_SECONDS, QUICK
from benchmarks.measuring.table import conditions, figures, outcome

PLOT = Path(__file__).parent / "results" / "engine.png"


def main() -> int:
    """Measure, print the table and the bounds, and draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all scenarios, for some 40 minutes")
    parser.add_argument("--runs", type=int, help="of each scenario; else 1, and 3 with --full")
    parser.add_argument("--backend", default="sqlite", help="of the engine; sqlite in a new file")
    parser.add_argument("--plot", type=Path, default=PLOT, help="benchmarks/results/engine.png")
    parser.add_argument("--fleet", type=Path, help="figures that fleet.py has written, to draw too")
    options = parser.parse_args()
    runs = options.runs or (3 if options.full else 1)
    patience = None if options.full else PATIENCE_SECONDS
    console = Console()
    comparisons = []
    with console.status("") as status:
        for scenario in FULL if options.full else QUICK:
            status.update(f"{scenario.shown_tasks} tasks at a limit of {scenario.limit} ...")
            comparisons.append(
                compare(scenario, runs=runs, backend=options.backend, patience=patience)
            )
    about = conditions(options.backend, runs)
    found = list(bounds(comparisons))
    console.print(figures(comparisons, about=about), outcome(found))

    from benchmarks.measuring.plot import draw  # not for the contestants

    fleet = read_fleets(options.fleet)["redis"] if options.fleet else ()
    draw(comparisons, options.plot, about=about, fleet=fleet)
    rest = "" if options.full else " Every limit, and 10,000 tasks at once: --full."
    console.print(f"The plot is in {options.plot}.{rest}", soft_wrap=True)
    return 1 if any(bound.broken for bound in found) else 0


if __name__ == "__main__":
    sys.exit(main())
