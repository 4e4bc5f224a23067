"""Waking another process on this machine: a datagram on loopback that says "look again"."""

import contextlib
import socket
from collections.abc import Iterable

import anyio


class Doorbell:
    """A process's end: others ring it, and its owner waits for that.

    A ring carries nothing and is only a hint: the one who hears it looks for itself, so a lost
    or a foreign datagram does no harm.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        """Where it can be rung, on loopback."""
        return int(self._socket.getsockname()[1])

    def ring(self, ports: Iterable[int]) -> None:
        """Wake the owners of those doorbells; one that is gone is passed over."""
        for port in ports:
            with contextlib.suppress(OSError):
                self._socket.sendto(b"", ("127.0.0.1", port))

    async def rung(self) -> None:
        """Wait for the next ring; several at once count as one."""
        await anyio.wait_readable(self._socket)
        with contextlib.suppress(OSError):
            while True:
                self._socket.recvfrom(16)

    def close(self) -> None:
        """Be rung no more."""
        self._socket.close()
