"""Routes that list semaphores, and let the admin register, resize and remove them."""

from fastapi import APIRouter

from replicate_mcp.http_api.dependencies import AdminDep, AppDep, CallerDep
from replicate_mcp.http_api.limits.large_bodies import LargeBodyRoute
from replicate_mcp.http_api.openapi import FOR_ADMINS, FOR_CALLERS, error_responses
from replicate_mcp.http_api.requests import SemaphoreRequest
from replicate_mcp.http_api.responses import (
    Registered,
    Removed,
    Semaphores,
)

router = APIRouter(responses=error_responses(401, 404, 422, 502), route_class=LargeBodyRoute)


@router.get("/global-semaphores", response_model_exclude_none=True, openapi_extra=FOR_CALLERS)
async def semaphores(app: AppDep, caller: CallerDep) -> Semaphores:
    """List the limits that apply to you, and their use."""
    found = await app.semaphores.list_for(caller)
    names = [each.name for each in found]
    return Semaphores(global_semaphores=names, count=len(found), semaphores=found)


@router.post("/global-semaphores", openapi_extra=FOR_ADMINS)
async def set_semaphore(body: SemaphoreRequest, app: AppDep, _: AdminDep) -> Registered:
    """Register a semaphore, or resize a registered one.

    The limit remains in effect until it is set again.
    """
    state = await app.semaphores.set(body.semaphore_id, body.limit)
    names = [each.name for each in await app.semaphores.list_own()]
    return Registered(
        success=True,
        message=f"{state.name} allows {state.limit} at once.",
        semaphore_id=state.name,
        limit=state.limit,
        all_semaphores=names,
    )


@router.delete("/global-semaphores/{semaphore_id}", openapi_extra=FOR_ADMINS)
async def remove_semaphore(semaphore_id: str, app: AppDep, _: AdminDep) -> Removed:
    """Remove a registered semaphore.

    It is refused while tasks or processes use the semaphore.
    """
    await app.semaphores.remove(semaphore_id)
    return Removed(
        success=True,
        message=f"{semaphore_id} is removed.",
        semaphore_id=semaphore_id,
        all_semaphores=[each.name for each in await app.semaphores.list_own()],
    )
