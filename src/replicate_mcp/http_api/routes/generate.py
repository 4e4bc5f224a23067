"""The routes that start batches: `POST /generate`, `/generate-batch` and `/batches/{id}/retry`."""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest, Retry
from replicate_mcp.auth import Caller
from replicate_mcp.batches.journal import IdempotencyKey
from replicate_mcp.batches.tracing import joined_to
from replicate_mcp.cpu_bound import json_size, read_limiter, run_cpu_bound
from replicate_mcp.errors import InvalidInput
from replicate_mcp.http_api.client_disconnect import cancel_on_disconnect
from replicate_mcp.http_api.dependencies import AppDep, caller_of
from replicate_mcp.http_api.error_responses import failed_image_response
from replicate_mcp.http_api.limits.large_bodies import LargeBodyRoute, json_response
from replicate_mcp.http_api.openapi import FOR_CALLERS, Responses, error_responses
from replicate_mcp.http_api.requests import (
    GenerateBatchRequest,
    GenerateBody,
    GenerateRequest,
    RetryRequest,
)
from replicate_mcp.http_api.responses import (
    Batch,
    GeneratedBatch,
    GeneratedImage,
    RetriedBatch,
    made_batch,
    made_image,
)
from replicate_mcp.tasks.result import BatchResult, as_json

router = APIRouter(route_class=LargeBodyRoute)

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        description="the same request under the same key gets the same batch, whatever became of "
        "it, for 24 hours: what failed in it is sent again under a new key",
    ),
]
Prefer = Annotated[str | None, Header()]

_ANSWERS: Responses = {
    202: {"model": Batch, "description": "The batch runs; poll the URL in `Location`."},
    **error_responses(401, 402, 404, 422, 502, 504),
}


@router.post(
    "/generate", response_model=GeneratedImage, responses=_ANSWERS, openapi_extra=FOR_CALLERS
)
async def generate(
    body: GenerateRequest, request: Request, app: AppDep, key: Key = None, prefer: Prefer = None
) -> Response:
    """Generate one image and return its URL.

    If it fails, the response is an error with the status of its `error_code`.
    """
    caller = caller_of(request, body.own_token)
    batch_id = await _started(request, app, caller, body, key)
    if _is_asynchronous(prefer):
        return await _accepted(request, app, caller, batch_id, applied=True)
    with cancel_on_disconnect(request):
        await app.batches.wait(caller, batch_id, seconds=None)
    result = await app.batches.result(caller, batch_id)
    if result.status == "running":
        return await _accepted(request, app, caller, batch_id)
    if result.failed_results:
        return failed_image_response(result.failed_results[0], batch_id)
    (made,) = result.successful_results
    answer = made_image(made, batch_id, body.named_model, body.named_semaphore)
    return JSONResponse(answer)


@router.post(
    "/generate-batch", response_model=GeneratedBatch, responses=_ANSWERS, openapi_extra=FOR_CALLERS
)
async def generate_batch(
    body: GenerateBatchRequest,
    request: Request,
    app: AppDep,
    key: Key = None,
    prefer: Prefer = None,
) -> Response:
    """Generate many images, concurrently within the limits.

    The response is 200 whatever the outcome of the tasks: failed ones are in `failed_results`.
    """
    caller = caller_of(request, body.own_token)
    batch_id = await _started(request, app, caller, body, key)
    model = body.named_model or app.settings.default_model
    return await _finished(
        request,
        app,
        caller,
        batch_id,
        prefer,
        lambda result: made_batch(result, model, body.named_semaphore),
    )


@router.post(
    "/batches/{batch_id}/retry",
    response_model=RetriedBatch,
    responses=_ANSWERS,
    openapi_extra=FOR_CALLERS,
)
async def retry(
    batch_id: str,
    request: Request,
    app: AppDep,
    body: RetryRequest | None = None,
    key: Key = None,
    prefer: Prefer = None,
) -> Response:
    """Make tasks of a batch again, in a new batch, with the inputs that they had.

    By default these are the failed tasks whose `retryable` is true. The response is that of
    `POST /generate-batch`, where each row has the `retried_task_index` of the task that it repeats.
    """
    body = body or RetryRequest()
    caller = caller_of(request, body.own_token)
    retried = Retry(batch_id, body.task_indexes, new_seed=bool(body.new_seed))
    digest = IdempotencyKey(key, _digest(body, retry_of=batch_id)) if key else None
    with joined_to(request.headers):
        started = await app.batches.start(caller, BatchRequest(retry=retried, key=digest))
    return await _finished(
        request, app, caller, started, prefer, lambda result: {"success": True, **as_json(result)}
    )


async def _finished(
    request: Request,
    app: App,
    caller: Caller,
    batch_id: str,
    prefer: str | None,
    body_of: Callable[[BatchResult], Any],
) -> Response:
    """Return the response with a batch's result, or its location if that is preferred."""
    if _is_asynchronous(prefer):
        return await _accepted(request, app, caller, batch_id, applied=True)
    with cancel_on_disconnect(request):
        await app.batches.wait(caller, batch_id, seconds=None)
    async with read_limiter():
        result = await app.batches.result(caller, batch_id)
        if result.status == "running":
            return await _accepted(request, app, caller, batch_id)
        return await json_response(lambda: body_of(result), size_bytes=result.size_bytes)


async def _started(
    request: Request, app: App, caller: Caller, body: GenerateBody, key: str | None
) -> str:
    """Return the batch of this request: a new one, or that of an earlier request with its key."""
    if body.concurrency_limit is not None and not caller.has_own_token:
        raise InvalidInput(
            "concurrency_limit goes with a token of your own: the limit of the server's account is "
            "set with POST /configure."
        )

    def read() -> BatchRequest:
        return BatchRequest(
            body.all_tasks,
            model=body.named_model,
            semaphore=body.named_semaphore,
            concurrency_limit=body.concurrency_limit,
            shared_inputs=body.shared_inputs,
            key=IdempotencyKey(key, _digest(body)) if key else None,
            skip_invalid=bool(body.skip_invalid),
        )

    given = [getattr(body, name) for name in type(body).model_fields]
    size = json_size([given, body.model_extra or {}])
    with joined_to(request.headers):
        return await app.batches.start(caller, await run_cpu_bound(read, size_bytes=size))


def _digest(body: BaseModel, **beside: str) -> str:
    """Return a digest of the request, to detect another one with the same key."""
    try:
        content = body.model_dump(mode="json", exclude={"credentials"})
    except ValueError:  # More than 255 levels; no valid input has them.
        raise InvalidInput("The request's body is nested too deeply.") from None
    return hashlib.sha256(json.dumps(content | beside, sort_keys=True).encode()).hexdigest()


def _is_asynchronous(prefer: str | None) -> bool:
    return "respond-async" in (prefer or "").lower().replace(",", " ").split()


async def _accepted(
    request: Request, app: App, caller: Caller, batch_id: str, *, applied: bool = False
) -> JSONResponse:
    """Return 202: the batch runs, and the caller did not want to wait.

    Also for a batch that outlives this process, which is shutting down.
    """
    if not await request.is_disconnected():  # Else the caller does not receive the id.
        await app.batches.mark_resumable(batch_id)
    result = await app.batches.result(caller, batch_id, limit=0)
    prefix = urlsplit(app.settings.public_url or "").path
    headers = {"Location": f"{prefix}/batches/{batch_id}"}
    if applied:
        headers["Preference-Applied"] = "respond-async"
    return JSONResponse(as_json(result), 202, headers)
