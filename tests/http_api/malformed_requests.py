"""Malformed requests to /mcp: mutated, truncated, mistyped or with wrong names."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

ERAS = ("2025-11-25", "2026-07-28")
CLIENT = {"name": "odd", "version": "1"}

Headers = list[tuple[bytes, bytes]]


class MalformedRequest(NamedTuple):
    """A request as sent over the connection."""

    method: str
    headers: Headers
    content: bytes


VALID: list[tuple[str, dict[str, Any] | None]] = [
    ("initialize", {"protocolVersion": ERAS[0], "capabilities": {}, "clientInfo": CLIENT}),
    ("server/discover", {}),
    ("ping", {}),
    ("tools/list", {}),
    ("tools/list", {"cursor": "x"}),
    ("resources/list", {}),
    ("resources/templates/list", {}),
    ("resources/read", {"uri": "replicate://semaphores"}),
    ("resources/read", {"uri": "replicate://models/black-forest-labs/flux-dev"}),
    ("resources/read", {"uri": "ui://nothing"}),
    ("prompts/list", {}),
    ("prompts/get", {"name": "variations", "arguments": {"idea": "a car", "count": "3"}}),
    (
        "completion/complete",
        {
            "ref": {"type": "ref/prompt", "name": "variations"},
            "argument": {"name": "model", "value": "flux"},
            "context": {"arguments": {"idea": "x"}},
        },
    ),
    ("logging/setLevel", {"level": "info"}),
    ("tools/call", {"name": "list_semaphores", "arguments": {}}),
    ("tools/call", {"name": "get_batch", "arguments": {"after": 0, "limit": 5}}),
    ("tools/call", {"name": "cancel_batch", "arguments": {"batch_id": "b_0123456789abcdef"}}),
    ("tools/call", {"name": "find_models", "arguments": {"query": "flux"}}),
    (
        "tools/call",
        {
            "name": "generate_images",
            "arguments": {
                "tasks": [{"prompt": "a car", "output_filename": "car.jpg", "aspect_ratio": "1:1"}],
                "model": "flux-dev",
                "wait_seconds": 1,
            },
            "_meta": {"progressToken": 7},
        },
    ),
    (
        "tools/call",
        {
            "name": "list_semaphores",
            "arguments": {},
            "_meta": {"replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}},
        },
    ),
    ("notifications/initialized", None),
    ("notifications/cancelled", {"requestId": 1, "reason": "x"}),
    ("notifications/progress", {"progressToken": 7, "progress": 1}),
]

PLAIN: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**53, 2**70, -(10**400), 1e308, "", "2.0", "x" * 3000, "\x00",
    "é" * 40, "\ud800", "\u202e", "../../etc/passwd", "%00%ff", "tools/call", [], {}, [[]], [None],
    {"": ""}, {"__proto__": {}}, [{"prompt": "x"}] * 3,
)  # fmt: skip

NAMES = (
    "jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "_meta", "tasks",
    "prompt", "input", "cursor", "uri", "requestState", "inputResponses", "extra", "",
    "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities",
)  # fmt: skip

TORN: tuple[bytes, ...] = (
    b"", b" ", b"null", b"[]", b"{}", b'"text"', b"7", b"NaN", b"[" * 50_000, b'{"a":' * 20_000,
    b"[" * 900 + b"]" * 900, b'{"jsonrpc":"2.0","id":' + b"9" * 6_000 + b',"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping","method":"tools/list"}',
    b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}', b"\xff\xfe\x00\x01", b"\x80" * 64,
    b'{"jsonrpc":"2.0","id":"\xc3\x28","method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"),
    b"prompt=a+car&tasks=1", b"<?xml version='1.0'?><a/>", b"x" * 100_000,
)  # fmt: skip

HEADER_VALUES: tuple[bytes, ...] = (
    b"", b"x", b"*/*", b"text/html", b"text/event-stream", b"application/json; charset=utf-16",
    b"application/x-www-form-urlencoded", b"2024-11-05", b"2026-07-28", b"9999-99-99",
    b"tools/call", b"generate_images", b"\xff\xfe", b"0" * 2_000, b"Bearer r8_other_1", b"Bearer",
    b"=?base64?IQ==?=",
)  # fmt: skip

HEADER_NAMES = (
    b"content-type", b"accept", b"mcp-protocol-version", b"mcp-method", b"mcp-name",
    b"mcp-session-id", b"authorization", b"origin", b"last-event-id", b"idempotency-key",
    b"content-encoding", b"x-replicate-api-key", b"x-admin-api-key", b"x-forwarded-for",
    b"mcp-param-x",
)  # fmt: skip


def malformed_request(dice: random.Random, session: str) -> MalformedRequest:
    """Return a random request, determined by `dice`.

    Args:
        session: an open session of the handshake era.
    """
    method, params = dice.choice(VALID)
    era = dice.choice(ERAS)
    message = _message(method, params, era, dice)
    headers = _headers(message, era, session)
    content = b""
    kind = dice.random()
    if kind < 0.15:
        content = dice.choice(TORN)
    else:
        body: Any = message
        if kind < 0.9:
            for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
                body = _mutated(body, dice)
        content = json.dumps(body).encode()
        if dice.random() < 0.1:
            content = _torn(content, dice)
    if dice.random() < 0.3:
        headers = _misnamed(headers, dice)
    verb = dice.choice(("PUT", "PATCH", "HEAD", "OPTIONS")) if dice.random() < 0.03 else "POST"
    return MalformedRequest(verb, headers, content)


def _message(
    method: str, params: dict[str, Any] | None, era: str, dice: random.Random
) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if not method.startswith("notifications/"):
        message["id"] = dice.choice((str, int))(dice.randrange(10**9))
    if params is not None:
        message["params"] = copy.deepcopy(params)
    if era == ERAS[1]:
        message.setdefault("params", {}).setdefault("_meta", {}).update(
            {
                "io.modelcontextprotocol/protocolVersion": era,
                "io.modelcontextprotocol/clientInfo": CLIENT,
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        )
    return message


def _headers(message: dict[str, Any], era: str, session: str) -> Headers:
    headers = [
        (b"content-type", b"application/json"),
        (b"accept", b"application/json, text/event-stream"),
        (b"mcp-protocol-version", era.encode()),
    ]
    if era == ERAS[0]:
        return headers if message["method"] == "initialize" else [
            *headers, (b"mcp-session-id", session.encode())
        ]  # fmt: skip
    headers.append((b"mcp-method", message["method"].encode()))
    params = message.get("params") or {}
    if name := params.get("name") or params.get("uri"):
        headers.append((b"mcp-name", str(name).encode()))
    return headers


def _mutated(body: Any, dice: random.Random) -> Any:
    """Return the body with one place changed, or wrapped as a whole."""
    places = list(_places(body))
    if not places or dice.random() < 0.06:
        return dice.choice(([body], [body, body], [body, 7], {"params": body}, [[body]], []))
    within, key = dice.choice(places)
    change = dice.random()
    if change < 0.6:
        within[key] = copy.deepcopy(dice.choice(PLAIN))
    elif change < 0.75:
        del within[key]
    elif isinstance(within, dict):
        within[dice.choice(NAMES)] = within.pop(key) if change < 0.9 else 7
    else:
        within.extend(copy.deepcopy(within))
    return body


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Return every place of a JSON value: its container, and its key or index."""
    if not isinstance(node, dict | list):
        return
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        yield from _places(node[key])


def _torn(content: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(content))
    return dice.choice(
        (
            content[:at],
            content[at:],
            content[:at] + bytes([dice.randrange(256)]) + content[at + 1 :],
            content + content,
            content + b"\x00",
        )
    )


def _misnamed(headers: Headers, dice: random.Random) -> Headers:
    name = dice.choice(HEADER_NAMES)
    kept = [header for header in headers if header[0] != name]
    if dice.random() < 0.3:
        return kept
    value = dice.choice(HEADER_VALUES)
    return [*(headers if dice.random() < 0.2 else kept), (name, value)]
