"""Routes that read batches, semaphores, models and health, and the admin's routes."""

from importlib import metadata
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
from replicate_mcp.cpu_bound import read_limiter
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.http_api.client_disconnect import cancel_on_disconnect
from replicate_mcp.http_api.dependencies import AdminDep, AppDep, CallerDep, is_operator
from replicate_mcp.http_api.limits.large_bodies import LargeBodyRoute, json_response
from replicate_mcp.http_api.openapi import FOR_ADMINS, FOR_CALLERS, error_responses
from replicate_mcp.http_api.requests import ConfigureRequest, SemaphoreRequest
from replicate_mcp.http_api.responses import (
    Batch,
    Batches,
    Configured,
    Health,
    Models,
    Registered,
    Removed,
    Semaphores,
    Status,
)
from replicate_mcp.semaphores.permit_store import Scope
from replicate_mcp.tasks.model_name import ALIASES
from replicate_mcp.tasks.recommended_models import CATALOGUE
from replicate_mcp.tasks.result import BatchCounts, as_json
from replicate_mcp.tasks.task import MAX_TASKS

SERVICE = "replicate-mcp"

HEALTH_SECONDS = 2.0
"""Maximum seconds for the backend to answer: health checks wait for a few seconds only."""

MAX_WAIT_SECONDS = 50.0
"""Maximum seconds for which a request for a batch may wait."""


def supported_models() -> list[str]:
    """Return the short names, then the recommended models without one."""
    aliased = set(ALIASES.values())
    return [*ALIASES, *(each.name for each in CATALOGUE if each.name not in aliased)]


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

    With the last `cursor` as `after`, it returns only the results since then.
    """
    if wait_seconds:
        with cancel_on_disconnect(request):
            await app.batches.wait(caller, batch_id, seconds=wait_seconds)
    async with read_limiter():
        result = await app.batches.result(caller, batch_id, after=after, limit=limit)
        progress = await app.batches.progress(batch_id)

        def answer() -> dict[str, Any]:
            content = as_json(result.model_copy(update={"next_step": None}))
            return content | ({"running_count": progress.running} if progress else {})

        return await json_response(answer, size_bytes=result.size_bytes)


@router.delete("/batches/{batch_id}", openapi_extra=FOR_CALLERS)
async def cancel(batch_id: str, app: AppDep, caller: CallerDep) -> BatchCounts:
    """Cancel a batch: create nothing more, and cancel its running predictions on Replicate."""
    return await app.batches.cancel(caller, batch_id)


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


@router.post("/configure", openapi_extra=FOR_ADMINS)
async def configure(body: ConfigureRequest, app: AppDep, caller: AdminDep) -> Configured:
    """Change the limits of the server's own account, for all callers that share it."""
    if body.concurrent_limit is None and body.requests_per_minute is None:
        raise InvalidInput("Give concurrent_limit, requests_per_minute, or both.")
    if body.concurrent_limit is not None:
        await app.semaphores.set(app.settings.default_semaphore, body.concurrent_limit)
    if body.requests_per_minute is not None:
        await app.semaphores.set_rate(body.requests_per_minute)
    return Configured(
        success=True,
        message="The limits were changed.",
        new_settings=await _concurrency(app, caller),
    )


@router.get(
    "/health",
    response_model=Health,
    responses={503: {"model": Health, "description": "Its state cannot be used."}},
)
async def health(request: Request, app: AppDep) -> JSONResponse:
    """Report whether the service works.

    The status is 503 if its backend cannot be used; only the operator sees the reason.
    """
    scope = await _scope_that_works(app)
    working = not isinstance(scope, BackendUnavailable)
    if working:
        concurrency = {"backend": "ok", "scope": scope}
    else:
        concurrency = {"backend": str(scope) if is_operator(request) else "unavailable"}
    answer = Health(
        status="healthy" if working else "unhealthy",
        service=SERVICE,
        version=metadata.version(SERVICE),
        supported_models=supported_models(),
        concurrency_status=concurrency | {"concurrent_limit": app.settings.concurrent_limit},
    )
    return JSONResponse(answer.model_dump(), 200 if working else 503)


async def _scope_that_works(app: App) -> Scope | BackendUnavailable:
    """Return the backend's scope once it has answered, else the error."""
    outcome: list[Scope | BackendUnavailable] = []
    answered = anyio.Event()

    async def ask() -> None:
        try:
            backend = await app.backend()
            await backend.get_cached("health")
            outcome.append(backend.scope)
        except BackendUnavailable as error:
            outcome.append(error)
        answered.set()

    app.start_background(ask)  # A call that waits for a lock cannot be cancelled.
    with anyio.move_on_after(HEALTH_SECONDS):
        await answered.wait()
    late = BackendUnavailable(f"The state did not answer within {HEALTH_SECONDS:.0f} s.")
    return outcome[0] if outcome else late


@router.get("/models")
async def models() -> Models:
    """List the short names, then the other recommended models; any `owner/name` works as well."""
    names = supported_models()
    return Models(supported_models=names, model_count=len(names))


@router.get("/status", openapi_extra=FOR_CALLERS)
async def status(app: AppDep, caller: CallerDep) -> Status:
    """Return the service's configuration, and the use of the caller's account."""
    return Status(
        service=SERVICE,
        version=metadata.version(SERVICE),
        admin_api_configured=app.settings.admin_api_key is not None,
        default_replicate_key_configured=app.settings.token is not None,
        concurrency=await _concurrency(app, caller),
    )


async def _concurrency(app: App, caller: Caller) -> dict[str, Any]:
    own = (await app.semaphores.list_for(caller))[0]
    return {
        "concurrent_limit": own.limit,
        "available_slots": own.available,
        "in_use": own.in_use,
        "waiting": own.waiting,
        "requests_per_minute": own.requests_per_minute,
    }
