"""Routes that list, read and cancel batches."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from replicate_mcp.cpu_bound import read_limiter
from replicate_mcp.http_api.client_disconnect import cancel_on_disconnect
from replicate_mcp.http_api.dependencies import AppDep, CallerDep
from replicate_mcp.http_api.limits.large_bodies import LargeBodyRoute, json_response
from replicate_mcp.http_api.openapi import FOR_CALLERS, error_responses
from replicate_mcp.http_api.responses import (
    Batch,
    Batches,
)
from replicate_mcp.tasks.result import BatchCounts, as_json
from replicate_mcp.tasks.task import MAX_TASKS

MAX_WAIT_SECONDS = 50.0
"""Maximum seconds for which a request for a batch may wait."""

router = APIRouter(responses=error_responses(401, 404, 422, 502), route_class=LargeBodyRoute)


@router.get("/batches", response_model_exclude_none=True, openapi_extra=FOR_CALLERS)
async def batches(
    app: AppDep, caller: CallerDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Batches:
    """List your batches of the last 24 hours, newest first."""
    found = await app.batches.list(caller, limit=limit)
    return Batches(batches=found, count=len(found))


@router.get("/batches/{batch_id}", response_model=Batch, openapi_extra=FOR_CALLERS)
async def batch(
    batch_id: str,
    request: Request,
    app: AppDep,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0, le=MAX_TASKS)] = 0,
    limit: Annotated[int | None, Query(ge=0, le=1000)] = None,
    wait_seconds: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0,
) -> Response:
    """Return a batch: its counts and its results.

    With the last `cursor` as `after`, it returns only the results since then. With the first
    results come the batch's retries, and the retries of these, as `retries`.
    """
    if wait_seconds:
        with cancel_on_disconnect(request):
            await app.batches.wait(caller, batch_id, seconds=wait_seconds)
    async with read_limiter():
        result = await app.batches.result(caller, batch_id, after=after, limit=limit)
        progress = await app.batches.progress(batch_id)
        counts_only = limit == 0
        retries = [] if after or counts_only else await app.batches.retries(caller, batch_id)

        def answer() -> dict[str, Any]:
            more: dict[str, Any] = {"running_count": progress.running} if progress else {}
            return as_json(result) | more | ({"retries": retries} if retries else {})

        return await json_response(answer, size_bytes=result.size_bytes)


@router.delete("/batches/{batch_id}", response_model_exclude_none=True, openapi_extra=FOR_CALLERS)
async def cancel(batch_id: str, app: AppDep, caller: CallerDep) -> BatchCounts:
    """Cancel a batch: create nothing more, and cancel its running predictions on Replicate."""
    return await app.batches.cancel(caller, batch_id)
