"""Who calls: the same decision as everywhere, from what an MCP request brings."""

from collections.abc import Mapping
from typing import Any

from mcp.server.context import ServerRequestContext

from replicate_mcp.auth import HTTP_REQUEST, Access, Caller, HttpRequest
from replicate_mcp.errors import ReplicateMcpError

CREDENTIALS_KEY = "replicate-mcp/credentials"
"""The key of `_meta` under which a caller brings its own token."""

Request = ServerRequestContext[Any, Any]


def meta_of(request: Request | None) -> Mapping[str, Any]:
    """The request's `_meta`."""
    meta = request.meta if request is not None else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def authenticate(access: Access, request: Request | None, *, is_local: bool) -> Caller:
    """Return the caller by what came in `_meta` or in HTTP's headers, else with the server's token.

    Args:
        is_local: whether the server serves stdio, where this machine's user calls.

    Raises:
        Unauthorized: the caller is unknown, or what was presented is wrong.
        TooManyAttempts: too many wrong keys or tokens came from the same address.
    """
    own_token = token_in(meta_of(request))
    if is_local:
        return access.authenticate_local(own_token)
    return access.authenticate(_http_request_of(request), own_token)


def to_public_error(
    access: Access, request: Request | None, error: ReplicateMcpError, *, is_local: bool
) -> ReplicateMcpError:
    """Return the error that a request may be answered with.

    Args:
        is_local: whether the server serves stdio, where this machine's user calls.
    """
    return error if is_local else access.to_public_error(error, _http_request_of(request))


def token_in(meta: Mapping[str, Any]) -> object:
    """Return what `_meta` has as the caller's token; None where it has no credentials.

    Credentials without a token are wrong, and do not count as none: what stands for them here is
    no token either.
    """
    if CREDENTIALS_KEY not in meta:
        return None
    credentials = meta[CREDENTIALS_KEY]
    token = credentials.get("replicate_api_token") if isinstance(credentials, Mapping) else None
    return "" if token is None else token


def _http_request_of(request: Request | None) -> HttpRequest:
    """Return the HTTP request that brought an MCP request; one without anything if unknown."""
    state = getattr(request.request, "scope", {}).get("state", {}) if request is not None else {}
    found: HttpRequest = state.get(HTTP_REQUEST) or HttpRequest({})
    return found
