"""MCP resources, as JSON: semaphores, batches, and the inputs of models."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, Resource, ResourceTemplate

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.mcp_server.model_results import model_inputs
from replicate_mcp.mcp_server.pages import page_as_json, page_size
from replicate_mcp.tasks.recommended_models import CATALOGUE
from replicate_mcp.text import escaped

if TYPE_CHECKING:
    from pydantic import BaseModel

JSON_TYPE = "application/json"

SEMAPHORES = "replicate://semaphores"
BATCH = "replicate://batches/{id}"
MODEL = "replicate://models/{owner}/{name}"

RESOURCES = [
    Resource(
        uri=SEMAPHORES,
        name="semaphores",
        title="Semaphores",
        description="The limits on predictions in flight, and how full they are",
        mime_type=JSON_TYPE,
    ),
    *(
        Resource(
            uri=f"replicate://models/{known.name}",
            name=known.name,
            description=known.good_at,
            mime_type=JSON_TYPE,
        )
        for known in CATALOGUE
    ),
]

TEMPLATES = [
    ResourceTemplate(
        uri_template=BATCH,
        name="batch",
        title="Batch",
        description="A batch's counts and the first page of its results",
        mime_type=JSON_TYPE,
    ),
    ResourceTemplate(
        uri_template=MODEL,
        name="model",
        title="Model",
        description="What a model takes: types, ranges and defaults",
        mime_type=JSON_TYPE,
    ),
]


async def read(
    app: App,
    caller: Callable[[], Caller],
    uri: str,
    to_public_error: Callable[[ReplicateMcpError], ReplicateMcpError],
) -> str:
    """Return the content of a resource.

    Args:
        app: the process's app.
        caller: returns the caller, or raises.
        uri: the resource's URI.
        to_public_error: returns the error that may be shown to the caller.

    Raises:
        MCPError: the resource does not exist for the caller, or cannot be read now; the message
            says why.
    """
    for pattern, reader in _READERS:
        if found := pattern.fullmatch(uri):
            try:
                content = await reader(app, caller(), *map(unquote, found.groups()))
            except ReplicateMcpError as error:
                code = INTERNAL_ERROR if error.retryable else INVALID_PARAMS
                content = {"uri": uri, "error_code": error.code, "retryable": error.retryable}
                message = str(to_public_error(error))
                raise MCPError(code=code, message=message, data=content) from None
            return json.dumps(content, indent=1)
    known = ", ".join((SEMAPHORES, BATCH, MODEL))
    raise MCPError(
        code=INVALID_PARAMS,
        message=f"There is no resource '{escaped(uri[:200])}': there are {known}.",
        data={"uri": uri},
    )


async def semaphores(app: App, caller: Caller) -> dict[str, Any]:
    """Return the same content as list_semaphores."""
    rows = [_as_json(status) for status in await app.semaphores.list_for(caller)]
    return {"semaphores": rows, "count": len(rows)}


async def batch(app: App, caller: Caller, batch_id: str) -> dict[str, Any]:
    """Return the same content as get_batch for the first page."""
    return page_as_json(await app.batches.result(caller, batch_id, **page_size()))


async def model(app: App, caller: Caller, owner: str, name: str) -> dict[str, Any]:
    """Return the same content as find_models for one model."""
    _, content = await model_inputs(app, caller, f"{owner}/{name}")
    return content


def _as_json(answer: "BaseModel") -> dict[str, Any]:
    from replicate_mcp.tasks.result import as_json

    return as_json(answer)


_READERS: list[tuple[re.Pattern[str], Callable[..., Awaitable[dict[str, Any]]]]] = [
    (re.compile(SEMAPHORES), semaphores),
    (re.compile("replicate://batches/([^/?#]+)"), batch),
    (re.compile("replicate://models/([^/?#]+)/([^/?#]+)"), model),
]
