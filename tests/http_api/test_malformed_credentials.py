"""Requests crafted to be taken for another caller's: smuggled, duplicated, folded or guessed."""

import json
from itertools import product
from typing import Any

import pytest

from http_api.conftest import ADMIN_KEY, Serve, Server
from http_api.entry_points import mcp, rest
from http_api.raw_client import request, wire_to
from replicate_mcp.refused_credentials import MAX_REFUSED, WINDOW_SECONDS
from replicate_mcp.simulator import Simulator

OWN, OTHER = "r8_other_1", "r8_third_1"

UNREADABLE = ("http://[::1", "http://[", "//[x]", "http://a\u00ff[", "http://[v1.x]/", "[::1", "]")
"""What Python's `urlsplit` refuses, or nearly."""


HOLDING_ADDRESSES = ("origin", "forwarded", "x-forwarded-host", "host", "referer")


def test_malformed_address_headers_never_get_a_500(server: Server, simulator: Simulator) -> None:
    ways = [rest(None), mcp(None), ("/batches", None, {}), ("/", None, {}), ("/sse", None, {})]
    for name, value, (path, body, headers) in product(HOLDING_ADDRESSES, UNREADABLE, ways):
        if path == "/sse" and name not in ("host", "origin"):
            continue  # Opening a stream does not depend on it.
        named = [(each.encode(), found.encode()) for each, found in headers.items()]
        named.append((name.encode(), value.encode("latin-1")))
        for method in ("POST" if body else "GET", "OPTIONS"):
            answer = server.client.request(method, path, headers=named, json=body)
            assert answer.status_code < 500, (method, path, name, value)
        if name != "referer":
            assert simulator.account("acme")["created"] == 0
    assert not [line for line in server.log if "Traceback" in line]


BROKEN_CREDENTIALS: tuple[Any, ...] = (
    None, "", OWN, 7, True, [], [OWN], {}, {"replicate_api_token": None},
    {"replicate_api_token": ""}, {"replicate_api_token": " "}, {"replicate_api_token": 7},
    {"replicate_api_token": [OWN]}, {"replicate_api_token": {}}, {"token": OWN},
)  # fmt: skip


def test_malformed_credentials_never_fall_back_to_the_server_token(
    server: Server, simulator: Simulator
) -> None:
    for broken in BROKEN_CREDENTIALS:
        path, body, headers = mcp("r8_x")
        body["params"]["_meta"]["replicate-mcp/credentials"] = broken
        answer = server.client.post(path, json=body, headers=headers)
        assert "empty or malformed" in answer.text, broken
        for account in ("acme", "other"):
            assert simulator.account(account)["creations_seen"] == 0, broken
    path, body, headers = mcp(None)
    assert '"successful_count":1' in server.client.post(path, json=body, headers=headers).text


def doubled(name: str, *values: str) -> str:
    """Return a request's head in which a header is repeated."""
    return request("GET", "/status", connection="close").removesuffix("\r\n") + "".join(
        f"{name}: {value}\r\n" for value in values
    )


MALFORMED_HEADS = [
    doubled("x-admin-api-key", ADMIN_KEY, "wrong"),
    doubled("x-admin-api-key", "wrong", ADMIN_KEY),
    doubled("x-admin-api-key", "", ADMIN_KEY),
    doubled("x-admin-api-key", ADMIN_KEY, ""),
    doubled("x-replicate-api-key", OWN, OTHER),
    doubled("x-replicate-api-key", "", OWN),
    doubled("authorization", f"Bearer {OWN}", f"Bearer {OTHER}"),
    doubled("authorization", f"Bearer {OWN}", "Basic eA=="),
    doubled("origin", "http://127.0.0.1", "https://evil.example.com"),
    # A header folded over two lines is a different one.
    doubled("x-admin-api-key", ADMIN_KEY[:9] + "\r\n " + ADMIN_KEY[9:]),
    doubled("x-admin-api-key", "\r\n\twrong"),
    doubled("x-replicate-api-key", "r8_other\r\n _1"),
    # With another character for the dash, it is still a proxy header.
    doubled("x_forwarded_for", "203.0.113.9"),
    doubled("X-FORWARDED-FOR", "203.0.113.9"),
    doubled("x-forwarded-for", ""),
]


