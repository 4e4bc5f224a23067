"""Runners of the simulator: in the foreground, in a thread, or in a separate process."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from replicate_mcp.platform.sockets import listening_socket
from replicate_mcp.simulator.client import Simulator
from replicate_mcp.simulator.settings import SimulatorSettings

_BACKLOG = 4096
_START_SECONDS = 30
_STOP_SECONDS = 10


def run(
    settings: SimulatorSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[str], None] = print,
    exit_on_stdin_close: bool = False,
) -> None:
    """Serve until interrupted; `on_ready` is called with the URL once requests are served."""
    from replicate_mcp.simulator.uvicorn_server import Service

    with listening_socket(host, port, _BACKLOG) as listener:
        service = Service(settings, listener, on_ready)
        if exit_on_stdin_close:
            threading.Thread(target=_stop_with_stdin, args=(service.stop,), daemon=True).start()
        asyncio.run(service.serve())


@contextmanager
def running_simulator(
    settings: SimulatorSettings | None = None, *, port: int = 0, **changes: object
) -> Iterator[Simulator]:
    """Run the simulator in a thread, on a free loopback port unless `port` is set."""
    from replicate_mcp.simulator.uvicorn_server import Service

    settings = (settings or SimulatorSettings()).changed(changes)
    ready = threading.Event()
    with listening_socket("127.0.0.1", port, _BACKLOG) as listener:
        service = Service(settings, listener, lambda _url: ready.set())
        thread = threading.Thread(target=lambda: asyncio.run(service.serve()), name="simulator")
        thread.start()
        try:
            if not ready.wait(_START_SECONDS):
                raise RuntimeError("The simulator did not start.")
            yield Simulator(service.url)
        finally:
            service.stop()
            thread.join(_STOP_SECONDS)


@contextmanager
def running_simulator_process(
    settings: SimulatorSettings | None = None, *, port: int = 0, **changes: object
) -> Iterator[Simulator]:
    """Run the simulator in a separate process, so that it uses none of the caller's CPU time."""
    settings = (settings or SimulatorSettings()).changed(changes)
    command = [
        *(sys.executable, "-P", "-m", "replicate_mcp.simulator", "--port", str(port)),
        *("--json", "--exit-on-stdin-close", "--settings", settings.model_dump_json()),
    ]
    process = subprocess.Popen(  # noqa: S603 - starts this program itself
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("The simulator did not start; what it said is on stderr.")
        try:
            yield Simulator(json.loads(line)["url"], process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _stop_with_stdin(stop: Callable[[], None]) -> None:
    # Unbuffered: this thread would hold the buffered reader's lock when the interpreter exits.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop()
