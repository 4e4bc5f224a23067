"""Checks of MCP requests' headers before the SDK, whose refusals explain little."""

from collections.abc import Collection

from mcp.server.streamable_http import check_accept_headers
from starlette.requests import Request
from starlette.types import Scope

from replicate_mcp.auth import host_name
from replicate_mcp.http_api.error_responses import MCP_ACCEPT, NotAcceptable, UnknownHost


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
