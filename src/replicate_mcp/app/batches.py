"""Operations on batches: each caller starts, follows and cancels their own."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from replicate_mcp.app.semaphores import SemaphoreOperations
from replicate_mcp.auth import Caller
from replicate_mcp.batches.progress import OnProgress, Progress, progress, watch
from replicate_mcp.cpu_bound import INLINE_BYTES, json_size, run_cpu_bound
from replicate_mcp.errors import (
    IdempotencyKeyConflict,
    InvalidInput,
    ReplicateMcpError,
    ReplicateUnavailable,
    TaskProblem,
    UnknownBatch,
    refusal_of,
)
from replicate_mcp.semaphores.names import check_limit
from replicate_mcp.settings import Settings
from replicate_mcp.text import escaped

if TYPE_CHECKING:
    from replicate_mcp.app.composition import Components
    from replicate_mcp.batches.backend import BatchState, IdempotencyKey
    from replicate_mcp.batches.local_images import Image, ImagePaths, LocalImages
    from replicate_mcp.batches.planning import PlannedTask
    from replicate_mcp.replicate_api.gateway import Gateway
    from replicate_mcp.tasks.result import BatchCounts, BatchResult, ListedBatch
    from replicate_mcp.tasks.task import Task

PREPARE_TIMEOUT_SECONDS = 30.0
"""Longest time for requests about an account and its models before a batch is refused."""

JOURNAL_POLL_SECONDS = 0.5
"""Interval at which the journal is read while a caller waits for another process's batch."""

