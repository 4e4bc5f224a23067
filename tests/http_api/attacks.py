"""Many concurrent clients, and one beside them that measures the response time of `/health`."""

import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from http_api.conftest import Server

MAX_HEALTH_SECONDS = 1.0

_CHUNK_BYTES = 256 * 1024

_PROBER = """
import http.client, json, sys, threading, time

host, port, pid = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def waited():  # Seconds for which the two processes were runnable, and others had the CPUs.
    total = 0.0
    for process in ("self", pid):
        try:
            with open(f"/proc/{process}/schedstat") as file:
                total += int(file.read().split()[1]) / 1e9
        except (OSError, IndexError):
            pass
    return total

stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
longest, probes = 0.0, 0
while not (stop.is_set() and probes):
    before, began = waited(), time.monotonic()
    connection = http.client.HTTPConnection(host, port, timeout=120)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    took = time.monotonic() - began - (waited() - before)
    longest, probes = max(longest, took), probes + 1
    if probes == 1:
        print("ready", flush=True)
    stop.wait(0.05)
print(json.dumps(longest))
"""


@contextmanager
def health_in_time(server: Server) -> Iterator[None]:
    """Request `/health` repeatedly while the block runs: each response has to arrive within 1 s.

    Time for which other programs occupy the CPUs is excluded where the system reports it.
    """
    parts = urlsplit(server.url)
    arguments = [str(parts.hostname), str(parts.port), str(server.process.pid)]
    with subprocess.Popen(
        [sys.executable, "-S", "-c", _PROBER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as prober:
        assert prober.stdin is not None
        assert prober.stdout is not None
        try:
            assert prober.stdout.readline() == "ready\n"
            yield
            prober.stdin.close()
            longest = json.loads(prober.stdout.read())
        finally:
            prober.kill()
    assert longest <= MAX_HEALTH_SECONDS, f"/health took {longest:.2f} s"


@dataclass
class Answer:
    """Status and length in bytes of a response; 0 if the connection was closed."""

    head: bytearray = field(default_factory=bytearray)
    length: int = 0

    @property
    def status(self) -> int:
        """Return the status; 0 without a response."""
        return int(self.head.split(b" ")[1]) if b" " in self.head else 0


def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return a request's head and body; the connection closes after the response."""
    lines = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode(), body


def get(path: str, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return the head of a request without a body."""
    lines = {"host": "127.0.0.1", "connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode(), b""


def send_concurrently(
    server: Server, requests: Sequence[tuple[bytes, bytes]], within: float = 120
) -> list[Answer]:
    """Send all requests concurrently, each on its own connection, and read all responses."""
    parts = urlsplit(server.url)
    answers = []
    with selectors.DefaultSelector() as selector:
        for head, body in requests:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((parts.hostname, parts.port))
            answers.append(Answer())
            left = [memoryview(head), memoryview(body)]
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
            selector.register(connection, events, (answers[-1], left))
        until = time.monotonic() + within
        while open_connections := selector.get_map():
            assert time.monotonic() < until, f"{len(open_connections)} are not answered"
            for key, events in selector.select(1):
                connection = key.fileobj  # type: ignore[assignment]
                answer, left = key.data
                if events & selectors.EVENT_WRITE and not _send(connection, left):
                    selector.modify(connection, selectors.EVENT_READ, key.data)
                if events & selectors.EVENT_READ and not _receive(connection, answer):
                    selector.unregister(connection)
                    connection.close()
    return answers


def _send(connection: socket.socket, left: list[memoryview]) -> bool:
    """Send a piece; return whether more remains."""
    while left and not left[0]:
        left.pop(0)
    if left:
        try:
            left[0] = left[0][connection.send(left[0][:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return True
        except ConnectionError:  # The request was rejected, and the rest is not read.
            left.clear()
    return bool(left)


def _receive(connection: socket.socket, answer: Answer) -> bool:
    """Receive a piece; return whether there may be more."""
    try:
        piece = connection.recv(_CHUNK_BYTES)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    if len(answer.head) < 100:
        answer.head += piece[:100]
    answer.length += len(piece)
    return bool(piece)


def memory_of(pid: int) -> int | None:
    """Return the resident bytes of a process; None where the system does not report them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
