"""Measure what a server costs that a host starts and asks nothing of, beside a bare SDK server.

Runs both in turn with the default backend: the time from process start to the answers to
`initialize` and `tools/list`, and then what the idle server holds. "Used" has a state file, from an
earlier call. Exits with 1 beyond a bound.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BARE = """
from mcp.server.mcpserver import MCPServer
MCPServer("bare").run("stdio")
"""

USE = """
import anyio
from replicate_mcp.app.composition import open_backend

async def use():
    await (await open_backend("sqlite")).close()

anyio.run(use)
"""
"""Creates the state file, as the first call of a server does."""

SERVER = (sys.executable, "-m", "replicate_mcp")

IDLE_SECONDS = 3.0
"""Seconds of rest before the idle server is measured: it has looked for orphans by then."""

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Figures of one run.

    Attributes:
        initialize: seconds from process start to the answer to `initialize`.
        tools: seconds from process start to the answer to `tools/list`.
        idle_mb: memory of the idle server that it shares with no process, in MB.
        descriptors: open file descriptors of the idle server.
        threads: threads of the idle server.
    """

    initialize: float
    tools: float
    idle_mb: float | None = None
    descriptors: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bound of a figure, beside the bare server's."""

    what: str
    figure: Callable[[Cost], float | None]
    ratio: float = 1.0
    more: float = 0.0


BOUNDS = (
    Bound("initialize", lambda cost: cost.initialize, ratio=1.05),
    Bound("tools/list", lambda cost: cost.tools, ratio=1.08),
    Bound("idle MB", lambda cost: cost.idle_mb, more=4.0),
    Bound("descriptors", lambda cost: cost.descriptors),
    Bound("threads", lambda cost: cost.threads),
)


@contextmanager
def _homes() -> Iterator[tuple[Path, Path]]:
    """Yield an empty home folder, and one with a state file, instead of the user's."""
    with tempfile.TemporaryDirectory() as folder:
        new, used = Path(folder, "new"), Path(folder, "used")
        for home in (new, used):
            home.mkdir()
        subprocess.run([sys.executable, "-c", USE], env=_environment(used), check=True)
        yield new, used


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    own = {"REPLICATE_API_TOKEN": "r8_bench", "REPLICATE_BASE_URL": "http://127.0.0.1:9"}
    return {**kept, **own, "HOME": str(home), "USERPROFILE": str(home)}


def cost_of(command: Sequence[str], home: Path, *, rests: bool) -> Cost:
    """Run a server once.

    Args:
        command: starts the server.
        home: home folder of its user.
        rests: whether the idle server is measured, too; only possible on Linux.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(home),
        text=True,
    ) as server:
        initialized = _answer(server, "initialize", INITIALIZE)
        initialize = time.perf_counter() - started
        _send(server, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        listed = _answer(server, "tools/list", {})
        tools = time.perf_counter() - started
        cost = Cost(initialize, tools)
        process = Path(f"/proc/{server.pid}")
        if rests and (process / "smaps_rollup").exists():
            time.sleep(IDLE_SECONDS)
            cost = Cost(
                initialize,
                tools,
                _own_mb((process / "smaps_rollup").read_text()),
                len(list((process / "fd").iterdir())),
                len(list((process / "task").iterdir())),
            )
        assert server.stdin is not None
        server.stdin.close()
        server.wait(10)
    assert initialized["serverInfo"]
    assert "tools" in listed
    return cost


def _send(server: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps(message) + "\n")
    server.stdin.flush()


def _answer(server: "subprocess.Popen[str]", method: str, params: dict[str, Any]) -> Any:
    _send(server, {"jsonrpc": "2.0", "id": method, "method": method, "params": params})
    assert server.stdout is not None
    return json.loads(server.stdout.readline())["result"]


def _own_mb(smaps: str) -> float:
    lines = (line.split() for line in smaps.splitlines())
    return sum(int(line[1]) for line in lines if line[0].startswith("Private_")) / 1024


def main() -> int:
    """Run the servers in turn, and print the table and the bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument(
        "--rests", type=int, default=3, help="runs in which the idle one is measured"
    )
    options = parser.parse_args()
    with _homes() as (new, used):
        servers = {
            "bare SDK": ([sys.executable, "-c", BARE], new),
            "ours": (SERVER, new),
            "ours, used": (SERVER, used),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in servers}
        for run in range(options.runs + 1):
            for name, (command, home) in servers.items():
                cost = cost_of(command, home, rests=0 < run <= options.rests)
                if run:  # The first run only fills the disk caches.
                    costs[name].append(cost)
        assert not list(new.rglob("state.db*")), "an idle server creates no state file"
    console = Console()
    console.print(_table(costs, options.runs))
    bare, *own = costs.values()
    broken = [line for runs in own for line in _broken(bare, runs)]
    console.print("\n".join(broken) or "All bounds hold.")
    return 1 if broken else 0


def _table(costs: dict[str, list[Cost]], runs: int) -> Table:
    table = Table(title=f"Process start, and the idle server: medians (minima) of {runs} runs")
    table.add_column("")
    for bound in BOUNDS:
        table.add_column(bound.what)
    for name, each in costs.items():
        cells = [_cell(_figures(bound, each)) for bound in BOUNDS]
        table.add_row(name, *cells)
    bare, *own = costs.items()
    for name, each in own:
        ratios = [_ratio(_figures(bound, bare[1]), _figures(bound, each)) for bound in BOUNDS]
        table.add_row(f"{name} / bare", *ratios)
    return table


def _figures(bound: Bound, costs: Sequence[Cost]) -> list[float]:
    return [figure for cost in costs if (figure := bound.figure(cost)) is not None]


def _cell(figures: list[float]) -> str:
    if not figures:
        return "not measured"
    median, least = statistics.median(figures), min(figures)
    return f"{median:.3f} ({least:.3f})" if median < 5 and median % 1 else f"{median:.4g}"


def _ratio(bare: list[float], own: list[float]) -> str:
    if not own:
        return ""
    median = statistics.median(own) / statistics.median(bare)
    return f"{median:.3f} ({min(own) / min(bare):.3f})"


def _broken(bare: Sequence[Cost], own: Sequence[Cost]) -> Iterator[str]:
    """Yield a line for each bound that the medians exceed."""
    for bound in BOUNDS:
        figures = _figures(bound, own)
        if not figures:
            continue
        limit = statistics.median(_figures(bound, bare)) * bound.ratio + bound.more
        figure = statistics.median(figures)
        if figure > limit:
            yield f"{bound.what}: {figure:.4g} is over {limit:.4g}"


if __name__ == "__main__":
    sys.exit(main())
