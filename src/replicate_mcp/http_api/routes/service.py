"""Routes about the service: health, models, status and the settings of its own account."""

from importlib import metadata
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.http_api.dependencies import AdminDep, AppDep, CallerDep, is_operator
from replicate_mcp.http_api.limits.large_bodies import LargeBodyRoute
from replicate_mcp.http_api.openapi import FOR_ADMINS, FOR_CALLERS, error_responses
from replicate_mcp.http_api.requests import ConfigureRequest
from replicate_mcp.http_api.responses import (
    Configured,
    Health,
    Models,
    Status,
)
from replicate_mcp.semaphores.permit_store import Scope
from replicate_mcp.tasks.model_name import ALIASES
from replicate_mcp.tasks.recommended_models import CATALOGUE

SERVICE = "replicate-mcp"

HEALTH_SECONDS = 2.0
"""Maximum seconds for the backend to answer: health checks wait for a few seconds only."""


def supported_models() -> list[str]:
    """Return the short names, then the recommended models without one."""
    aliased = set(ALIASES.values())
    return [*ALIASES, *(each.name for each in CATALOGUE if each.name not in aliased)]


router = APIRouter(responses=error_responses(401, 404, 422, 502), route_class=LargeBodyRoute)


@router.get(
    "/health",
    response_model=Health,
    responses={503: {"model": Health, "description": "Its backend cannot be used."}},
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
    late = BackendUnavailable(f"The backend did not answer within {HEALTH_SECONDS:.0f} s.")
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


async def _concurrency(app: App, caller: Caller) -> dict[str, Any]:
    own = (await app.semaphores.list_for(caller))[0]
    return {
        "concurrent_limit": own.limit,
        "available_slots": own.available,
        "in_use": own.in_use,
        "waiting": own.waiting,
        "requests_per_minute": own.requests_per_minute,
    }