ConfirmCallback = Callable[[Sequence["PlannedTask"]], Awaitable[None]]
"""Awaited with the valid tasks once all is checked, before anything is sent; it may raise."""


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
    """

    tasks: object
    model: str | None = None
    semaphore: str | None = None
    concurrency_limit: int | None = None
    shared_inputs: Mapping[str, Any] | None = None
    key: "IdempotencyKey | None" = None
    image_paths: "ImagePaths" = "none"
    attached: "Mapping[str, Image] | None" = None
    upload_seconds: float | None = None
    skip_invalid: bool = False


@dataclass(frozen=True, slots=True)
class _PreparedRequest:
    """A request checked against Replicate and the backend; nothing has been created for it."""

    gateway: "Gateway"
    account: str
    shown_semaphore: str
    semaphores: tuple[str, ...]
    tasks: "Sequence[PlannedTask]"
    images: "LocalImages"


class BatchOperations:
    """Operations on the journal's batches and on those that this process runs.

    Args:
        get_components: returns the process's components, opened by the first call that needs them.
    """

    def __init__(
        self,
        settings: Settings,
        semaphores: SemaphoreOperations,
        get_components: Callable[[], Awaitable["Components"]],
    ) -> None:
        self._settings = settings
        self._semaphores = semaphores
        self._get_components = get_components
        self._waits: set[anyio.CancelScope] = set()
        self._is_shutting_down = False

    async def start(
        self, caller: Caller, request: BatchRequest, *, consent: ConfirmCallback | None = None
    ) -> str:
        """Check a whole request, start its batch, and return the batch's id.

        Args:
            caller: the authenticated caller.
            request: the request to check.
            consent: confirms the valid tasks before anything is sent; None to send without it.

        Raises:
            ReplicateMcpError: the whole request is refused; nothing was created.
        """
        from replicate_mcp.batches.backend import IdempotencyKeyExists
        from replicate_mcp.batches.planning import check_problems

        if request.concurrency_limit is not None:
            check_limit(request.concurrency_limit)
        size = json_size([request.tasks, request.shared_inputs or {}, request.model])
        tasks = await self._parse(request, size) if size <= INLINE_BYTES else None
        parts, key = await self._get_components(), request.key
        try:
            if key is not None:
                await parts.backend.check_idempotency_key(caller.name, key.key)
            if tasks is None:
                # The token may be made up: a large request is parsed only once Replicate knows its
                # token.
                with _prepare_timeout():
                    await parts.account(caller.token, caller.source)
                tasks = await self._parse(request, size)
            found = await self._prepare(parts, caller, request, tasks)
            check_problems(found.tasks, skip_invalid=request.skip_invalid)
            if consent is not None:
                await consent([task for task in found.tasks if not task.problems])
            batch = await parts.runner.start(
                await _uploaded(found, request.upload_seconds),
                gateway=found.gateway,
                account=found.account,
                caller=caller.name,
                shown_semaphore=found.shown_semaphore,
                semaphores=found.semaphores,
                max_running=request.concurrency_limit,
                key=key,
            )
        except ExceptionGroup as group:  # Models are resolved, and images uploaded, in task groups.
            raise _first_error(group) from None
        except IdempotencyKeyExists as taken:
            if key is None or taken.digest != key.digest:
                raise IdempotencyKeyConflict(
                    "This Idempotency-Key belongs to another request of yours: use a new one."
                ) from None
            return taken.batch_id
        return batch.id

    async def wait(
        self,
        caller: Caller,
        batch_id: str,
        *,
        seconds: float | None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Wait until the batch ends or this process shuts down, and report progress.

        Args:
            caller: the authenticated caller.
            batch_id: id of the batch.
            seconds: longest time to wait; None for no limit.
            on_progress: receives progress while this process runs the batch.
        """
        parts = await self._get_components()
        await self._load_visible_batch(parts, caller, batch_id)
        with self._waiting(seconds):
            running = parts.runner.running(batch_id)
            if running is not None:
                await watch(running, on_progress)
            while await self._is_running(parts, batch_id):  # noqa: ASYNC110
                # Another process runs it; backend wake-ups are only for processes that wait for
                # permits.
                await anyio.sleep(JOURNAL_POLL_SECONDS)

    async def result(
        self,
        caller: Caller,
        batch_id: str | None,
        *,
        after: int = 0,
        limit: int | None = None,
        characters: int | None = None,
    ) -> "BatchResult":
        """Return a batch's counts and its finished tasks, without the first `after` of them.

        Args:
            caller: the authenticated caller.
            batch_id: None for the caller's newest batch.
            after: number of finished tasks to skip, in the order in which they finished.
            limit: maximum number of rows; None for all.
            characters: maximum length of all rows together; None for any length.

        Raises:
            UnknownBatch: the caller has no such batch.
        """
        from replicate_mcp.tasks.result import page, take_within

        parts = await self._get_components()
        state = await self._load_visible_batch(parts, caller, batch_id)
        rows = await parts.backend.results(state.id, after=after, limit=limit)
        rows = rows if characters is None else take_within(rows, characters)
        state = await self._load_visible_batch(parts, caller, state.id)
        return page(counts_of(state), rows, after=min(after, state.succeeded + state.failed))

    async def list(self, caller: Caller, *, limit: int = 100) -> "list[ListedBatch]":
        """Return the caller's batches, newest first."""
        from replicate_mcp.tasks.result import ListedBatch

        parts = await self._get_components()
        states = await parts.backend.list_batches(caller.visible_callers, limit=limit)
        return [
            ListedBatch(
                **counts_of(each).model_dump(),
                is_stopping=counts_of(each).is_stopping,
                created_at=_moment(each.created_at),
                ended_at=None if each.ended_at is None else _moment(each.ended_at),
                first_prompt=each.first_prompt,
            )
            for each in states
        ]

    async def cancel(self, caller: Caller, batch_id: str) -> "BatchCounts":
        """Cancel a batch, including its predictions on Replicate.

        Raises:
            BackendUnavailable: the journal cannot be reached; the tasks that this process runs are
                stopped all the same.
        """
        parts = await self._get_components()
        running = parts.runner.running(batch_id)
        if running is None or running.caller not in caller.visible_callers:
            running = None
            await self._load_visible_batch(parts, caller, batch_id)
        try:
            await parts.backend.cancel_batch(batch_id)
        finally:
            if running is not None:
                parts.runner.cancel(running)
        return counts_of(await self._load_visible_batch(parts, caller, batch_id))

    async def progress(self, batch_id: str) -> Progress | None:
        """Return the current progress of a batch; None if this process does not run it."""
        running = (await self._get_components()).runner.running(batch_id)
        if running is None:
            return None
        return progress(running)

    async def wait_until_stopped(self, batch_id: str) -> None:
        """Wait until no prediction of a batch of this process runs on Replicate."""
        parts = await self._get_components()
        if running := parts.runner.running(batch_id):
            await running.ended.wait()

    def begin_shutdown(self) -> None:
        """End every wait for a batch, now and from now on."""
        self._is_shutting_down = True
        for waiting in self._waits:
            waiting.cancel()

    async def _parse(self, request: BatchRequest, size: int) -> "Sequence[Task]":
        from replicate_mcp.tasks.json_text import READING_COST
        from replicate_mcp.tasks.task import parse_tasks

        def parse() -> "Sequence[Task]":
            return parse_tasks(
                request.tasks,
                model=request.model,
                default_model=self._settings.default_model,
                shared=request.shared_inputs,
            )

        return await run_cpu_bound(parse, size_bytes=size * READING_COST)

    async def _prepare(
        self, parts: "Components", caller: Caller, request: BatchRequest, tasks: "Sequence[Task]"
    ) -> _PreparedRequest:
        """Check a request's tasks against their models.

        Raises:
            InvalidInput: the tasks have problems. Raised with those found so far, too, if the
                request to Replicate or to the backend failed.
        """
        from replicate_mcp.batches.local_images import LocalImages
        from replicate_mcp.batches.planning import find_models, plan

        images = LocalImages.allowed(
            request.image_paths, self._settings.files, request.attached or {}
        )
        try:
            with _prepare_timeout():
                account = await parts.account(caller.token, caller.source)
                gateway = parts.accounts.gateway(caller.token)
                await _sync_clock(gateway)
                shown, semaphores = await self._semaphores.resolve(
                    account, request.semaphore or None
                )
                models = await find_models(tasks, gateway, parts.models, account)
        except (ReplicateMcpError, ExceptionGroup) as error:
            found = [problem for task in tasks for problem in task.problems]
            if not found or request.skip_invalid:
                raise
            if isinstance(error, InvalidInput):
                found.insert(0, TaskProblem(None, None, str(error)))
            raise refusal_of(found) from None
        planned = await plan(tasks, models, images)
        return _PreparedRequest(gateway, account, shown, semaphores, planned, images)

    @contextlib.contextmanager
    def _waiting(self, seconds: float | None) -> Iterator[None]:
        with anyio.move_on_after(0 if self._is_shutting_down else seconds) as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)

    async def _load_visible_batch(
        self, parts: "Components", caller: Caller, batch_id: str | None
    ) -> "BatchState":
        state = await self._load_batch(parts, caller, batch_id)
        is_elsewhere = state.status == "running" and parts.runner.running(state.id) is None
        if is_elsewhere and caller.has_own_token:
            # The process that runs it may be gone; the caller's token then allows its recovery
            # here.
            with contextlib.suppress(ReplicateMcpError):
                await parts.account(caller.token, caller.source)
        return state

    @staticmethod
    async def _load_batch(
        parts: "Components", caller: Caller, batch_id: str | None
    ) -> "BatchState":
        if batch_id is None:
            newest = await parts.backend.list_batches(caller.visible_callers, limit=1)
            if newest:
                return newest[0]
            raise UnknownBatch("There is no batch yet: generate_images starts one.")
        state = await parts.backend.get_batch(batch_id)
        if state is None or state.caller not in caller.visible_callers:
            raise UnknownBatch(
                f"There is no batch '{escaped(batch_id[:60])}': batches are remembered for 24 "
                "hours, ended ones only while their account has room, and only their own caller "
                "sees them."
            )
        return state

    @staticmethod
    async def _is_running(parts: "Components", batch_id: str) -> bool:
        state = await parts.backend.get_batch(batch_id)
        return state is not None and state.status == "running"


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


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def counts_of(state: "BatchState") -> "BatchCounts":
    """Return a batch's counts, in the form that callers receive."""
    from replicate_mcp.tasks.result import BatchCounts

    return BatchCounts(
        batch_id=state.id,
        status=state.status,
        total_tasks=state.total,
        successful_count=state.succeeded,
        failed_count=state.failed,
        pending_count=state.total - state.succeeded - state.failed,
        semaphore=state.semaphore,
        is_stopping=state.canceled and state.status == "running",
    )


async def _uploaded(found: _PreparedRequest, seconds: float | None) -> "Sequence[PlannedTask]":
    from replicate_mcp.batches.uploads import upload_images

    with anyio.move_on_after(seconds):
        return await upload_images(found.tasks, found.images, found.gateway)
    raise ReplicateUnavailable(
        f"The images were not at Replicate within {seconds:.0f} s, so nothing was created: use "
        "smaller ones, or give their URLs."
    )


def _first_error(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error in `group`, as an error for callers."""
    from replicate_mcp.replicate_api.error_policy import to_public_error
    from replicate_mcp.replicate_api.exceptions import ReplicateApiError

    first = group.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return to_public_error(first) if isinstance(first, ReplicateApiError) else first
