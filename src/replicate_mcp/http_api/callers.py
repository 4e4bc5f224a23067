"""Who calls a route: the same decision as everywhere, from a request's headers and body."""

from typing import Annotated

from fastapi import Depends, Request

from replicate_mcp.access import Caller
from replicate_mcp.app import App
from replicate_mcp.errors import Unauthorized

ADMIN_ONLY = "This is for the admin of the server: send the admin key as X-Admin-API-Key."


def app_of(request: Request) -> App:
    """The process's app."""
    found: App = request.app.state.replicate_mcp
    return found


def caller_of(request: Request, own_token: str | None = None) -> Caller:
    """Who calls.

    Raises:
        Unauthorized: nobody that is known.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    has_json = headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    reads = request.method in ("GET", "HEAD")
    return app_of(request).access.caller(headers, own_token, has_json=has_json or reads)


def reader(request: Request) -> Caller:
    """Who calls a route without a body."""
    if request.method == "DELETE":  # No form of a web page sends it.
        headers = {name.lower(): value for name, value in request.headers.items()}
        return app_of(request).access.caller(headers)
    return caller_of(request)


def admin(request: Request) -> Caller:
    """The admin.

    Raises:
        Unauthorized: it is somebody else.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    caller = caller_of(request) if "x-admin-api-key" in headers else None
    if caller is None or not caller.is_admin:
        raise Unauthorized(ADMIN_ONLY)
    return caller


TheApp = Annotated[App, Depends(app_of)]
TheReader = Annotated[Caller, Depends(reader)]
TheAdmin = Annotated[Caller, Depends(admin)]
