"""Response bodies of the HTTP API, without its errors."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from replicate_mcp.semaphores.status import SemaphoreStatus
from replicate_mcp.tasks.result import BatchResult, ListedBatch, TaskSuccess, as_json


class Batch(BaseModel):
    """A batch's counts, with its results if they were requested."""

    model_config = ConfigDict(extra="allow")

    batch_id: str
    status: str
    total_tasks: int
    successful_count: int
    failed_count: int
    pending_count: int
    semaphore: str


class GeneratedBatch(Batch):
    """Result of `POST /generate-batch`, whatever the outcome of its tasks."""

    success: bool
    model_name: str
    successful_results: list[dict[str, Any]]
    failed_results: list[dict[str, Any]]
    external_semaphore_used: bool
    semaphore_id: str | None


class RetriedBatch(Batch):
    """Result of `POST /batches/{batch_id}/retry`: the new batch, whatever the outcome of its tasks.

    Each row has the `retried_task_index` of the task that it repeats.
    """

    success: bool
    retry_of: str
    successful_results: list[dict[str, Any]]
    failed_results: list[dict[str, Any]]


class GeneratedImage(BaseModel):
    """Result of `POST /generate`."""

    model_config = ConfigDict(extra="allow")

    success: bool
    model_name: str
    prompt: str | None = None
    output_filename: str
    generated_files: list[dict[str, Any]]
    count: int
    batch_id: str
    external_semaphore_used: bool
    semaphore_id: str | None


class Batches(BaseModel):
    """The caller's batches, newest first."""

    batches: list[ListedBatch]
    count: int


class Semaphores(BaseModel):
    """The names and the state of the semaphores that the caller can see."""

    global_semaphores: list[str]
    count: int
    semaphores: list[SemaphoreStatus]


class Registered(BaseModel):
    """A semaphore that was registered or resized."""

    success: bool
    message: str
    semaphore_id: str
    limit: int
    all_semaphores: list[str]


class Removed(BaseModel):
    """A semaphore that was removed."""

    success: bool
    message: str
    semaphore_id: str
    all_semaphores: list[str]


class Configured(BaseModel):
    """Limits of the server's account after a change."""

    success: bool
    message: str
    new_settings: dict[str, Any]


class Health(BaseModel):
    """State of the service."""

    status: str
    service: str
    version: str
    supported_models: list[str]
    concurrency_status: dict[str, Any]


class Models(BaseModel):
    """Short names and recommended models; any `owner/name` works as well."""

    supported_models: list[str]
    model_count: int


class Status(BaseModel):
    """Configuration of the service, without secrets, and the use of its limits."""

    service: str
    version: str
    admin_api_configured: bool
    default_replicate_key_configured: bool
    concurrency: dict[str, Any]


def made_image(
    success: TaskSuccess, batch_id: str, model: str | None, semaphore: str | None
) -> dict[str, Any]:
    """Return the body for a single image that succeeded."""
    return {
        "success": True,
        "model_name": model or success.model,
        **as_json(success),
        "batch_id": batch_id,
        **_semaphore(semaphore),
    }


def made_batch(result: BatchResult, model: str, semaphore: str | None) -> dict[str, Any]:
    """Return the body for a batch that ran, whatever the outcome of its tasks."""
    return {"success": True, "model_name": model, **as_json(result), **_semaphore(semaphore)}


def _semaphore(named: str | None) -> dict[str, Any]:
    return {"external_semaphore_used": named is not None, "semaphore_id": named}
