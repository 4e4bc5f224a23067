"""Measure what many servers cost the store that they share.

Starts 10, 100, 400 and 1,000 servers, many in each of a few processes, on a Redis of their own, and
1, 10 and 50, each in a process of its own, on one state file. Measures the commands and CPU while
all are idle, the duration of another server's joining, the cost of a task of one server's batch,
and the time until a dead process's permit is free. Prints a table with the growth and the result
of each bound, writes the figures to a file, and exits with 1 if a bound is missed.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for running this file directly
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.measuring.crew import crew
from benchmarks.measuring.fleet_results import Fleet, write_fleets
from benchmarks.measuring.fleet_servers import PREDICT_SECONDS, measure, processes_for
from benchmarks.measuring.fleet_table import bounds, fleet_table
from benchmarks.measuring.scenario import RATE
from benchmarks.measuring.table import outcome
from replicate_mcp.simulator import running_simulator_process

SERVERS = {"redis": (10, 100, 400, 1_000), "valkey": (10, 100, 400, 1_000), "sqlite": (1, 10, 50)}

RESULTS = Path(__file__).parent / "results" / "fleet.json"


def main() -> int:
    """Measure, print the tables and the bounds, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=SERVERS, default=("redis", "sqlite"))
    parser.add_argument("--servers", nargs="+", type=int, help="their numbers")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="benchmarks/results/fleet.json"
    )
    options = parser.parse_args()
    console = Console()
    numbers = {kind: options.servers or SERVERS[kind] for kind in options.backends}
    largest = max(processes_for(kind, count) for kind in numbers for count in numbers[kind])
    fleets: dict[str, list[Fleet]] = {kind: [] for kind in numbers}
    with (
        console.status("") as status,
        crew(largest) as processes,
        running_simulator_process(
            predict_seconds=PREDICT_SECONDS,
            requests_per_minute=RATE,
            burst=RATE,
            other_requests_per_minute=RATE,
            other_burst=RATE,
        ) as simulator,
    ):
        for kind, measured in fleets.items():
            for servers in numbers[kind]:
                status.update(f"{servers:,} servers on {kind} ...")
                measured.append(measure(processes, simulator, kind=kind, servers=servers))
    found = [bound for kind, measured in fleets.items() for bound in bounds(kind, measured)]
    for kind, measured in fleets.items():
        console.print(fleet_table(kind, measured))
    console.print(outcome(found))
    write_fleets(fleets, options.results)
    return 1 if any(bound.broken for bound in found) else 0


if __name__ == "__main__":
    sys.exit(main())
