"""A batch through the engine beside the raw `replicate` client under a plain semaphore.

Both make the same tasks against the same simulator, in turn; each has made one image before the
clock starts, so that imports and connections count for neither. Prints a table; exits with 1 where
the engine took over 1.05 times as long, made more than one API call an image, or passed the limit.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from replicate.client import Client
from rich.console import Console
from rich.table import Table

from replicate_mcp.app import App
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator, running_simulator_process

TOKEN = "r8_bench_1"
MODEL = "black-forest-labs/flux-schnell"
RATE = 60_000  # creations a minute: out of the way


async def raw(simulator: Simulator, tasks: int, limit: int) -> tuple[float, float]:
    """Seconds and CPU seconds of the raw client."""
    pool = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=limit + 10))
    client = Client(api_token=TOKEN, base_url=simulator.url, transport=pool)
    room = asyncio.Semaphore(limit)

    async def one(number: int) -> None:
        async with room:
            prediction = await client.models.predictions.async_create(
                MODEL, {"prompt": f"a red car {number}"}, wait=60
            )
            assert prediction.status == "succeeded"

    await one(0)
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(number) for number in range(tasks)))
    took = time.perf_counter() - started, time.process_time() - cpu
    await pool.aclose()
    return took


async def engine(
    simulator: Simulator, tasks: int, limit: int, backend: str
) -> tuple[float, float, int]:
    """Seconds and CPU seconds of the engine, and API calls beside the creations."""
    settings = Settings.model_validate(
        {
            "REPLICATE_API_TOKEN": TOKEN,
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_MCP_BACKEND": backend,
            "REPLICATE_CONCURRENT_LIMIT": limit,
            "REPLICATE_REQUESTS_PER_MINUTE": RATE,
        }
    )
    async with App.running(settings) as app:
        caller = app.caller()

        async def batch(count: int) -> None:
            batch_id = await app.start_batch(
                caller, [{"prompt": f"a red car {number}"} for number in range(count)]
            )
            await app.wait(caller, batch_id, seconds=None)
            result = await app.result(caller, batch_id)
            assert result.successful_count == count, result.failed_results

        await batch(1)
        before = simulator.account("bench")["other_calls"]
        started, cpu = time.perf_counter(), time.process_time()
        await batch(tasks)
        took = time.perf_counter() - started, time.process_time() - cpu
        return *took, simulator.account("bench")["other_calls"] - before


def main() -> int:
    """Run both, in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=120)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each prediction")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--backend", choices=["sqlite", "memory"], default="sqlite")
    options = parser.parse_args()
    theirs, ours, calls = [], [], 0
    with (
        tempfile.TemporaryDirectory() as folder,
        running_simulator_process(
            predict_seconds=options.seconds,
            requests_per_minute=RATE,
            burst=RATE,
            other_requests_per_minute=RATE,
        ) as simulator,
    ):
        backend = (
            "memory" if options.backend == "memory" else f"sqlite:///{Path(folder, 'state.db')}"
        )
        for _ in range(options.runs):
            theirs.append(asyncio.run(raw(simulator, options.tasks, options.limit)))
            *took, others = asyncio.run(engine(simulator, options.tasks, options.limit, backend))
            ours.append(tuple(took))
            calls += others
        most = simulator.account("bench")["max_in_flight"]
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
    cpu_ratio = statistics.median(a[1] / b[1] for a, b in zip(ours, theirs, strict=True))
    table = Table(
        title=f"{options.tasks} tasks of {options.seconds:g} s at a limit of {options.limit}, "
        f"{RATE} creations a minute, {options.backend}, medians of {options.runs}"
    )
    for column in ("", "seconds", "of the ideal", "CPU ms a task"):
        table.add_column(column, justify="left" if not column else "right")
    ideal = options.seconds * -(-options.tasks // options.limit)
    for name, rows in (("raw client under a semaphore", theirs), ("engine", ours)):
        seconds = statistics.median(row[0] for row in rows)
        cpu = statistics.median(row[1] for row in rows) / options.tasks * 1000
        table.add_row(name, f"{seconds:.3f}", f"{seconds / ideal:.3f}", f"{cpu:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"engine / raw: {ratio:.3f} of the time, {cpu_ratio:.2f} of the CPU; most in flight "
        f"{most}; other API calls during {options.runs} batches: {calls}"
    )
    return 0 if ratio <= 1.05 and most <= options.limit and not calls else 1


if __name__ == "__main__":
    sys.exit(main())
