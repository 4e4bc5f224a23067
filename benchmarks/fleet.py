"""Measure what many servers cost the one Redis that they share.

Starts 10, 100, 400 and 1,000 servers, many in each of a few processes, on a Redis of their own, and
measures its commands and CPU while all are idle, the duration of another server's joining, the cost
of a task of one server's batch, and the time until a dead process's permit is free. Prints a table
with the growth and the result of each bound, and exits with 1 if a bound is missed.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for running this file directly
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.measuring.crew import crew
from benchmarks.measuring.fleet_servers import PREDICT_SECONDS, PROCESSES, measure
from benchmarks.measuring.fleet_table import bounds, fleet_table
from benchmarks.measuring.scenario import RATE
from benchmarks.measuring.table import outcome
from replicate_mcp.simulator import running_simulator_process

SERVERS = (10, 100, 400, 1_000)


def main() -> int:
    """Measure, and print the table and the bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", nargs="+", type=int, default=SERVERS, help="their numbers")
    parser.add_argument("--backend", choices=("redis", "valkey"), default="redis")
    options = parser.parse_args()
    console = Console()
    with (
        console.status("") as status,
        crew(PROCESSES) as processes,
        running_simulator_process(
            predict_seconds=PREDICT_SECONDS,
            requests_per_minute=RATE,
            burst=RATE,
            other_requests_per_minute=RATE,
            other_burst=RATE,
        ) as simulator,
    ):
        measured = []
        for servers in options.servers:
            status.update(f"{servers:,} servers ...")
            measured.append(measure(processes, simulator, kind=options.backend, servers=servers))
    found = list(bounds(measured))
    console.print(fleet_table(options.backend, measured), outcome(found))
    return 1 if any(bound.broken for bound in found) else 0


if __name__ == "__main__":
    sys.exit(main())
