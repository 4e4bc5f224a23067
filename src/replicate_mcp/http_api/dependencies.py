"""FastAPI dependencies: the app, and the caller by a request's headers and body."""

from typing import Annotated

from fastapi import Depends, Request

from replicate_mcp.app.app import App
from replicate_mcp.auth import ADMIN_HEADER, Caller
from replicate_mcp.errors import Unauthorized
from replicate_mcp.http_api.http_request import http_request_of

ADMIN_ONLY = "This is for the admin of the server: send the admin key as X-Admin-API-Key."


def app_of(request: Request) -> App:
    """Return the process's app."""
    found: App = request.app.state.replicate_mcp
    return found


def caller_of(request: Request, own_token: str | None = None) -> Caller:
    """Return the caller of a request.

    Raises:
        Unauthorized: the caller is unknown, or a credential is wrong.
    """
    return app_of(request).access.authenticate(http_request_of(request.scope), own_token)


def is_operator(request: Request) -> bool:
    """Return whether the request has the admin key, or is let in by `--local`."""
    return app_of(request).access.is_operator(http_request_of(request.scope))


def reader(request: Request) -> Caller:
    """Return the caller of a route without a body."""
    return caller_of(request)


def admin(request: Request) -> Caller:
    """Return the caller, who must be the admin.

    Raises:
        Unauthorized: the caller is not the admin.
    """
    caller = caller_of(request) if ADMIN_HEADER in request.headers else None
    if caller is None or not caller.is_admin:
        raise Unauthorized(ADMIN_ONLY)
    return caller


AppDep = Annotated[App, Depends(app_of)]
CallerDep = Annotated[Caller, Depends(reader)]
AdminDep = Annotated[Caller, Depends(admin)]
