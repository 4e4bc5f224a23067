"""Large JSON bodies and answers, parsed and serialised without blocking the event loop."""

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from replicate_mcp.cpu_bound import run_cpu_bound

MAX_FIELDS = 1_000
"""Maximum fields of a body: those of the API, and the inputs of one model, about twenty."""


class LargeBodyRoute(APIRoute):
    """Route that parses large bodies off the event loop."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the usual handler, with a request that parses large bodies in a thread."""
        handle = super().get_route_handler()

        async def handle_large(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return handle_large


class _Request(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            self._json = await run_cpu_bound(partial(_parsed, body), size_bytes=len(body))
        return self._json


def _parsed(body: bytes) -> Any:
    try:
        parsed = json.loads(body)
    except RecursionError:
        raise HTTPException(400, "The request's body is nested too deeply") from None
    if isinstance(parsed, dict) and len(parsed) > MAX_FIELDS:
        raise HTTPException(
            400, f"The request's body has {len(parsed):,} fields, over the {MAX_FIELDS:,} allowed"
        )
    return parsed


async def json_response(
    content: Callable[[], dict[str, Any]], *, size_bytes: int, status: int = 200
) -> Response:
    """Return a JSON response; large content is built and serialised off the event loop.

    Args:
        content: builds the response's content.
        size_bytes: approximate size of the response.
        status: HTTP status.
    """

    def rendered() -> bytes:
        return bytes(JSONResponse(content()).body)

    body = await run_cpu_bound(rendered, size_bytes=size_bytes)
    return Response(body, status, media_type="application/json")
