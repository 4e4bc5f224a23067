"""Preparation of a batch: checks a whole request before anything is created for it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from replicate_mcp.app.semaphores import resolve
from replicate_mcp.auth import Caller
from replicate_mcp.cpu_bound import INLINE_BYTES, json_size, run_cpu_bound
from replicate_mcp.errors import (
    InvalidInput,
    ReplicateMcpError,
    ReplicateUnavailable,
    TaskProblem,
    refusal_of,
)
from replicate_mcp.semaphores.names import check_limit
from replicate_mcp.settings import Settings

if TYPE_CHECKING:
    from replicate_mcp.app.composition import Components
    from replicate_mcp.batches.journal import IdempotencyKey, RetriedTasks
    from replicate_mcp.batches.local_images import Image, ImagePaths
    from replicate_mcp.batches.planning import PlannedBatch
    from replicate_mcp.replicate_api.gateway import Gateway
    from replicate_mcp.tasks.references import Reference
    from replicate_mcp.tasks.result import GeneratedFile
    from replicate_mcp.tasks.task import Task

PREPARE_TIMEOUT_SECONDS = 30.0
"""Longest time for requests about an account and its models before a batch is refused."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A caller's request to repeat tasks of one of their batches.

    Attributes:
        batch_id: id of the batch.
        task_indexes: the tasks to repeat, whatever their outcome; None for the failed ones that
            are retryable and that no other retry makes or has made.
        new_seed: choose new seeds; otherwise each task has the seed that it had.
    """

    batch_id: str
    task_indexes: Sequence[int] | None = None
    new_seed: bool = False


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A caller's request for a batch.

    Attributes:
        tasks: a list of mappings, as the caller gave it, not checked yet.
        model: model of the tasks that name none; None for the default model.
        semaphore: name of the semaphore of which each task needs a unit, in addition to the
            account's own; None for the account's own alone.
        concurrency_limit: number of tasks that may run at once; None for the semaphores' limits.
        shared_inputs: inputs of all tasks; a task's own inputs override them.
        key: idempotency key; a repeated request with it gets the same batch.
        image_paths: which images of this machine the tasks may name by a path.
        attached: images without a path, by the URIs that stand for them in `tasks`.
        upload_seconds: longest time for the upload of images, after which the request is refused;
            None for no limit.
        skip_invalid: run the valid tasks if others are invalid, and report each invalid one as
            failed; otherwise one invalid task refuses the request.
        retry: the tasks of an earlier batch to repeat, in place of `tasks`.
        retried: the tasks of an earlier batch that `tasks` repeat; None for new tasks.
    """

    tasks: object = None
    model: str | None = None
    semaphore: str | None = None
    concurrency_limit: int | None = None
    shared_inputs: Mapping[str, Any] | None = None
    key: "IdempotencyKey | None" = None
    image_paths: "ImagePaths" = "none"
    attached: "Mapping[str, Image] | None" = None
    upload_seconds: float | None = None
    skip_invalid: bool = False
    retry: Retry | None = None
    retried: "RetriedTasks | None" = None


