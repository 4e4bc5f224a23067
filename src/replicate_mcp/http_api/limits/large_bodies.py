"""Read large JSON bodies, and write large JSON answers, without holding up the event loop."""

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
"""Fields of a body: ours, and the inputs of one model, which have some twenty."""


class LargeBodyRoute(APIRoute):
    """A route whose body is parsed off the event loop where it is large."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the usual handler, given a request that parses its body so."""
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
    """Return an answer whose content is made, and serialised, off the event loop where it is large.

    Args:
        size_bytes: about what the answer has.
    """

    def rendered() -> bytes:
        return bytes(JSONResponse(content()).body)

    body = await run_cpu_bound(rendered, size_bytes=size_bytes)
    return Response(body, status, media_type="application/json")
