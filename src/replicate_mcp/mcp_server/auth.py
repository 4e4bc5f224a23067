"""Authentication of MCP requests, by the same rules as for all other interfaces."""

from collections.abc import Mapping
from typing import Any

from mcp.server.context import ServerRequestContext

from replicate_mcp.auth import HTTP_REQUEST, Access, Caller, HttpRequest
from replicate_mcp.errors import ReplicateMcpError

CREDENTIALS_KEY = "replicate-mcp/credentials"
"""Key of `_meta` with the caller's own token."""

Request = ServerRequestContext[Any, Any]


def meta_of(request: Request | None) -> Mapping[str, Any]:
    """Return the request's `_meta`; empty if absent."""
    meta = request.meta if request is not None else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def authenticate(access: Access, request: Request | None, *, is_local: bool) -> Caller:
    """Return the caller by the token in `_meta` or in HTTP headers, else by the server's token.

    Args:
        access: the server's rules and credentials.
        request: the MCP request; None if it is unknown.
        is_local: whether the server uses stdio, where every request is from this machine's user.

    Raises:
        Unauthorized: the caller is unknown, or a credential is wrong.
        TooManyAttempts: the same address has sent too many wrong keys or tokens.
    """
    own_token = token_in(meta_of(request))
    if is_local:
        return access.authenticate_local(own_token)
    return access.authenticate(_http_request_of(request), own_token)


def to_public_error(
    access: Access, request: Request | None, error: ReplicateMcpError, *, is_local: bool
) -> ReplicateMcpError:
    """Return the error that may be shown to the sender of a request.

    Args:
        access: the server's rules and credentials.
        request: the MCP request; None if it is unknown.
        error: the error that occurred.
        is_local: whether the server uses stdio, where every request is from this machine's user.
    """
    return error if is_local else access.to_public_error(error, _http_request_of(request))


def token_in(meta: Mapping[str, Any]) -> object:
    """Return the caller's token in `_meta`; None if it has no credentials.

    Credentials without a token are invalid, not absent: the result is then an empty token, which
    authentication refuses.
    """
    if CREDENTIALS_KEY not in meta:
        return None
    credentials = meta[CREDENTIALS_KEY]
    token = credentials.get("replicate_api_token") if isinstance(credentials, Mapping) else None
    return "" if token is None else token


def _http_request_of(request: Request | None) -> HttpRequest:
    """Return the HTTP request of an MCP request; an empty one if it is unknown."""
    state = getattr(request.request, "scope", {}).get("state", {}) if request is not None else {}
    found: HttpRequest = state.get(HTTP_REQUEST) or HttpRequest({})
    return found
