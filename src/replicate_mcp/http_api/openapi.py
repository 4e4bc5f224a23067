"""Parts of `/openapi.json` common to all routes: security schemes and error responses.

The schemes are written by hand. Dependencies of `fastapi.security` would read the headers a second
time, take a malformed credential for an absent one, which `Access` refuses, and could not describe
that a caller may send none.
"""

from typing import Any

from fastapi import FastAPI

from replicate_mcp.http_api.error_responses import ErrorBody

Responses = dict[int | str, dict[str, Any]]

KEYS: dict[str, dict[str, str]] = {
    "adminKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Admin-API-Key",
        "description": "the admin key: the server's token, and the right to set limits",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "a Replicate token of the caller's own",
    },
    "replicateKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Replicate-API-Key",
        "description": "the same, in a header of its own",
    },
}

FOR_ADMINS: dict[str, Any] = {"security": [{"adminKey": []}]}

FOR_CALLERS: dict[str, Any] = {"security": [*({name: []} for name in KEYS), {}]}
"""Security of a route for any caller: one of the schemes, or no credentials.

The latter is for programs of the same machine, or for servers that allow anonymous access.
"""


def error_responses(*statuses: int, **more: Any) -> Responses:
    """Return the OpenAPI responses of a route's errors."""
    return {status: {"model": ErrorBody, **more} for status in statuses}


COMMON_ERRORS: Responses = error_responses(400, 408, 413, 431, 500) | error_responses(
    429, 503, headers={"Retry-After": {"schema": {"type": "integer"}}}
)
"""Errors that any route may answer with; most occur before the route runs."""


class DescribedAPI(FastAPI):
    """FastAPI application whose OpenAPI document has the security schemes."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        described = super().openapi()
        described.setdefault("components", {})["securitySchemes"] = KEYS
        return described
