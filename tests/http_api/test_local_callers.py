"""Callers without credentials: which local programs may use the server's token."""

import json
import sys
from typing import Any

import httpx
import pytest

from fork_server import FORKABLE
from http_api.another_user import asked_by_another_user, hidden_proxy, require_another_user
from http_api.conftest import ADMIN_KEY, Serve, Server
from http_api.entry_points import WAYS
from http_api.raw_client import request, wire_to
from replicate_mcp.simulator import Simulator

OWN = {"authorization": "Bearer r8_other_1"}

COUNTED = """
import sys
def hear(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/net/tcp"):
        print("reads", arguments[0], file=sys.stderr, flush=True)
sys.addaudithook(hear)
from replicate_mcp.cli.main import main
sys.exit(main())
"""
"""The server, which says when it reads the system's table of sockets."""


def made(simulator: Simulator, account: str = "acme") -> int:
    return int(simulator.account(account)["created"])


@pytest.mark.parametrize("way", WAYS)
def test_loopback_requests_require_authentication_unless_local_is_enabled(
    serve: Serve, simulator: Simulator, way: str
) -> None:
    path, body, headers = WAYS[way](None)
    with serve(REPLICATE_MCP_LOCAL="") as server:
        refused = server.client.post(path, json=body, headers=headers)
        assert "Authentication required" in refused.text
        assert "serve --http --local" in refused.text
        assert "REPLICATE_MCP_ALLOW_ANONYMOUS=1" in refused.text
        assert made(simulator) == 0
        admin = server.client.post(
            path, json=body, headers=headers | {"x-admin-api-key": ADMIN_KEY}
        )
        assert "Authentication required" not in admin.text
        assert made(simulator) == 1
    with serve("--local", REPLICATE_MCP_LOCAL="") as server:
        server.client.post(path, json=body, headers=headers)
        assert made(simulator) == 2


@pytest.mark.parametrize("way", WAYS)
def test_local_program_of_another_user_is_rejected(
    server: Server, simulator: Simulator, way: str
) -> None:
    require_another_user()
    path, body, headers = WAYS[way](None)
    headers |= {"content-type": "application/json"}

    def ask(**more: str) -> Any:
        named = json.dumps(headers | {name.replace("_", "-"): each for name, each in more.items()})
        return json.loads(asked_by_another_user(server.url, path, json.dumps(body), named))

    _, refused = ask()
    assert "this connection belongs to another user" in refused
    assert made(simulator) == 0
    ask(**OWN)
    assert made(simulator, "other") == 1
    server.client.post(path, json=body, headers=headers)
    assert made(simulator) == 1


@pytest.mark.parametrize("way", WAYS)
def test_proxy_without_forwarding_headers_does_not_grant_the_server_token(
    server: Server, simulator: Simulator, way: str
) -> None:
    require_another_user()
    path, body, headers = WAYS[way](None)
    with hidden_proxy(server.url) as url, httpx.Client(base_url=url, timeout=60) as proxied_client:
        named = headers | {"host": "images.example.com"}
        refused = proxied_client.post(path, json=body, headers=named)
        assert "this connection belongs to another user" in refused.text
        assert made(simulator) == 0
        proxied_client.post(path, json=body, headers=named | OWN)
        assert made(simulator, "other") == 1
        assert (
            proxied_client.get("/batches", headers={"host": "images.example.com"}).status_code
            == 401
        )


@pytest.mark.skipif(sys.platform != "linux", reason="the tables are Linux's")
def test_socket_table_is_read_once_per_connection_and_only_when_needed(
    serve: Serve,
) -> None:
    with serve(program=(sys.executable, "-c", FORKABLE + COUNTED)) as server:
        for headers in (OWN, {"x-admin-api-key": ADMIN_KEY}, {"via": "x"}, {"host": "evil"}):
            server.get("/batches", headers=headers)
        assert server.get("/models").status_code == 200
        server.get("/mcp", headers=OWN)
        with wire_to(server.url) as wire:
            for _ in range(5):
                wire.send(request("GET", "/batches"))
                head = wire.headers()
                assert head.startswith("HTTP/1.1 200 ")
                wire.exactly(int(head.lower().partition("content-length: ")[2].split()[0]))
    tables = [line.split()[1] for line in server.log if line.startswith("reads")]
    assert sorted(set(tables)) == ["/proc/net/tcp", "/proc/net/tcp6"]
    assert len(tables) == 2


def test_host_name_without_a_dot_is_rejected(serve: Serve, simulator: Simulator) -> None:
    anonymous = {"REPLICATE_MCP_LOCAL": "", "REPLICATE_MCP_ALLOW_ANONYMOUS": "1"}
    body = {"prompt": "a red car"}
    with serve("--host", "0.0.0.0", **anonymous) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for host in ("wpad", "replicate-mcp:8000", "intranet.", "evil.example.com"):
            refused = httpx.post(f"{url}/generate", json=body, headers={"host": host})
            assert refused.status_code == 401
            assert "REPLICATE_MCP_ALLOWED_HOSTS" in refused.json()["error"]
        assert made(simulator) == 0
        for host in ("10.0.0.9:8000", "localhost", "[::1]:8000"):
            answer = httpx.post(f"{url}/generate", json=body, headers={"host": host})
            assert answer.status_code == 200
    with serve(
        "--host", "0.0.0.0", REPLICATE_MCP_ALLOWED_HOSTS="replicate-mcp", **anonymous
    ) as own:
        url = own.url.replace("0.0.0.0", "127.0.0.1")
        named = {"host": "replicate-mcp:8000"}
        assert httpx.post(f"{url}/generate", json=body, headers=named).status_code == 200


def test_health_hides_backend_details_from_unprivileged_clients(serve: Serve) -> None:
    place = "redis://:a-password@127.0.0.1:1/0"
    admin = {"x-admin-api-key": ADMIN_KEY}
    with serve(REPLICATE_MCP_BACKEND=place) as server:
        for path in ("/health", "/"):
            for headers in ({}, admin):  # A program on this machine, and the admin.
                response = server.get(path, headers=headers)
                assert response.status_code == 503
                assert "127.0.0.1:1" in response.json()["concurrency_status"]["backend"]
            unprivileged: list[dict[str, str]] = [{"via": "x"}, OWN, {"x-admin-api-key": "a guess"}]
            for headers in unprivileged:
                response = server.get(path, headers=headers)
                assert response.status_code == 503
                assert response.json()["concurrency_status"]["backend"] == "unavailable"
        refused = server.get("/batches", headers=OWN)
        assert (refused.status_code, refused.json()["error_code"]) == (503, "backend_unavailable")
        assert "Redis" not in refused.text
        assert "Redis at redis://" in server.get("/batches").json()["error"]
    anonymous = {"REPLICATE_MCP_LOCAL": "", "REPLICATE_MCP_ALLOW_ANONYMOUS": "1"}
    with serve(REPLICATE_MCP_BACKEND=place, **anonymous) as server:
        response = server.get("/health")
        assert response.json()["concurrency_status"]["backend"] == "unavailable"
    assert "a-password" not in "".join(server.log)
