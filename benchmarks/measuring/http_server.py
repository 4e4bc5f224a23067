"""HTTP server in a separate process, connected to a simulator."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.scenario import RATE

STARTS_WITHIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class HttpServer:
    """Address and process id of a server."""

    address: str
    pid: int


@contextmanager
def running_http_server(
    base_url: str, *, account: str, limit: int, backend: str | None = None
) -> Iterator[HttpServer]:
    """Serve until the end of the block; without `backend`, with a new state file."""
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "REPLICATE_API_TOKEN": f"r8_{account}_1",
            "REPLICATE_BASE_URL": base_url,
            "REPLICATE_MCP_BACKEND": backend or f"sqlite:///{Path(folder, 'state.db')}",
            "REPLICATE_CONCURRENT_LIMIT": str(limit),
            "REPLICATE_REQUESTS_PER_MINUTE": str(RATE),
        }
        command = [sys.executable, "-m", "replicate_mcp", "serve", "--http", "--local"]
        command += ["--port", "0"]
        said = Path(folder, "said")
        # A file, since a pipe that is not read could block the server.
        with (
            said.open("wb") as file,
            subprocess.Popen(command, env={**os.environ, **own}, stderr=file) as process,
        ):
            try:
                yield HttpServer(_address(process, said), process.pid)
            finally:
                process.terminate()


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    give_up_at = time.monotonic() + STARTS_WITHIN_SECONDS
    while not (found := re.search(r"http://\S+", said.read_text())):
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"The server did not start: {said.read_text()}")
        time.sleep(0.05)
    return found[0]
