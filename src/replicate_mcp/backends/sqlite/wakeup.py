"""Wake-ups between processes of a machine, by datagrams on loopback."""

import contextlib
import socket
from collections.abc import Iterable

import anyio

from replicate_mcp.platform.sockets import close_datagram_socket, send_datagram

WAKEUPS_PER_SECOND = 50.0
WAKEUP_BURST = 200.0
"""Rate and burst of wake-ups that are delivered without a delay: any local user can send datagrams,
and each wake-up costs a transaction. Normal work stays below; beyond it, one wake-up stands for all
that arrive within 20 ms."""

MAX_DATAGRAMS_READ = 1_000
"""Maximum number of datagrams to read at once: in a flood, the next arrives before the last is
read."""


class Doorbell:
    """A process's socket for wake-ups: other processes ring it, and its owner waits for a ring.

    A ring carries no data and is only a hint: the owner checks the file itself, so a lost or forged
    datagram is harmless, and the cost of a flood is bounded.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self._tokens = WAKEUP_BURST
        self._refilled_at = 0.0

    @property
    def port(self) -> int:
        """The port on loopback that others ring."""
        return int(self._socket.getsockname()[1])

    def ring(self, ports: Iterable[int]) -> None:
        """Wake the owners of these ports; ignore ports that are closed."""
        for port in ports:
            with contextlib.suppress(OSError):
                send_datagram(self._socket, ("127.0.0.1", port))

    async def rung(self) -> None:
        """Wait for the next ring; several pending rings count as one."""
        await anyio.wait_readable(self._socket)
        if (seconds := self._spend()) > 0:
            await anyio.sleep(seconds)
        with contextlib.suppress(OSError):
            for _ in range(MAX_DATAGRAMS_READ):
                self._socket.recvfrom(16)

    def _spend(self) -> float:
        """Take a token, and return the seconds by which its wake-up is delayed."""
        now = anyio.current_time()
        earned = (now - self._refilled_at) * WAKEUPS_PER_SECOND
        self._tokens = min(WAKEUP_BURST, self._tokens + earned) - 1
        self._refilled_at = now
        return max(0.0, -self._tokens / WAKEUPS_PER_SECOND)

    async def close(self) -> None:
        """Close the socket once no thread of the event loop waits for it."""
        await close_datagram_socket(self._socket)