class Preparation:
    """The checks of one request, and the uploads of its images."""

    def __init__(self, request: BatchRequest, settings: Settings) -> None:
        from replicate_mcp.batches.local_images import LocalImages

        self._request = request
        self._settings = settings
        self._size = json_size([request.tasks, request.shared_inputs or {}, request.model])
        self._tasks: Sequence[Task] | None = None
        self._images = LocalImages.allowed(
            request.image_paths, settings.files, request.attached or {}
        )

    @property
    def key(self) -> "IdempotencyKey | None":
        """The request's idempotency key; None if it has none."""
        return self._request.key

    async def check_small(self) -> None:
        """Check what needs neither Replicate nor the backend, unless the request is large.

        The tasks of a retry are in the journal, so that nothing of it is checked here.

        Raises:
            InvalidInput: the request is not a list of tasks.
        """
        if self._request.concurrency_limit is not None:
            check_limit(self._request.concurrency_limit)
        if self._request.retry is None and self._size <= INLINE_BYTES:
            self._tasks = await self._parse()

    async def plan(self, components: "Components", caller: Caller) -> "PlannedBatch":
        """Check the tasks against their models, and return the batch to start.

        Raises:
            InvalidInput: tasks have problems; lists all of them. Raised with those found so far,
                too, if a request to Replicate or to the backend failed.
            ReplicateMcpError: the request is refused.
        """
        from replicate_mcp.batches.planning import (
            PlannedBatch,
            check_problems,
            find_models,
            plan,
            refuse,
        )

        request = self._request
        if self._tasks is None:
            # The token may be made up: a large request is parsed only once Replicate knows its
            # token.
            with _prepare_timeout():
                await components.account(caller.token, caller.source)
            self._tasks = await self._parse()
        tasks = self._tasks
        try:
            with _prepare_timeout():
                account = await components.account(caller.token, caller.source)
                gateway = components.accounts.gateway(caller.token)
                await _sync_clock(gateway)
                shown, semaphores = await resolve(
                    components.backend,
                    account,
                    request.semaphore or None,
                    default=self._settings.default_semaphore,
                )
                models = await find_models(tasks, gateway, components.models, account)
        except ReplicateMcpError as error:
            found = [problem for task in tasks for problem in task.problems]
            if not found or request.skip_invalid:
                raise
            if isinstance(error, InvalidInput):
                found.insert(0, TaskProblem(None, None, str(error)))
            raise refusal_of(found) from None
        planned = await plan(tasks, models, self._images)
        images: Mapping[Reference, GeneratedFile] = {}
        if any(task.referring for task in planned):
            from replicate_mcp.app.references import find_images

            retried = request.retried.batch_id if request.retried else None
            images, problems = await find_images(
                planned, caller, components.backend, retried=retried
            )
            planned = refuse(planned, problems)
        check_problems(planned, skip_invalid=request.skip_invalid)
        return PlannedBatch(
            tasks=planned,
            gateway=gateway,
            account=account,
            caller=caller.name,
            shown_semaphore=shown,
            semaphores=semaphores,
            max_running=request.concurrency_limit,
            key=request.key,
            retry=request.retried,
            images=images,
        )

    async def upload_images(self, batch: "PlannedBatch") -> "PlannedBatch":
        """Upload the images of this machine that the batch needs, and put in their URLs.

        Raises:
            ReplicateMcpError: an image could not be uploaded in time; nothing was created.
        """
        from replicate_mcp.batches.uploads import upload_images

        seconds = self._request.upload_seconds
        with anyio.move_on_after(seconds):
            tasks = await upload_images(batch.tasks, self._images, batch.gateway)
            return replace(batch, tasks=tasks)
        raise ReplicateUnavailable(
            f"The images were not at Replicate within {seconds:.0f} s, so nothing was created: use "
            "smaller ones, or give their URLs."
        )

    async def _parse(self) -> "Sequence[Task]":
        from replicate_mcp.tasks.json_text import READING_COST
        from replicate_mcp.tasks.task import parse_tasks

        def parse() -> "Sequence[Task]":
            return parse_tasks(
                self._request.tasks,
                model=self._request.model,
                default_model=self._settings.default_model,
                shared=self._request.shared_inputs,
            )

        return await run_cpu_bound(parse, size_bytes=self._size * READING_COST)


@contextlib.contextmanager
def _prepare_timeout() -> Iterator[None]:
    """Bound the time that Replicate has to answer before anything is created.

    Raises:
        ReplicateUnavailable: `PREPARE_TIMEOUT_SECONDS` have passed.
    """
    try:
        with anyio.fail_after(PREPARE_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        raise ReplicateUnavailable(
            f"Replicate did not answer within {PREPARE_TIMEOUT_SECONDS:.0f} s, so nothing was "
            "created: try again."
        ) from None


async def _sync_clock(gateway: "Gateway") -> None:
    """Synchronise with Replicate's clock, which reconciling attempts with predictions needs."""
    from replicate_mcp.replicate_api.error_policy import to_public_error
    from replicate_mcp.replicate_api.exceptions import ReplicateApiError

    try:
        await gateway.sync_clock()
    except ReplicateApiError as fault:
        error = to_public_error(fault)
        raise type(error)(f"Nothing was created. {error}") from None
