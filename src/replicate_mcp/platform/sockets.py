"""Socket options, and the closing of sockets that a thread waits for."""

import socket
import struct
from pathlib import Path

import anyio

from replicate_mcp.platform.system import IS_LINUX, IS_WINDOWS

RESET_ON_CLOSE = struct.pack("hh" if IS_WINDOWS else "ii", 1, 0)
"""Value of SO_LINGER with which closing a socket discards unsent data and resets the connection."""

CLOSING_SECONDS = 1.0

TCP_TABLES = Path("/proc/net") if IS_LINUX else None
"""Linux's tables of TCP connections, with the user of each socket; None elsewhere."""


def listening_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Return a TCP socket that listens on an address.

    Raises:
        OSError: the address cannot be listened on.
        OverflowError: the port is out of range.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only with an explicit protocol; else small responses wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if not IS_WINDOWS:  # On Windows the option lets two programs listen on one port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def keepalive_options(idle: float, unacknowledged: float | None = None) -> dict[int, int]:
    """Return the TCP options that detect a dead connection.

    macOS calls the idle time TCP_KEEPALIVE. Only Linux can also limit how long sent data stays
    unacknowledged: elsewhere a request needs a timeout of its own.

    Args:
        idle: seconds without data after which three probes are sent, within the same time again.
        unacknowledged: on Linux, seconds after which unacknowledged data fails the connection;
            None for `idle`.
    """
    seconds = idle if unacknowledged is None else unacknowledged
    options: dict[int, int] = {}
    idle_option = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    if idle_option is not None:
        options[idle_option] = max(1, int(idle))
    if hasattr(socket, "TCP_KEEPINTVL"):
        options[socket.TCP_KEEPINTVL] = max(1, int(idle / 3))
    if hasattr(socket, "TCP_KEEPCNT"):
        options[socket.TCP_KEEPCNT] = 3
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        options[socket.TCP_USER_TIMEOUT] = int(seconds * 1000)
    return options


def keepalive_socket_options(seconds: float) -> list[tuple[int, int, int]]:
    """Return arguments of `setsockopt` with which a dead connection fails within `seconds`."""
    options = keepalive_options(seconds / 2, seconds).items()
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, option, value) for option, value in options),
    ]


def send_datagram(sender: socket.socket, address: tuple[str, int]) -> None:
    """Send an empty UDP datagram.

    On Windows `sendto` reports the failed delivery of an earlier datagram of the same socket.

    Raises:
        OSError: the datagram cannot be sent.
    """
    try:
        sender.sendto(b"", address)
    except ConnectionResetError:
        sender.sendto(b"", address)


async def close_datagram_socket(watched: socket.socket) -> None:
    """Close a bound, non-blocking UDP socket on loopback that `anyio.wait_readable` was used on.

    On Windows one of anyio's threads waits for the socket in `select`, even after the waiting task
    was cancelled. Closing the socket meanwhile would end that thread and with it all later waits;
    a datagram to itself makes the thread return first.
    """
    try:
        send_datagram(watched, watched.getsockname())
        with anyio.move_on_after(CLOSING_SECONDS, shield=True):
            await anyio.wait_readable(watched)
    except (OSError, anyio.BusyResourceError):
        # Still waited for, or unusable: on Windows it stays open until the process ends.
        if IS_WINDOWS:
            return
    watched.close()
