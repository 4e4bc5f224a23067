"""Every error response of the HTTP server: JSON, and JSON-RPC on the paths of MCP."""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from replicate_mcp.errors import (
    IdempotencyKeyConflict,
    InvalidInput,
    RefusalCode,
    ReplicateMcpError,
    TaskProblem,
    TooManyAttempts,
    TooManyBatches,
    UnknownBatch,
    refusal_of,
)
from replicate_mcp.http_api.dependencies import app_of
from replicate_mcp.http_api.http_request import http_request_of
from replicate_mcp.http_api.limits.config import RETRY_AFTER_SECONDS
from replicate_mcp.http_api.mcp_requests import MCP_PATHS
from replicate_mcp.tasks.result import TaskFailure, as_json
from replicate_mcp.text import with_full_stop

STATUSES: dict[RefusalCode, int] = {
    "invalid_input": 400,
    "unauthorized": 401,
    "insufficient_credit": 402,
    "model_not_found": 404,
    "content_flagged": 422,
    "daily_limit": 429,
    "too_many_requests": 429,
    "prediction_failed": 502,
    "no_output": 502,
    "create_outcome_unknown": 502,
    "replicate_unavailable": 502,
    "canceled": 503,
    "interrupted": 503,
    "backend_unavailable": 503,
    "dependency_failed": 502,
    "deadline_exceeded": 504,
}
"""HTTP status by error code, for errors of a whole request."""

_SERVER_ERROR = -32000
"""JSON-RPC's first code for a server's own errors."""


class Problem(BaseModel):
    """One fault of a request: the task's index from 0 and the field, if it concerns one."""

    task_index: int | None = None
    field: str | None = None
    error: str


class ErrorBody(BaseModel):
    """Error of a refused request, or of a single image that failed."""

    error: str
    error_code: Literal[RefusalCode, "internal_error"]
    retryable: bool = False
    problems: list[Problem] | None = None


def error_response(path: str, error: HTTPException | ReplicateMcpError) -> JSONResponse:
    """Return the response to a request for `path` that is refused as a whole."""
    return JSONResponse(error_body(path, error), status_of(error), _headers(error))


def error_body(path: str, error: HTTPException | ReplicateMcpError) -> dict[str, Any]:
    """Return the body of an error: its message, its code, and whether a retry can help."""
    body = error.as_json() if isinstance(error, ReplicateMcpError) else _http_error_body(error)
    if path in MCP_PATHS:
        rpc = {"code": _SERVER_ERROR, "message": body.pop("error"), "data": body}
        return {"jsonrpc": "2.0", "id": None, "error": rpc}
    return body


def status_of(error: HTTPException | ReplicateMcpError) -> int:
    """Return the HTTP status of an error of a whole request."""
    match error:
        case HTTPException():
            return error.status_code
        case TooManyBatches(is_global=True):
            return 503
        case UnknownBatch():
            return 404
        case IdempotencyKeyConflict():
            return 422
    return STATUSES[error.code]


def failed_image_response(failure: TaskFailure, batch_id: str) -> JSONResponse:
    """Return the response for a single image that failed."""
    body = {**as_json(failure), "batch_id": batch_id}
    return JSONResponse(body, STATUSES[failure.error_code])


def add_exception_handlers(api: FastAPI) -> None:
    """Answer every exception of a route with its error response."""
    api.add_exception_handler(ReplicateMcpError, _refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(Exception, _failed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ReplicateMcpError)
    shown = app_of(request).access.to_public_error(error, http_request_of(request.scope))
    return error_response(request.url.path, shown)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(request.url.path, _invalid_request(error))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(request.url.path, error)


async def _failed(request: Request, _: Exception) -> JSONResponse:
    """Answer an internal error, which is logged."""
    return error_response(request.url.path, HTTPException(500, "This server failed: see its log"))


def _http_error_body(error: HTTPException) -> dict[str, Any]:
    busy = error.status_code in (429, 503)
    code = "internal_error" if error.status_code >= 500 else "invalid_input"
    return {
        "error": with_full_stop(error.detail),
        "error_code": "too_many_requests" if busy else code,
        "retryable": busy,
    }


def _headers(error: HTTPException | ReplicateMcpError) -> Mapping[str, str] | None:
    if isinstance(error, HTTPException):
        return error.headers
    if error.code == "too_many_requests":
        after = error.retry_after if isinstance(error, TooManyAttempts) else RETRY_AFTER_SECONDS
        return {"Retry-After": str(after)}
    return {"WWW-Authenticate": "Bearer"} if error.code == "unauthorized" else None


def _invalid_request(error: RequestValidationError) -> ReplicateMcpError:
    errors = error.errors()
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error")
        return InvalidInput(f"The request's body is not valid JSON ({reason}).")
    if first["type"] == "model_attributes_type" and len(first["loc"]) == 1:
        return InvalidInput("The request's body must be a JSON object, sent as application/json.")
    return refusal_of([_problem(each) for each in errors])


def _problem(error: Mapping[str, Any]) -> TaskProblem:
    field = ".".join(str(part) for part in error["loc"][1:])
    message = f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return TaskProblem(None, field or None, f"{field or 'the body'}: {message}")
