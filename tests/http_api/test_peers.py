"""The owner of a connection's peer socket, from the system's own tables."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from replicate_mcp.http_api.peers import Endpoint, socket_users

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tables are Linux's")

ME = os.geteuid() if sys.platform == "linux" else 0

ROW = "   0: {local} {remote} 01 00000000:00000000 00:00000000 00000000 {user} 0 {inode} 1\n"


@contextmanager
def connected(family: socket.AddressFamily, host: str) -> Iterator[tuple[socket.socket, Endpoint]]:
    """Return a client socket connected to a listener at `host`, and the listener's endpoint."""
    with socket.create_server((host, 0), family=family) as listener, ExitStack() as stack:
        port: int = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection((host, port)))
        stack.enter_context(listener.accept()[0])
        yield client, (ip_address(host), port)


def endpoint(client: socket.socket) -> Endpoint:
    name, port, *_ = client.getsockname()
    return ip_address(name), port


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_peer_user_of_a_connection_is_the_one_who_opened_it(
    family: socket.AddressFamily, host: str
) -> None:
    if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").read_bytes():
        pytest.skip("this machine has no IPv6")
    with connected(family, host) as (client, listener):
        own = endpoint(client)
        assert socket_users(own, listener) == {ME}
        assert socket_users(own, (listener[0], listener[1] ^ 1)) == set()
        assert socket_users((own[0], own[1] ^ 1), listener) == set()


def test_ipv6_socket_connected_to_an_ipv4_address_is_found() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET6) as client,
    ):
        port = listener.getsockname()[1]
        try:
            client.connect(("::ffff:127.0.0.1", port))
        except OSError:
            pytest.skip("this machine has no IPv6")
        with listener.accept()[0]:
            own = ip_address("127.0.0.1"), client.getsockname()[1]
            assert socket_users(own, (ip_address("127.0.0.1"), port)) == {ME}


def test_closed_socket_is_not_attributed_to_root() -> None:
    with connected(socket.AF_INET, "127.0.0.1") as (client, listener):
        own = endpoint(client)
        client.close()  # The table still lists it, as owned by user 0.
        assert socket_users(own, listener) == set()


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a table with rows in the system's format."""

    def write(*rows: tuple[str, str, int, int]) -> Path:
        text = "  sl  local_address rem_address   st\n" + "".join(
            ROW.format(local=local, remote=remote, user=user, inode=inode)
            for local, remote, user, inode in rows
        )
        (tmp_path / "tcp").write_text(text)
        return tmp_path

    return write


@pytest.mark.skipif(sys.byteorder != "little", reason="rows of a little-endian machine")
def test_only_the_row_of_this_connection_is_used(table: Callable[..., Path]) -> None:
    client, server = (ip_address("127.0.0.1"), 0xD431), (ip_address("127.0.0.1"), 8000)
    folder = table(
        ("0100007F:1F40", "0100007F:D431", 7, 71),  # The server's own end.
        ("0100007F:D431", "0100007F:1F41", 8, 81),
        ("0200007F:D431", "0100007F:1F40", 9, 91),
        ("0100007F:D431", "0100007F:1F40", 1000, 101),
    )
    assert socket_users(client, server, folder) == {1000}
    assert socket_users(server, client, folder) == {7}
    assert socket_users(client, server, folder / "nowhere") == set()
