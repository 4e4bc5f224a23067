"""Two hosts with Redis on a third, one of them cut off in the middle of a batch.

The hosts are network namespaces, which requires root and `ip`. Only Redis is reached over the
network between them; each host has the simulator on its own loopback.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from backends.servers import KINDS, RunningServer, open_for_admission
from conftest import environment
from replicate_mcp.simulator import Simulator, running_simulator_process
from replicate_mcp.tasks.result import BatchResult
from scenarios.conftest import PROGRAM

pytestmark = [pytest.mark.soak, pytest.mark.alone]

LIMIT = 6
LEASE = 2.0
TASKS = 40

NUMBERS = count(1)
"""Of hosts, and of their networks: none is used twice."""

FORWARD = """
import asyncio, sys
_, here, there = sys.argv

async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def forward(reader, writer):
    if there.isdigit():
        other = await asyncio.open_connection("127.0.0.1", int(there))
    else:
        other = await asyncio.open_unix_connection(there)
    await asyncio.gather(pipe(reader, other[1]), pipe(other[0], writer), return_exceptions=True)

async def main():
    if here.isdigit():
        server = await asyncio.start_server(forward, "127.0.0.1", int(here), backlog=512)
    else:
        server = await asyncio.start_unix_server(forward, here, backlog=512)
    print("ready", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """A host: a network namespace with a link to the host of Redis."""

    def __init__(self, number: int) -> None:
        self.name = f"replicate-mcp-{os.getpid()}-{number}"
        self._cable = f"rmcp{os.getpid() % 10_000}-{number}"
        self.redis_host = f"10.77.{number}.1"
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "cable", "netns", self.name)
        ip("addr", "add", f"{self.redis_host}/24", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        inside = ("netns", "exec", self.name, "ip")
        ip(*inside, "addr", "add", f"10.77.{number}.2/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip(*inside, "link", "set", device, "up")

    def pull_the_cable(self) -> None:
        ip("link", "set", self._cable, "down")

    def put_it_back(self) -> None:
        ip("link", "set", self._cable, "up")

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def remove(self) -> None:
        ip("link", "del", self._cable)  # Otherwise it exists until the last process there exits.
        ip("netns", "del", self.name)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        missing = "two hosts need root and `ip` (iproute2)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    made: list[Host] = []
    try:
        made += [Host(next(NUMBERS)) for _ in range(2)]
        yield made
    finally:
        for host in made:
            host.remove()


@pytest.fixture(params=KINDS)
def redis(
    request: pytest.FixtureRequest, hosts: list[Host], tmp_path: Path
) -> Iterator[RunningServer]:
    addresses = ["127.0.0.1", *(host.redis_host for host in hosts)]
    server = RunningServer(request.param, tmp_path, "--bind", *addresses, "--protected-mode", "no")
    anyio.run(open_for_admission, server, "hosts", "acme")
    yield server
    server.kill()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with running_simulator_process(
        predict_seconds="1-2",
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
    ) as running:
        yield running


@pytest.fixture
def reachable(hosts: list[Host], simulator: Simulator, tmp_path: Path) -> Iterator[None]:
    """Make the simulator reachable on each host's own loopback, at its port here."""
    port, gate = simulator.url.rpartition(":")[2], str(tmp_path / "gate")
    forwards = [
        subprocess.Popen(
            [sys.executable, "-c", FORWARD, gate, port], stdout=subprocess.PIPE, text=True
        )
    ]
    assert forwards[0].stdout is not None
    assert forwards[0].stdout.readline() == "ready\n"
    forwards += [host.start(sys.executable, "-c", FORWARD, port, gate) for host in hosts]
    for each in forwards[1:]:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    yield
    for each in forwards:
        each.kill()
        each.communicate()


async def test_partitioned_host_exceeds_no_limit_and_completes_after_reconnecting(
    hosts: list[Host], redis: RunningServer, simulator: Simulator, reachable: None, tmp_path: Path
) -> None:
    programs = []
    for number, host in enumerate(hosts):
        url = f"redis://{host.redis_host}:{redis.port}/0?prefix=hosts&lease={LEASE}"
        around = environment(simulator, tmp_path) | {
            "REPLICATE_MCP_BACKEND": url,
            "REPLICATE_CONCURRENT_LIMIT": str(LIMIT),
        }
        program = host.start(sys.executable, "-c", PROGRAM, **around)
        assert program.stdin is not None
        tasks = ", ".join(f'{{"prompt": "{number} {n}"}}' for n in range(TASKS))
        print(f"[{tasks}]", file=program.stdin, flush=True)
        programs.append(program)
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        print(file=program.stdin, flush=True)
    await simulator.reached(account="acme", created=16, within=30)
    hosts[0].pull_the_cable()
    await anyio.sleep(2 * LEASE)
    hosts[0].put_it_back()
    results = []
    for program in programs:
        with anyio.fail_after(120):
            out, _ = await anyio.to_thread.run_sync(program.communicate, abandon_on_cancel=True)
        results.append(BatchResult.model_validate_json(out))
    cut_off, other = results
    assert other.successful_count == TASKS
    assert cut_off.successful_count + cut_off.failed_count == TASKS
    assert {row.error_code for row in cut_off.failed_results} <= {"interrupted"}
    delivered = [row.prediction_id for each in results for row in each.successful_results]
    assert sorted(delivered) == sorted(p["id"] for p in simulator.predictions("acme"))
    assert simulator.account("acme")["max_in_flight"] <= LIMIT
