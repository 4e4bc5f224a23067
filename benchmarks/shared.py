"""Measure processes that share one limit, with each backend, beside its raw round trip.

Measures the utilisation of the limit, the fairness between processes, the CPU time per task, the
latency of handing a freed permit to another process, and the duration of a task's two steps without
contention. Prints two tables and the result of each bound, and exits with 1 if a bound is missed
and other programs on the machine were not the cause.

Every process has more tasks than it can finish; the measurement starts when all of them wait.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.status import Status

sys.path.insert(0, str(Path(__file__).parents[1]))  # for running this file directly
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.measuring.crew import Crew, crew
from benchmarks.measuring.handing_over import hand_over
from benchmarks.measuring.places import KINDS, places
from benchmarks.measuring.scenario import RATE
from benchmarks.measuring.shared_table import Measured, bounds, sharing_table, steps_table
from benchmarks.measuring.sharing import share
from benchmarks.measuring.table import outcome
from benchmarks.measuring.uncontended import uncontended
from replicate_mcp.simulator import Simulator, running_simulator_process

QUICK, QUICK_SECONDS = (1, 4, 8), 8.0
FULL, FULL_SECONDS = (1, 2, 4, 8, 16), 20.0
"""Numbers of processes, and the seconds for which each is measured."""


def main() -> int:
    """Measure, and print the tables and the bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more processes, for some 5 minutes")
    parser.add_argument(
        "--backend", nargs="+", choices=KINDS, default=["sqlite", "redis"], help="sqlite and redis"
    )
    options = parser.parse_args()
    counts, seconds = (FULL, FULL_SECONDS) if options.full else (QUICK, QUICK_SECONDS)
    console = Console()
    with (
        console.status("") as status,
        crew(max(counts)) as processes,
        running_simulator_process(
            predict_seconds=0,
            requests_per_minute=RATE,
            burst=RATE,
            other_requests_per_minute=RATE,
            other_burst=RATE,
        ) as simulator,
    ):
        measured = [
            _measure(backend, counts, seconds, processes, simulator, status)
            for backend in options.backend
        ]
    found = list(bounds(measured))
    tables = sharing_table(measured, seconds=seconds), steps_table(measured)
    console.print(*tables, outcome(found))
    if not options.full:
        console.print("2 and 16 processes, and longer: --full. At Valkey: --backend valkey.")
    return 1 if any(bound.broken for bound in found) else 0


def _measure(
    backend: str,
    counts: tuple[int, ...],
    seconds: float,
    processes: Crew,
    simulator: Simulator,
    status: Status,
) -> Measured:
    with places(backend) as new_place:
        status.update(f"{backend}: steps of a task ...")
        alone = processes.run_alone(partial(uncontended, new_place()))
        status.update(f"{backend}: a permit handed back and forth ...")
        handed = hand_over(processes, backend=new_place())
        shared = []
        for count in counts:
            status.update(f"{backend}: {count} sharing a limit ...")
            shared.append(
                share(processes, simulator, backend=new_place(), count=count, seconds=seconds)
            )
        return Measured(backend, alone, handed, shared)


if __name__ == "__main__":
    sys.exit(main())
