"""Who calls: the same decision as everywhere, from what an MCP request brings."""

from collections.abc import Mapping
from typing import Any

from mcp.server.context import ServerRequestContext

from replicate_mcp.access import Access, Caller

CREDENTIALS_KEY = "replicate-mcp/credentials"
"""The key of `_meta` under which a caller brings its own token."""

Request = ServerRequestContext[Any, Any]


def meta_of(request: Request | None) -> Mapping[str, Any]:
    """The request's `_meta`."""
    meta = request.meta if request is not None else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def headers_of(request: Request | None) -> Mapping[str, str] | None:
    """The headers of the HTTP request that brought it, by names in lower case; None on stdio."""
    headers = getattr(request.request, "headers", None) if request is not None else None
    return None if headers is None else {name.lower(): value for name, value in headers.items()}


def caller_of(access: Access, meta: Mapping[str, Any], headers: Mapping[str, str] | None) -> Caller:
    """By what came in `_meta` or in HTTP's headers, else with the server's token.

    Raises:
        Unauthorized: nobody that is known, or what was presented is wrong.
    """
    brought = meta.get(CREDENTIALS_KEY)
    if isinstance(brought, Mapping):
        # Whoever brings credentials means to use them: without a token in them they are wrong.
        brought = brought.get("replicate_api_token", "")
    return access.caller(headers, brought)
