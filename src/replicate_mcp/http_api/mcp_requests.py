"""Paths of MCP, and checks of its requests' headers before the SDK, whose errors explain little."""

from collections.abc import Collection

from mcp.server.streamable_http import check_accept_headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

from replicate_mcp.addresses import host_name
from replicate_mcp.auth import UNKNOWN_HOST

MESSAGES = "/messages/"
"""Path to which HTTP+SSE clients send messages; the only one that ends with a slash."""

MCP_PATHS = ("/mcp", "/sse", MESSAGES)

MCP_ACCEPT = "application/json, text/event-stream"
"""Types that a client of Streamable HTTP has to accept."""


class UnknownHost(HTTPException):
    """421: the `Host` of a request to MCP is not one of this server's names."""

    def __init__(self) -> None:
        super().__init__(421, UNKNOWN_HOST)


class NotAcceptable(HTTPException):
    """406: a request to `/mcp` accepts only one of the two types of answers."""

    def __init__(self) -> None:
        super().__init__(406, f"Send `Accept: {MCP_ACCEPT}`: an answer may come as either")


def check_mcp_headers(scope: Scope, hosts: Collection[str] | None) -> Scope:
    """Return the scope of a request to MCP, with a default for a missing `Accept`.

    Args:
        scope: the request's ASGI scope.
        hosts: the server's host names; None for any.

    Raises:
        UnknownHost: `Host` is not one of `hosts`.
        NotAcceptable: the request posts to `/mcp` and accepts only one of the two types.
    """
    request = Request(scope)
    if hosts is not None and host_name(request.headers.get("host", "")) not in hosts:
        raise UnknownHost
    if scope["path"] != "/mcp":
        return scope
    if not request.headers.get("accept", "").strip():
        others = [each for each in scope["headers"] if each[0].lower() != b"accept"]
        return {**scope, "headers": [*others, (b"accept", MCP_ACCEPT.encode())]}
    if scope["method"] == "POST" and not all(check_accept_headers(request)):
        raise NotAcceptable
    return scope
