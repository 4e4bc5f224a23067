"""The other end of a connection, and the user that owns its socket."""

import asyncio
import ipaddress
import os
import sys
from functools import cached_property
from pathlib import Path

from replicate_mcp.platform.sockets import TCP_TABLES

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PEER = "peer"
"""Key of a scope's state with the other end of the request's connection."""

_READS = 2
"""Times that the tables are read: a table that changes during a read can lack a row."""


class Peer:
    """The other end of one connection; the system's tables are read once, on first use."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._peer = transport.get_extra_info("peername")
        self._own = transport.get_extra_info("sockname")

    @cached_property
    def is_of_own_user(self) -> bool:
        """Whether the peer's socket belongs to the user that this process runs as.

        Only Linux has the tables; elsewhere every peer counts as this user's.
        """
        if TCP_TABLES is None:
            return True
        try:
            peer, own = _endpoint(self._peer), _endpoint(self._own)
        except (TypeError, ValueError, IndexError):
            return False
        return any(os.geteuid() in socket_users(peer, own) for _ in range(_READS))


Endpoint = tuple[_Address, int]


def socket_users(
    local: Endpoint, remote: Endpoint, tables: Path = TCP_TABLES or Path()
) -> set[int]:
    """Return the users that own this machine's sockets from `local` to `remote`.

    A socket that its process has closed has no owner any more: the table shows user 0 for it.
    """
    found = set()
    for name, bits in (("tcp", 32), ("tcp6", 128)):
        try:
            table = (tables / name).read_bytes()
        except OSError:
            continue
        start = table.find(f" {_written(local, bits)} {_written(remote, bits)} ".encode())
        if start < 0:
            continue
        row = table[start:].partition(b"\n")[0].split()
        user, inode = int(row[6]), int(row[8])
        if inode:
            found.add(user)
    return found


def _endpoint(name: tuple[str, int]) -> Endpoint:
    """Return a socket's address and port; IPv4-mapped IPv6 addresses become IPv4."""
    address = ipaddress.ip_address(name[0].partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address, name[1]


def _written(endpoint: Endpoint, bits: int) -> str:
    """Return an endpoint as written in the tables: 4-byte words in the machine's byte order."""
    address, port = endpoint
    packed = address.packed
    if bits == 128 and address.version == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    written = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{written}:{port:04X}"
