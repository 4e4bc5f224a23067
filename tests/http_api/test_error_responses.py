"""The response of each kind of error: status, headers, and body as JSON or JSON-RPC."""

import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from replicate_mcp.errors import (
    BackendUnavailable,
    IdempotencyKeyConflict,
    InvalidInput,
    ReplicateMcpError,
    TaskProblem,
    TooManyAttempts,
    TooManyBatches,
    Unauthorized,
    UnknownBatch,
    refusal_of,
)
from replicate_mcp.http_api.error_responses import error_response
from replicate_mcp.http_api.limits.config import RETRY_AFTER_SECONDS
from replicate_mcp.http_api.limits.exceptions import TooLarge, TooManyRequests

SOON = {"retry-after": str(RETRY_AFTER_SECONDS)}


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable", "headers"),
    [
        (InvalidInput("It is wrong."), 400, "invalid_input", False, {}),
        (UnknownBatch("It is unknown."), 404, "invalid_input", False, {}),
        (IdempotencyKeyConflict("It is taken."), 422, "invalid_input", False, {}),
        (Unauthorized("Who?"), 401, "unauthorized", False, {"www-authenticate": "Bearer"}),
        (BackendUnavailable("It is gone."), 503, "backend_unavailable", True, {}),
        (TooManyBatches(is_global=False, most=2**20), 429, "too_many_requests", True, SOON),
        (TooManyBatches(is_global=True, most=2**20), 503, "too_many_requests", True, SOON),
        (TooManyAttempts(30), 429, "too_many_requests", True, {"retry-after": "30"}),
        (
            TooManyRequests(is_global=False, what="requests are open", most=4),
            *(429, "too_many_requests", True, SOON),
        ),
        (
            TooManyRequests(is_global=True, what="requests are open", most=4),
            *(503, "too_many_requests", True, SOON),
        ),
        (TooLarge(2**20), 413, "invalid_input", False, {}),
        (HTTPException(404), 404, "invalid_input", False, {}),
        (HTTPException(500, "It failed"), 500, "internal_error", False, {}),
    ],
)
def test_error_has_its_status_headers_and_body(
    error: HTTPException | ReplicateMcpError,
    status: int,
    code: str,
    retryable: bool,
    headers: dict[str, str],
) -> None:
    response = error_response("/generate", error)
    assert response.status_code == status
    named = {name: response.headers.get(name) for name in ("retry-after", "www-authenticate")}
    assert {name: value for name, value in named.items() if value is not None} == headers
    body: dict[str, Any] = json.loads(bytes(response.body))
    message = body.pop("error")
    assert message.endswith((".", "?"))
    assert not message.endswith("..")
    assert body == {"error_code": code, "retryable": retryable}
    rpc = error_response("/mcp", error)
    assert (rpc.status_code, rpc.headers.get("retry-after")) == (status, headers.get("retry-after"))
    assert json.loads(bytes(rpc.body)) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32000, "message": message, "data": body},
    }


def test_problems_of_tasks_are_listed_in_both_forms() -> None:
    error = refusal_of([TaskProblem(1, "seed", "seed is wrong")])
    problems = [{"task_index": 1, "field": "seed", "error": "seed is wrong."}]
    body = json.loads(bytes(error_response("/generate", error).body))
    assert body["problems"] == problems
    rpc = json.loads(bytes(error_response("/messages/", error).body))
    assert rpc["error"]["data"]["problems"] == problems
