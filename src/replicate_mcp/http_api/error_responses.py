"""Errors of requests that are refused before a route, as JSON or, for MCP, as JSON-RPC."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from replicate_mcp.auth import UNKNOWN_HOST
from replicate_mcp.http_api.limits.config import MIB, RETRY_AFTER_SECONDS
from replicate_mcp.text import with_full_stop

TOO_MANY_REQUESTS = "too_many_requests"
"""The `error_code` of requests that exceed a limit on load; no task fails with it."""

MESSAGES = "/messages/"
"""Path to which HTTP+SSE clients send messages; the only one that ends with a slash."""

MCP_PATHS = ("/mcp", "/sse", MESSAGES)

MCP_ACCEPT = "application/json, text/event-stream"
"""Types that a client of Streamable HTTP has to accept."""

_SERVER_ERROR = -32000
"""JSON-RPC's first code for a server's own errors."""


class TooManyRequests(HTTPException):
    """429: the caller has too much in progress; 503: all callers together have."""

    def __init__(self, *, is_global: bool, what: str, most: int) -> None:
        whose = "" if is_global else " of yours"
        super().__init__(
            503 if is_global else 429,
            f"Too many {what}{whose} (at most {most:,}): try again when some have ended",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


class TooLarge(HTTPException):
    """413: the request body is too large.

    It is raised where the body is read; frameworks pass it on, or answer with it.
    """

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request's body is over {most // MIB} MiB")


class TooManyValues(HTTPException):
    """413: the request body has too many JSON values, which take many times its size in memory."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request's body has over {most:,} commas and brackets")


class TooSlow(HTTPException):
    """408: the request body arrives too slowly."""

    def __init__(self) -> None:
        super().__init__(408, "The request's body came too slowly")


class HeadersTooLarge(HTTPException):
    """431: the headers of one request are too large together."""

    def __init__(self) -> None:
        super().__init__(431, "The request's headers are too large")


class AmbiguousLength(HTTPException):
    """400: the request has two lengths of its body.

    The bytes after it could be read as another request (request smuggling).
    """

    def __init__(self) -> None:
        super().__init__(
            400,
            "A request has either Content-Length or Transfer-Encoding",
            {"Connection": "close"},
        )


class UnknownHost(HTTPException):
    """421: the `Host` of a request to MCP is not one of this server's names."""

    def __init__(self) -> None:
        super().__init__(421, UNKNOWN_HOST)


class NotAcceptable(HTTPException):
    """406: a request to `/mcp` accepts only one of the two types of answers."""

    def __init__(self) -> None:
        super().__init__(406, f"Send `Accept: {MCP_ACCEPT}`: an answer may come as either")


def answer(path: str, error: HTTPException) -> JSONResponse:
    """Return the response for an HTTP error on this path."""
    return JSONResponse(body(path, error), error.status_code, error.headers)


def body(path: str, error: HTTPException) -> dict[str, Any]:
    """Return the body of an error: its message, its code, and whether a retry can help."""
    busy = error.status_code in (429, 503)
    code = "internal_error" if error.status_code >= 500 else "invalid_input"
    sentence = with_full_stop(error.detail)
    fields = {"error_code": TOO_MANY_REQUESTS if busy else code, "retryable": busy}
    if path in MCP_PATHS:
        rpc = {"code": _SERVER_ERROR, "message": sentence, "data": fields}
        return {"jsonrpc": "2.0", "id": None, "error": rpc}
    return {"error": sentence, **fields}
