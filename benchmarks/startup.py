"""Measure the time from process start to the response to `initialize`, beside a bare SDK server.

Reports medians of interleaved runs. Exits with 1 if this server takes more than 1.10 times as long.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

BARE = """
from mcp.server.mcpserver import MCPServer
MCPServer("bare").run("stdio")
"""

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    },
}


def seconds_to_answer(command: list[str]) -> float:
    """Start a server, send `initialize`, stop it, and return the seconds until its response."""
    own = {"REPLICATE_API_TOKEN": "r8_bench", "REPLICATE_MCP_BACKEND": "memory"}
    environment = {**os.environ, **own}
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(INITIALIZE) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        took = time.perf_counter() - started
        server.stdin.close()
        server.wait(10)
    assert answer["result"]["serverInfo"]
    return took


def main() -> int:
    """Run both servers in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    commands = {
        "bare SDK server": [sys.executable, "-c", BARE],
        "replicate-mcp": [sys.executable, "-m", "replicate_mcp", "serve"],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(options.runs + 1):
        for name, command in commands.items():
            seconds = seconds_to_answer(command)
            if run:  # The first run only fills the disk caches.
                took[name].append(seconds)
    medians = {name: statistics.median(times) for name, times in took.items()}
    table = Table(title=f"Process start to the answer to initialize, {options.runs} runs")
    for column in ("", "median s", "fastest s"):
        table.add_column(column)
    for name, times in took.items():
        table.add_row(name, f"{medians[name]:.3f}", f"{min(times):.3f}")
    ratio = medians["replicate-mcp"] / medians["bare SDK server"]
    console = Console()
    console.print(table)
    console.print(f"replicate-mcp / bare: {ratio:.3f}")
    return 0 if ratio <= 1.10 else 1


if __name__ == "__main__":
    sys.exit(main())
