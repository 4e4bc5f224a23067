"""MCP over HTTP: requests that the SDK cannot read are refused with the reason and their id."""

import json

import pytest

from http_api.calling import mcp
from http_api.conftest import Server

_, CALL, HEADERS = mcp(None)
HEAD = {**HEADERS, "content-type": "application/json"}
DIGITS = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"n":' + b"1" * 5_000 + b"}}"
DEEP = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"n":' + b"[" * 3_000
HALF = rb'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"n":"\ud83d"}}'
WRONG_BYTE = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"n":"\xff"}}'


@pytest.mark.parametrize(
    ("body", "code", "request_id", "why"),
    [
        (DIGITS, -32700, 7, "a number of too many digits"),
        (DEEP, -32700, 7, "nested more than 200 deep"),
        (HALF, -32700, 7, "surrogate"),
        (WRONG_BYTE, -32700, 7, "byte 56 is not UTF-8"),
        (b'{"id":7,', -32700, 7, "cannot be parsed"),
        (b'{"id":7,"method":"ping"}', -32600, 7, 'a request has `"jsonrpc": "2.0"`'),
        (b"[]", -32600, None, "MCP has no JSON-RPC batches: send each message by itself"),
        (b"", -32700, None, "cannot be parsed"),
    ],
)
def test_a_body_that_is_no_message_is_refused_with_its_id(
    server: Server, body: bytes, code: int, request_id: int | None, why: str
) -> None:
    answered = server.client.post("/mcp", content=body, headers=HEAD)
    refusal = answered.json()
    assert (answered.status_code, refusal["id"]) == (400, request_id)
    assert refusal["error"]["code"] == code
    assert why in refusal["error"]["message"]
    assert "pydantic" not in answered.text


@pytest.mark.parametrize(
    ("changed", "status", "why"),
    [
        ({"content-type": "text/plain"}, 400, "Send `Content-Type: application/json`"),
        ({"origin": "https://evil.example.com"}, 403, "Pages of other sites"),
        ({"host": "evil.example.com"}, 421, "Host"),
    ],
)
def test_headers_of_another_kind_are_refused_in_the_form_of_mcp(
    server: Server, changed: dict[str, str], status: int, why: str
) -> None:
    answered = server.client.post("/mcp", content=json.dumps(CALL), headers={**HEAD, **changed})
    assert answered.status_code == status
    assert why in answered.json()["error"]["message"]


@pytest.mark.parametrize("name", ["host", "origin"])
def test_names_of_the_server_are_known_in_capitals(server: Server, name: str) -> None:
    port = server.url.rpartition(":")[2]
    value = f"LOCALHOST:{port}" if name == "host" else f"http://LOCALHOST:{port}"
    content = b"\xef\xbb\xbf" + json.dumps(CALL).encode()  # A BOM is skipped.
    answered = server.client.post("/mcp", content=content, headers={**HEAD, name: value})
    assert answered.status_code == 200, answered.text
