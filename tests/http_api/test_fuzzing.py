"""Odd requests: none is answered with a fault of ours, and none hangs."""

import json
import random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.core.result import Ok

from http_api.conftest import ADMIN_KEY, Server

USUAL = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2025-11-25",
}


@pytest.mark.soak
def test_no_request_to_any_route_is_answered_with_a_500(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for operation in schema.get_all_operations():
        assert isinstance(operation, Ok)
        found = operation.ok()

        @settings(
            max_examples=250,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @given(found.as_strategy())
        def try_it(case: Any) -> None:
            headers = {"x-admin-api-key": ADMIN_KEY}
            case.call_and_validate(headers=headers, timeout=60, checks=[checks.not_a_server_error])

        try_it()


def odd(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON, of the names that JSON-RPC and MCP use, or none."""
    names = ("jsonrpc", "id", "method", "params", "name", "arguments", "_meta", "tasks", "prompt")
    plain: tuple[Any, ...] = (
        None, True, 0, -1, 2**70, 1.5, "", "2.0", "tools/call", "initialize", "generate_images",
        "\x00", "é" * 50, "notifications/cancelled", [], {},
    )  # fmt: skip
    if depth > 3 or dice.random() < 0.4:
        return dice.choice(plain)
    if dice.random() < 0.3:
        return [odd(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(names): odd(dice, depth + 1) for _ in range(dice.randrange(6))}


@pytest.mark.soak
def test_malformed_json_rpc_is_answered_as_an_error_of_the_client(server: Server) -> None:
    dice = random.Random(7)
    for _ in range(10_000):
        body = odd(dice)
        raw = json.dumps(body).encode()
        if dice.random() < 0.1:
            raw = raw[: len(raw) // 2]
        if isinstance(body, dict) and dice.random() < 0.5:
            body.setdefault("jsonrpc", "2.0")
            body.setdefault("id", 1)
        answer = server.client.post("/mcp", content=raw, headers=USUAL, timeout=30)
        assert answer.status_code < 500, (raw, answer.text)
    assert server.get("/health").status_code == 200
