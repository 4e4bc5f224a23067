"""What `/openapi.json` tells beside the routes' own: the keys, and what any route may refuse."""

from typing import Any

from fastapi import FastAPI

from replicate_mcp.http_api.responses import ErrorBody

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
"""With any of them; the last is for programs on the same machine, or where all may call."""


def error_responses(*statuses: int, **more: Any) -> Responses:
    """Responses of a route that are refusals."""
    return {status: {"model": ErrorBody, **more} for status in statuses}


COMMON_ERRORS: Responses = error_responses(400, 408, 413, 431, 500) | error_responses(
    429, 503, headers={"Retry-After": {"schema": {"type": "integer"}}}
)
"""What any route may refuse, most of it before it is reached."""


class DescribedAPI(FastAPI):
    """An API whose description has the keys."""

    def openapi(self) -> dict[str, Any]:
        """The description."""
        described = super().openapi()
        described.setdefault("components", {})["securitySchemes"] = KEYS
        return described
