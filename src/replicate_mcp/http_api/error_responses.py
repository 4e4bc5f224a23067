"""What is refused before it reaches a route, and how that is told: as JSON-RPC where MCP asks."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from replicate_mcp.auth import UNKNOWN_HOST
from replicate_mcp.http_api.limits.config import MIB, RETRY_AFTER_SECONDS

TOO_MANY_REQUESTS = "too_many_requests"
"""The `error_code` of what is refused only because much is going on; no task ends with it."""

MESSAGES = "/messages/"
"""To where a client of HTTP+SSE sends: the one path that ends with a slash."""

MCP_PATHS = ("/mcp", "/sse", MESSAGES)

MCP_ACCEPT = "application/json, text/event-stream"
"""What a client of Streamable HTTP has to accept."""

_SERVER_ERROR = -32000
"""JSON-RPC's first code for a server's own errors."""


class TooManyRequests(HTTPException):
    """Too much is going on: of the caller's own (429), or of all callers' (503)."""

    def __init__(self, *, is_global: bool, what: str, most: int) -> None:
        whose = "" if is_global else " of yours"
        super().__init__(
            503 if is_global else 429,
            f"Too many {what}{whose} (at most {most:,}): try again when some have ended",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


class TooLarge(HTTPException):
    """A body is. Raised where it is read; a framework hands it on, or answers with it."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request's body is over {most // MIB} MiB")


class TooManyValues(HTTPException):
    """A body has, as JSON: they take many times its size once it is read, whoever sent it."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request's body has over {most:,} commas and brackets")


class TooSlow(HTTPException):
    """A body arrives too slowly."""

    def __init__(self) -> None:
        super().__init__(408, "The request's body came too slowly")


class HeadersTooLarge(HTTPException):
    """The headers of one request are, together."""

    def __init__(self) -> None:
        super().__init__(431, "The request's headers are too large")


class AmbiguousLength(HTTPException):
    """A request gives its body's length twice: what follows it could be read as another request."""

    def __init__(self) -> None:
        super().__init__(
            400,
            "A request has either Content-Length or Transfer-Encoding",
            {"Connection": "close"},
        )


class UnknownHost(HTTPException):
    """The `Host` of a request to MCP is not one of this server's names."""

    def __init__(self) -> None:
        super().__init__(421, UNKNOWN_HOST.removesuffix("."))


class NotAcceptable(HTTPException):
    """A request to `/mcp` accepts only one of the two types in which the answer may come."""

    def __init__(self) -> None:
        super().__init__(406, f"Send `Accept: {MCP_ACCEPT}`: an answer may come as either")


def answer(path: str, error: HTTPException) -> JSONResponse:
    """An HTTP error as it is told to callers of this path."""
    return JSONResponse(body(path, error), error.status_code, error.headers)


def body(path: str, error: HTTPException) -> dict[str, Any]:
    """A sentence, a code, and whether the same request can help later."""
    busy = error.status_code in (429, 503)
    code = "internal_error" if error.status_code >= 500 else "invalid_input"
    sentence = f"{error.detail}."
    fields = {"error_code": TOO_MANY_REQUESTS if busy else code, "retryable": busy}
    if path in MCP_PATHS:
        rpc = {"code": _SERVER_ERROR, "message": sentence, "data": fields}
        return {"jsonrpc": "2.0", "id": None, "error": rpc}
    return {"error": sentence, **fields}
