"""Operations on batches: each caller starts, follows and cancels their own."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from replicate_mcp.app.preparation import BatchRequest, Preparation, Retry
from replicate_mcp.auth import Caller
from replicate_mcp.batches.progress import OnProgress, Progress, progress, watch
from replicate_mcp.errors import IdempotencyKeyConflict, ReplicateMcpError, UnknownBatch
from replicate_mcp.settings import Settings
from replicate_mcp.text import escaped

if TYPE_CHECKING:
    from replicate_mcp.app.composition import Components
    from replicate_mcp.app.retry import BatchRetry
    from replicate_mcp.batches.journal import BatchState
    from replicate_mcp.batches.planning import PlannedTask
    from replicate_mcp.tasks.result import BatchCounts, BatchResult, ListedBatch

JOURNAL_POLL_SECONDS = 0.5
"""Interval at which the journal is read while a caller waits for another process's batch."""

MAX_BATCHES_SEARCHED = 100
"""Maximum batches searched for one with something to retry, and for earlier retries of one."""

ConfirmCallback = Callable[[Sequence["PlannedTask"]], Awaitable[None]]
"""Awaited with the valid tasks once all is checked, before anything is sent; it may raise."""


class BatchOperations:
    """Operations on the journal's batches and on those that this process runs.

    Args:
        get_components: returns the process's components, opened by the first call that needs them.
    """

    def __init__(
        self, settings: Settings, get_components: Callable[[], Awaitable["Components"]]
    ) -> None:
        self._settings = settings
        self._get_components = get_components
        self._waits: set[anyio.CancelScope] = set()
        self._is_shutting_down = False

    async def start(
        self, caller: Caller, request: BatchRequest, *, consent: ConfirmCallback | None = None
    ) -> str:
        """Check a whole request, start its batch, and return the batch's id.

        A request to retry tasks of an earlier batch becomes a request with these tasks.

        Args:
            caller: the authenticated caller.
            request: the request to check.
            consent: confirms the valid tasks before anything is sent; None to send without it.

        Raises:
            ReplicateMcpError: the whole request is refused; nothing was created.
        """
        from replicate_mcp.batches.journal import IdempotencyKeyExists

        preparation = Preparation(request, self._settings)
        await preparation.check_small()
        components, key = await self._get_components(), request.key
        try:
            if key is not None:
                await components.backend.check_idempotency_key(caller.name, key.key)
            if request.retry is not None:
                preparation = await self._prepare_retry(components, caller, request, request.retry)
            batch = await preparation.plan(components, caller)
            if consent is not None:
                await consent([task for task in batch.tasks if not task.problems])
            running = await components.runner.start(await preparation.upload_images(batch))
        except IdempotencyKeyExists as taken:
            key = preparation.key
            if key is None or taken.digest != key.digest:
                raise IdempotencyKeyConflict(
                    "This Idempotency-Key belongs to another request of yours: use a new one."
                ) from None
            return taken.batch_id
        return running.id

    async def newest_to_retry(self, caller: Caller) -> str:
        """Return the newest batch of which a retry repeats tasks by default.

        Raises:
            UnknownBatch: the caller has no such batch.
        """
        from replicate_mcp.app.retry import tasks_to_retry

        backend = (await self._get_components()).backend
        states = await backend.list_batches(caller.visible_callers, limit=MAX_BATCHES_SEARCHED)
        for state in states:
            if state.failed and await tasks_to_retry(state, states, backend):
                return state.id
        raise UnknownBatch(
            "There is nothing to retry: no batch of the last 24 hours has failed tasks that trying "
            "again can help, unless it was retried already."
        )

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
        components = await self._get_components()
        await self._load_visible_batch(components, caller, batch_id)
        with self._waiting(seconds):
            while True:
                running = components.runner.running(batch_id)
                if running is not None:
                    await watch(running, on_progress)
                if not await self._is_running(components, batch_id):
                    return
                # Another process runs it, or this one may take it over; backend wake-ups are only
                # for processes that wait for permits.
                await anyio.sleep(JOURNAL_POLL_SECONDS)

    async def mark_resumable(self, batch_id: str) -> None:
        """Let other processes resume a batch if this one ends.

        Call this before the caller receives the id: a caller who knows it will ask for the batch,
        and one who does not will send the request again.
        """
        await (await self._get_components()).runner.mark_resumable(batch_id)

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

        components = await self._get_components()
        state = await self._load_visible_batch(components, caller, batch_id)
        # Only the rows that the state counts: more may have finished since it was read.
        finished = state.succeeded + state.failed
        after = min(after, finished)
        count = finished - after if limit is None else min(limit, finished - after)
        rows = await components.backend.results(state.id, after=after, limit=count)
        if len(rows) < count:  # The journal has just dropped the batch.
            await self._load_visible_batch(components, caller, state.id)
        if retry := state.retry:
            rows = [
                row.model_copy(update={"retried_task_index": retry.task_indexes[row.task_index]})
                for row in rows
            ]
        rows = rows if characters is None else take_within(rows, characters)
        return page(counts_of(state), rows, after=after)

    async def list(self, caller: Caller, *, limit: int = 100) -> "list[ListedBatch]":
        """Return the caller's batches, newest first."""
        from replicate_mcp.tasks.result import ListedBatch

        components = await self._get_components()
        states = await components.backend.list_batches(caller.visible_callers, limit=limit)
        return [
            ListedBatch(
                **counts_of(each).model_dump(),
                is_stopping=counts_of(each).is_stopping,
                created_at=_moment(each.created_at),
                ended_at=None if each.ended_at is None else _moment(each.ended_at),
                first_prompt=each.first_prompt,
                resumed=each.resumed or None,
            )
            for each in states
        ]

    async def retries(self, caller: Caller, batch_id: str) -> "Sequence[BatchRetry]":
        """Return the retries of a batch, and the retries of these, oldest first.

        They are found among the caller's `MAX_BATCHES_SEARCHED` newest batches.
        """
        from replicate_mcp.app.retry import retries_of

        backend = (await self._get_components()).backend
        newest = await backend.list_batches(caller.visible_callers, limit=MAX_BATCHES_SEARCHED)
        return retries_of(batch_id, newest)

    async def cancel(self, caller: Caller, batch_id: str) -> "BatchCounts":
        """Cancel a batch, including its predictions on Replicate.

        Raises:
            BackendUnavailable: the journal cannot be reached; the tasks that this process runs are
                stopped all the same.
        """
        components = await self._get_components()
        running = components.runner.running(batch_id)
        if running is None or running.caller not in caller.visible_callers:
            running = None
            await self._load_visible_batch(components, caller, batch_id)
        try:
            await components.backend.cancel_batch(batch_id)
        finally:
            if running is not None:
                components.runner.cancel(running)
        return counts_of(await self._load_visible_batch(components, caller, batch_id))

    async def progress(self, batch_id: str) -> Progress | None:
        """Return the current progress of a batch; None if this process does not run it."""
        running = (await self._get_components()).runner.running(batch_id)
        if running is None:
            return None
        return progress(running)

    async def wait_until_stopped(self, batch_id: str) -> None:
        """Wait until no prediction of a batch of this process runs on Replicate."""
        components = await self._get_components()
        if running := components.runner.running(batch_id):
            await running.ended.wait()

    def begin_shutdown(self) -> None:
        """End every wait for a batch, now and from now on."""
        self._is_shutting_down = True
        for waiting in self._waits:
            waiting.cancel()

    @contextlib.contextmanager
    def _waiting(self, seconds: float | None) -> Iterator[None]:
        with anyio.move_on_after(0 if self._is_shutting_down else seconds) as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)

    async def _load_visible_batch(
        self, components: "Components", caller: Caller, batch_id: str | None
    ) -> "BatchState":
        state = await self._load_batch(components, caller, batch_id)
        is_elsewhere = state.status == "running" and components.runner.running(state.id) is None
        if is_elsewhere and caller.has_own_token:
            # The process that runs it may be gone; the caller's token then allows its recovery
            # here.
            with contextlib.suppress(ReplicateMcpError):
                await components.account(caller.token, caller.source)
        return state

    @staticmethod
    async def _load_batch(
        components: "Components", caller: Caller, batch_id: str | None
    ) -> "BatchState":
        if batch_id is None:
            newest = await components.backend.list_batches(caller.visible_callers, limit=1)
            if newest:
                return newest[0]
            raise UnknownBatch("There is no batch yet: generate_images starts one.")
        state = await components.backend.get_batch(batch_id)
        if state is None or state.caller not in caller.visible_callers:
            raise UnknownBatch(
                f"There is no batch '{escaped(batch_id[:60])}': batches are remembered for 24 "
                "hours, ended ones only while their account has room, and only their own caller "
                "sees them."
            )
        return state

    async def _prepare_retry(
        self, components: "Components", caller: Caller, request: BatchRequest, retry: Retry
    ) -> Preparation:
        from replicate_mcp.app.retry import RetryPreparation, retry_request

        backend = components.backend
        state = await self._load_visible_batch(components, caller, retry.batch_id)
        newest = await backend.list_batches(caller.visible_callers, limit=MAX_BATCHES_SEARCHED)
        request = await retry_request(request, retry, state, newest, backend)
        return RetryPreparation(request, self._settings)

    @staticmethod
    async def _is_running(components: "Components", batch_id: str) -> bool:
        state = await components.backend.get_batch(batch_id)
        return state is not None and state.status == "running"


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
        retry_of=state.retry and state.retry.batch_id,
    )
