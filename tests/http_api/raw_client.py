"""A client without manners: it sends what bytes it likes, when it likes."""

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
    """One connection."""

    socket: socket.socket

    def send(self, text: str | bytes) -> None:
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def drip(self, piece: str, every: float = 0.1) -> None:
        """Send a little again and again, until there is an answer or an end."""
        until = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < until:
            if select.select([self.socket], [], [], every)[0]:
                return
            self.send(piece)
        raise AssertionError("the server goes on waiting")

    def headers(self) -> str:
        """What is answered, until the headers' end; nothing where the connection was closed."""
        read = b""
        while b"\r\n\r\n" not in read:
            more = self.socket.recv(1)
            if not more:
                break
            read += more
        return read.decode()

    def rest(self) -> str:
        """All that is answered, until the connection is closed."""
        read = b""
        while more := self.socket.recv(65_536):
            read += more
        return read.decode()

    def exactly(self, size: int) -> bytes:
        """So many bytes of what is answered."""
        read = b""
        while len(read) < size and (more := self.socket.recv(size - len(read))):
            read += more
        return read

    def was_cut(self, *, while_reading: int = 0) -> bool:
        """Whether the connection is reset, while so little of what is sent is read at a time."""
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
    """A connection to a server, for as long as the block lasts; from a loopback address."""
    parts = urlsplit(url)
    with socket.socket() as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            # And the system holds little for it on its way: it goes by the size of segments.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500)
        connection.settimeout(GIVE_UP_SECONDS)
        connection.bind((source, 0))
        connection.connect((parts.hostname, parts.port))
        yield Wire(connection)


def request(method: str, path: str, **headers: str) -> str:
    """A request's head."""
    named = {"host": "127.0.0.1", **{n.replace("_", "-"): v for n, v in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines) + "\r\n\r\n"


def first_answered(*wires: Wire) -> list[Wire]:
    """Those to which an answer has come, once there is any."""
    ready, _, _ = select.select([wire.socket for wire in wires], [], [], GIVE_UP_SECONDS)
    return [wire for wire in wires if wire.socket in ready]
