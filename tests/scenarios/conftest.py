"""Programs that share one account: each is a separate process over one shared state."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from backends.servers import KINDS, RunningServer, open_for_admission
from conftest import environment, settings_for
from fork_server import FORKABLE
from replicate_mcp.app.app import App
from replicate_mcp.simulator import Simulator, running_simulator_process

PROGRAM = """
import asyncio, json, sys
import replicate_mcp

tasks = json.loads(sys.stdin.readline())
replicate_mcp.list_global_semaphores()  # it is known to the others now
print("ready", flush=True)
sys.stdin.readline()
result = asyncio.run(replicate_mcp.generate_images(tasks))
print(result.model_dump_json(), flush=True)
"""


@dataclass
class Programs:
    """Starts programs that run one batch each, and ends them all at the end.

    Attributes:
        variables: the environment shared by the programs and the test's own app.
    """

    simulator: Simulator
    folder: Path
    variables: dict[str, str]
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, tasks: list[dict[str, Any]], *, before: str = "") -> subprocess.Popen[str]:
        """Start a program that waits to begin; it runs the code in `before` first."""
        import json

        process = subprocess.Popen(
            [sys.executable, "-c", FORKABLE + before + PROGRAM],
            env={**os.environ, **environment(self.simulator, self.folder), **self.variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        assert process.stdin is not None
        print(json.dumps(tasks), file=process.stdin, flush=True)
        return process

    def begin(self, *processes: subprocess.Popen[str]) -> None:
        """Let the programs begin once all are ready."""
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            print(file=process.stdin, flush=True)

    def app(self) -> AbstractAsyncContextManager[App]:
        """Return an app in this process, over the same state."""

        @asynccontextmanager
        async def running() -> Any:
            settings = settings_for(self.simulator, self.folder, **self.variables)
            async with App.running(settings) as app:
                yield app

        return running()

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


LEASE_SECONDS = 2.0
"""Of programs that share a Redis: after so long, one that was killed counts as gone."""


@pytest.fixture(params=["sqlite", *KINDS])
def programs_at(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], RunningServer]
) -> Iterator[Callable[..., Programs]]:
    """Return programs that share a limit and a state, with a simulator in its own process."""
    server = servers(request.param) if request.param in KINDS else None
    if server is not None:
        anyio.run(open_for_admission, server, tmp_path.name, "acme")
    with running_simulator_process(
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
    ) as simulator:
        made: list[Programs] = []

        def make(limit: int, *, lease: float = LEASE_SECONDS, **simulated: Any) -> Programs:
            simulator.configure(**simulated)
            variables = {"REPLICATE_CONCURRENT_LIMIT": str(limit)}
            if server is not None:
                variables["REPLICATE_MCP_BACKEND"] = server.url(tmp_path.name, lease=lease)
            made.append(Programs(simulator, tmp_path, variables))
            return made[-1]

        yield make
        for each in made:
            each.stop()
