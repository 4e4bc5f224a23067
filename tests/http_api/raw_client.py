"""A raw client that sends arbitrary bytes at arbitrary times."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

GIVE_UP_SECONDS = 30.0


@dataclass
class Wire:
    """A connection to the server."""

    socket: socket.socket

    def send(self, text: str | bytes) -> None:
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def drip(self, piece: str, every: float = 0.1) -> None:
        """Send a little at a time until there is a response or the connection closes."""
        until = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < until:
            if select.select([self.socket], [], [], every)[0]:
                return
            self.send(piece)
        raise AssertionError("the server goes on waiting")

    def headers(self) -> str:
        """Read the response up to the end of its headers; empty if the connection was closed."""
        read = b""
        while b"\r\n\r\n" not in read:
            more = self.socket.recv(1)
            if not more:
                break
            read += more
        return read.decode()

    def rest(self) -> str:
        """Read the rest of the response until the connection is closed."""
        read = b""
        while more := self.socket.recv(65_536):
            read += more
        return read.decode()

    def exactly(self, size: int) -> bytes:
        """Read exactly `size` bytes of the response."""
        read = b""
        while len(read) < size and (more := self.socket.recv(size - len(read))):
            read += more
        return read

    def was_cut(self, *, while_reading: int = 0) -> bool:
        """Return whether the connection is reset while its response is read very slowly."""
        poll = select.poll()
        poll.register(self.socket, select.POLLERR | select.POLLHUP)
        until = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < until:
            if poll.poll(100):
                return True
            self.socket.recv(while_reading)
        return False


@contextmanager
def wire_to(
    url: str, *, receive_buffer: int | None = None, source: str = "127.0.0.1"
) -> Iterator[Wire]:
    """Connect to a server from a loopback address while the block runs."""
    parts = urlsplit(url)
    with socket.socket() as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            # Small segments keep the system's buffers for the connection small.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500)
        connection.settimeout(GIVE_UP_SECONDS)
        connection.bind((source, 0))
        connection.connect((parts.hostname, parts.port))
        yield Wire(connection)


def request(method: str, path: str, **headers: str) -> str:
    """Return a request's head."""
    named = {"host": "127.0.0.1", **{n.replace("_", "-"): v for n, v in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines) + "\r\n\r\n"


def wires_with_response(*wires: Wire) -> list[Wire]:
    """Wait until a connection has a response; return all that have one."""
    ready, _, _ = select.select([wire.socket for wire in wires], [], [], GIVE_UP_SECONDS)
    return [wire for wire in wires if wire.socket in ready]
