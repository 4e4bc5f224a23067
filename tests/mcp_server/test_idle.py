"""An idle server costs next to nothing, and still recovers what dead processes left."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from conftest import AppFactory, environment
from fork_server import FORKABLE
from mcp_server.stdio_wire import GIVE_UP_SECONDS, StdioWire, stdio_server
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.simulator import Simulator

LIST_TOOLS = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).encode()

IDLE = """
import gc, sys
from pathlib import Path
from replicate_mcp.app import app
from replicate_mcp.cli.main import main
from replicate_mcp.mcp_server import server

server.PAUSE_SECONDS, server.MAX_EXCHANGE_SECONDS = {pause}, {longest}
app.ORPHANS_POLL_SECONDS = 0.05
exists = Path.exists

def noted(path):
    if path.name == "state.db":
        print("polled", file=sys.stderr, flush=True)
    return exists(path)

Path.exists = noted
main(["serve"])
print("modules", *sys.modules, file=sys.stderr)
print("collects", gc.isenabled(), gc.get_freeze_count() > 50_000, file=sys.stderr)
"""

HEAVY = {
    "replicate", "httpx", "httpcore", "h11", "fastapi", "redis", "filelock", "numpy", "PIL",
    "jsonschema", "jsonschema_rs", "ctypes", "argparse", "difflib", "replicate_mcp.tasks.task",
    "replicate_mcp.app.composition", "replicate_mcp.backends.sqlite.backend",
    "replicate_mcp.batches.runner", "replicate_mcp.replicate_api.gateway",
}  # fmt: skip
"""Modules that only calls and recovery need."""

BATCH = """
import asyncio, sys
from replicate_mcp import generate_images
asyncio.run(generate_images([{"prompt": p} for p in sys.argv[1:]]))
"""


@pytest.fixture(autouse=True)
def without_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset a variable of the tests, which the server would name as an unknown setting."""
    monkeypatch.delenv("REPLICATE_OPENAPI", raising=False)


@contextlib.contextmanager
def idle_server(
    simulator: Simulator, folder: Path, *, pause: float = 0.1, longest: float = 60
) -> Iterator[StdioWire]:
    """Run a server that answers the first exchange of a host."""
    program = IDLE.format(pause=pause, longest=longest)
    variables = environment(simulator, folder)
    with stdio_server(variables, folder, (sys.executable, "-c", program)) as wire:
        wire.begin()
        assert wire.answer_to(LIST_TOOLS)["result"]["tools"]
        yield wire


def wait_for_polls(wire: StdioWire, folder: Path, count: int = 3) -> None:
    """Wait until the server has polled for work of dead processes."""
    until = time.monotonic() + GIVE_UP_SECONDS
    while (folder / "stderr").read_text().count("polled") < count:
        assert time.monotonic() < until, wire.log()
        time.sleep(0.02)


def said_at_the_end(wire: StdioWire, word: str) -> list[str]:
    """End the server by closing its stdin, and return the words of a line that it wrote then."""
    assert wire.process.stdin is not None
    wire.process.stdin.close()
    assert wire.process.wait(GIVE_UP_SECONDS) == 0
    (line,) = [line for line in wire.log().splitlines() if line.startswith(f"{word} ")]
    return line.split()[1:]


def results(folder: Path) -> int:
    """Return how many results the state file has."""
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as file:
        return int(file.execute("SELECT count(*) FROM result").fetchone()[0])


async def delivered(folder: Path, count: int) -> None:
    with anyio.fail_after(GIVE_UP_SECONDS):
        while await anyio.to_thread.run_sync(results, folder) < count:
            await anyio.sleep(0.05)


async def left_running(app_with: AppFactory, simulator: Simulator) -> None:
    """Leave two running predictions of an app that is closed."""
    simulator.configure(predict_seconds=1)
    async with app_with() as app:
        await app.batches.start(app.caller(), BatchRequest([{"prompt": "a"}, {"prompt": "b"}]))
        await simulator.reached(account="acme", in_flight=2)


def test_idle_server_loads_opens_and_requests_nothing(simulator: Simulator, tmp_path: Path) -> None:
    with idle_server(simulator, tmp_path) as wire:
        wait_for_polls(wire, tmp_path)
        assert not list(tmp_path.glob("state.db*"))
        modules = set(said_at_the_end(wire, "modules"))
    assert modules & {*HEAVY, "sqlite3"} == set()
    assert "replicate_mcp.mcp_server.server" in modules
    assert simulator.stats()["requests"] == {}


async def test_idle_server_only_reads_a_state_file_without_orphans(
    simulator: Simulator, tmp_path: Path
) -> None:
    await (await SqliteBackend.open(str(tmp_path / "state.db"))).close()
    before = (tmp_path / "state.db").read_bytes()
    with idle_server(simulator, tmp_path) as wire:
        wait_for_polls(wire, tmp_path)
        modules = set(said_at_the_end(wire, "modules"))
    assert modules & HEAVY == set()
    assert "sqlite3" in modules
    assert (tmp_path / "state.db").read_bytes() == before
    assert not list(tmp_path.glob("*.lock"))
    assert simulator.stats()["requests"] == {}


async def test_idle_server_recovers_what_earlier_processes_left(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    await left_running(app_with, simulator)
    with idle_server(simulator, tmp_path):
        await delivered(tmp_path, 2)
    assert simulator.account("acme")["created"] == 2


async def test_idle_server_recovers_what_a_process_leaves_later(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=2)
    around = {**os.environ, **environment(simulator, tmp_path)}
    with idle_server(simulator, tmp_path) as wire:
        wait_for_polls(wire, tmp_path)
        with subprocess.Popen(
            [sys.executable, "-c", FORKABLE + BATCH, "a", "b"], env=around
        ) as other:
            await simulator.reached(account="acme", in_flight=2)
            other.kill()
        await delivered(tmp_path, 2)
    assert simulator.account("acme")["created"] == 2


async def test_recovery_does_not_delay_the_first_exchange(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    await left_running(app_with, simulator)
    asked = simulator.account("acme")["other_calls"]
    with idle_server(simulator, tmp_path, pause=3_600, longest=3_600) as wire:
        modules = set(said_at_the_end(wire, "modules"))
    assert modules & HEAVY == set()
    assert simulator.account("acme")["other_calls"] == asked


async def test_recovery_begins_although_the_client_never_pauses(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    await left_running(app_with, simulator)
    with idle_server(simulator, tmp_path, pause=3_600, longest=0.1):
        await delivered(tmp_path, 2)


def test_garbage_is_collected_again_once_the_server_runs(
    simulator: Simulator, tmp_path: Path
) -> None:
    with idle_server(simulator, tmp_path) as wire:
        assert said_at_the_end(wire, "collects") == ["True", "True"]


@pytest.mark.parametrize("backend", ["memory", "not a backend"])
def test_idle_server_without_a_shared_state_polls_for_nothing(
    simulator: Simulator, tmp_path: Path, backend: str
) -> None:
    program = IDLE.format(pause=0, longest=0)
    variables = environment(simulator, tmp_path) | {"REPLICATE_MCP_BACKEND": backend}
    with stdio_server(variables, tmp_path, (sys.executable, "-c", program)) as wire:
        wire.begin()
        assert wire.answer_to(LIST_TOOLS)["result"]["tools"]
        modules = set(said_at_the_end(wire, "modules"))
    assert modules & {*HEAVY, "sqlite3"} == set()
