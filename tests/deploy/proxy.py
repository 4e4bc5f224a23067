"""The proxy as it is deployed: a real Caddy with the configuration in `deploy/`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

CADDYFILE = Path(__file__).parents[2] / "deploy" / "Caddyfile"

LOG = "caddy.log"

STARTS_WITHIN_SECONDS = 20.0


def caddy() -> str:
    """Return the program, from the wheel in the development requirements on Linux."""
    found = Path(sys.executable).parent / "caddy"
    if not found.exists():
        missing = "The proxy was NOT tried: there is no caddy beside this Python"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(found)


@contextmanager
def running_proxy(folder: Path, *replicas: str) -> Iterator[str]:
    """Run a proxy before two replicas (`host:port`); yield its address."""
    port = _free_port()
    variables = {f"REPLICA_{number}": each for number, each in enumerate(replicas, 1)}
    around = {
        **os.environ,
        "SITE": f"http://127.0.0.1:{port}",
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        **variables,
    }
    command = [caddy(), "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    said = folder / LOG
    with (
        said.open("wb") as log,
        subprocess.Popen(command, env=around, stdout=log, stderr=log) as process,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, said)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes], said: Path) -> None:
    give_up_at = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < give_up_at, said.read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
