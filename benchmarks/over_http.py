"""Measure the overhead that the server adds to HTTP requests, compared with the raw client.

Many concurrent callers spend most of their time waiting for the limit, so their total duration is
compared with that of the raw `replicate` client under a plain semaphore. Sequential requests
alternate with those of the raw client; the simulator's time is subtracted from each, which leaves
the overhead. The same requests are sent in turn to two replicas that share a Redis and one limit.

Callers, server and simulator share the machine's cores. Exits with 1 only if an image was not made
or the limit was exceeded.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # for running this file directly
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.measuring.http_callers import (
    ASKED_FOR,
    CALLERS,
    LIMIT,
    PREDICT_SECONDS,
    SINGLE_PREDICT_SECONDS,
    SINGLES,
    TASKS_EACH,
    Asked,
    measure,
)
from benchmarks.measuring.scenario import RATE
from replicate_mcp.simulator import running_simulator_process

IDEAL_SECONDS = -(-CALLERS * TASKS_EACH // LIMIT) * PREDICT_SECONDS
"""Duration of the concurrent requests in full rounds of the limit, each as long as a prediction."""


def main() -> int:
    """Measure and print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    console = Console()
    with (
        console.status("Asking for images, for two minutes ..."),
        running_simulator_process(
            predict_seconds=0,
            requests_per_minute=RATE,
            burst=RATE,
            other_requests_per_minute=RATE,
            other_burst=RATE,
        ) as simulator,
    ):
        found = asyncio.run(measure(simulator))
    console.print(_table(found))
    wrong = [asked.name for asked in found if not asked.is_right]
    for name in wrong:
        console.print(f"[bold red]{name}: not every image was made, or the limit was exceeded.")
    return 1 if wrong else 0


def _table(found: Sequence[Asked]) -> Table:
    shown = Table(
        title=f"What serving over HTTP adds · limit {LIMIT} · {os.cpu_count()} cores",
        caption=(
            f"at once: {CALLERS} callers with {TASKS_EACH} tasks of {PREDICT_SECONDS} s each,\n"
            f"         and as many of the raw client; ideal: {IDEAL_SECONDS:.1f} s\n"
            "held up: time without a core, of all processes together\n"
            f"single:  {SINGLES} one by one, of {SINGLE_PREDICT_SECONDS} s each: the ms beside\n"
            "         what the simulator took from creation to end\n"
            f"made:    of {ASKED_FOR:,}"
        ),
        box=box.SIMPLE_HEAD,
        title_style="bold",
        caption_justify="left",
    )
    shown.add_column("", no_wrap=True)
    for column in (
        "all\nseconds",
        "of the\nideal",
        "held\nup",
        "single\nmedian",
        "single\np95",
        "\nmade",
        "most\nat once",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for asked in found:
        shown.add_row(
            asked.name,
            f"{asked.total_seconds:.2f}",
            f"{asked.total_seconds / IDEAL_SECONDS:.3f}",
            f"{asked.held_up:.0%}",
            f"{statistics.median(asked.overhead_ms):.1f}",
            f"{_p95(asked.overhead_ms):.1f}",
            f"{asked.made:,}",
            str(asked.peak_in_flight),
        )
    raw, ours, _ = found
    added = [mine - theirs for mine, theirs in zip(ours.overhead_ms, raw.overhead_ms, strict=True)]
    shown.add_section()
    shown.add_row(
        "one adds",
        f"{ours.total_seconds - raw.total_seconds:+.2f}",
        f"{(ours.total_seconds - raw.total_seconds) / IDEAL_SECONDS:+.3f}",
        "",
        f"{statistics.median(added):+.1f}",
        f"{_p95(ours.overhead_ms) - _p95(raw.overhead_ms):+.1f}",
    )
    return shown


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    sys.exit(main())