def test_duplicate_folded_or_malformed_auth_headers_get_401(server: Server) -> None:
    for head in MALFORMED_HEADS:
        with wire_to(server.url) as wire:
            wire.send(head + "\r\n")
            assert wire.rest().startswith("HTTP/1.1 401 "), head
    assert ADMIN_KEY not in "".join(server.log)


AMBIGUOUS_LINES = [
    f"x-admin-api-key : {ADMIN_KEY}",
    f"x admin-api-key: {ADMIN_KEY}",
    f"x-admin-api-key: {ADMIN_KEY}\0",
    f"x-a: b\rx-admin-api-key: {ADMIN_KEY}",
    "host: 127.0.0.1",
    "transfer-encoding : chunked",
    "content-length: 4\r\ncontent-length: 5",
    "content-length: +4",
    "content-length: 4, 5",
    "transfer-encoding: chunked, identity",
    "transfer-encoding: xchunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "content-length: 4\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ncontent-length: 4",
]


def test_ambiguous_request_framing_is_rejected_and_closes_the_connection(
    server: Server, simulator: Simulator
) -> None:
    path, body, headers = rest(None)
    text = json.dumps(body)
    named = {"content_type": "application/json", **headers}
    smuggled = request("POST", path, content_length=str(len(text)), **named) + text
    for line in AMBIGUOUS_LINES:
        with wire_to(server.url) as wire:
            wire.send(request("POST", "/generate").removesuffix("\r\n"))
            wire.send(f"{line}\r\n\r\n0\r\n\r\n{smuggled}")
            answered = wire.rest()
        assert answered.startswith("HTTP/1.1 400 "), (line, answered)
        assert answered.count("HTTP/1.1 ") == 1, line
    assert simulator.account("acme")["creations_seen"] == 0


def test_guessing_tokens_is_throttled_with_429(serve: Serve, simulator: Simulator) -> None:
    made_up = [f"r8_nobody_{number}" for number in range(MAX_REFUSED)]
    simulator.change_account("nobody", revoke=made_up)
    with serve("--host", "0.0.0.0") as server:
        server.client.base_url = server.url.replace("0.0.0.0", "127.0.0.1")
        known = {"authorization": f"Bearer {OWN}"}
        assert server.get("/status", headers=known).status_code == 200
        for token in made_up:
            refused = server.get("/status", headers={"authorization": f"Bearer {token}"})
            assert refused.status_code == 401
        unknown = {"authorization": f"Bearer {OTHER}"}
        full = server.get("/status", headers=unknown)
        assert (full.status_code, full.json()["error_code"]) == (429, "too_many_requests")
        assert 0 < int(full.headers["retry-after"]) <= WINDOW_SECONDS
        path, body, headers = mcp(OTHER)
        over_mcp = server.client.post(path, json=body, headers=headers).text
        assert '"error_code":"too_many_requests"' in over_mcp
        assert server.get("/status", headers=known).status_code == 200
        elsewhere = unknown | {"x-forwarded-for": "198.51.100.7"}
        assert server.get("/status", headers=elsewhere).status_code == 200
        assert server.get("/health").status_code == 200


@pytest.mark.parametrize("way", [rest, mcp])
def test_guessing_admin_keys_is_throttled_on_every_endpoint(
    server: Server, simulator: Simulator, way: Any
) -> None:
    path, body, headers = way(None)

    def send(key: str, **more: str) -> str:
        named = headers | {"x-admin-api-key": key} | more
        return str(server.client.post(path, json=body, headers=named).text)

    for number in range(MAX_REFUSED):
        assert "Invalid X-Admin-API-Key" in send(f"guess {number}")
    assert "too_many_requests" in send("one more")
    assert "too_many_requests" in send(ADMIN_KEY)
    assert simulator.account("acme")["created"] == 0
    found = server.get("/health", headers={"x-admin-api-key": ADMIN_KEY})
    assert found.status_code == 200
    send(ADMIN_KEY, **{"x-forwarded-for": "198.51.100.7"})
    assert simulator.account("acme")["created"] == 1
