"""A raw stdio client that sends arbitrary bytes."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GIVE_UP_SECONDS = 60.0

_CHUNK_BYTES = 1 << 20

PROGRAM = (sys.executable, "-m", "replicate_mcp")

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": "first",
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class StdioWire:
    """A server's stdin and stdout."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log
        self._read = b""
        self._pings = 0
        self._log_seen = 0

    def send(self, line: bytes) -> None:
        """Send a line, without a newline if it already has one."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        """Return the next message."""
        assert self.process.stdout is not None
        until = time.monotonic() + GIVE_UP_SECONDS
        read = bytearray(self._read)
        while b"\n" not in read[-_CHUNK_BYTES:]:
            assert time.monotonic() < until, "the server does not answer"
            if select.select([self.process.stdout], [], [], 1)[0]:
                more = os.read(self.process.stdout.fileno(), _CHUNK_BYTES)
                assert more, "the server has ended"
                read += more
        line, _, self._read = bytes(read).partition(b"\n")
        return json.loads(line.decode())

    def answers_to(self, line: bytes, count: int = 0) -> list[Any]:
        """Send a line and then a ping; return the messages received before the ping's response.

        Args:
            count: minimum number of messages to wait for, as a tool may respond after the ping.
        """
        self._pings += 1
        name = f"ping {self._pings}"
        self.send(line)
        self.send(json.dumps({"jsonrpc": "2.0", "id": name, "method": "ping"}).encode())
        answers: list[Any] = []
        is_alive = False
        while not is_alive or len(answers) < count:
            message = self.receive()
            if message.get("id") == name:
                is_alive = True
            else:
                answers.append(message)
        return answers

    def answer_to(self, line: bytes) -> Any:
        """Return the only response to a line."""
        (answer,) = self.answers_to(line, count=1)
        return answer

    def begin(self) -> None:
        """Perform the handshake."""
        self.send(json.dumps(INITIALIZE).encode())
        assert self.receive()["id"] == "first"
        self.send(json.dumps(INITIALIZED).encode())

    def log(self) -> str:
        """Return what the server has written to stderr since the last call."""
        with self._log.open("rb") as file:
            file.seek(self._log_seen)
            new = file.read()
        self._log_seen += len(new)
        return new.decode()


@contextmanager
def stdio_server(
    variables: Mapping[str, str], folder: Path, program: Sequence[str] = PROGRAM
) -> Iterator[StdioWire]:
    """Run a server with these settings while the block runs."""
    log = folder / "stderr"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **variables},
        ) as process,
    ):
        try:
            yield StdioWire(process, log)
        finally:
            process.kill()
