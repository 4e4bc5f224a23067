"""The runner of a process's batches: each runs to its end or its deadline."""

import logging
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.cancellation import Cancellation
from replicate_mcp.batches.dependencies import Dependencies
from replicate_mcp.batches.journal import JournalTask, NewBatch, TakenOver
from replicate_mcp.batches.journal_inputs import encode_inputs
from replicate_mcp.batches.memory_limit import check_memory, estimate_bytes
from replicate_mcp.batches.observer import NullObserver, Observer
from replicate_mcp.batches.outcome import refusal
from replicate_mcp.batches.planning import PlannedBatch, PlannedTask
from replicate_mcp.batches.reconciliation import Reconciler
from replicate_mcp.batches.recovery import Recovery
from replicate_mcp.batches.resumption import NAME_COST, Resumption
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.batches.task_execution import TaskExecutor
from replicate_mcp.batches.tracing import present_context
from replicate_mcp.cpu_bound import json_size, run_cpu_bound
from replicate_mcp.errors import TooManyBatches
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.platform.memory import FreeMemory
from replicate_mcp.replicate_api.attempt_matching import MIN_CANCEL_AFTER_SECONDS
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.model_resolver import ModelResolver
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.filenames import MAX_PLANNED, BatchFilenames
from replicate_mcp.tasks.result import TaskFailure

log = logging.getLogger(__name__)

ResumePolicy = Literal["always", "service", "never"]
"""Which batches of this process others may resume if it ends: all from their start, those that
their caller can ask for again, or none. Unless it is `never`, this process resumes those of others.
"""

CANCEL_POLL_SECONDS = 1.0
"""Interval at which the journal is read for cancellations by other processes."""

DEADLINE_POLL_SECONDS = 10.0
"""Interval at which a batch's deadline is compared with the clock, which may jump during sleep."""

FREE_MEMORY_SECONDS = 30.0
"""Seconds after the end of the last running batch at which freed memory is returned to the system:
its connections are closed by then."""


class BatchRunner:
    """Runs batches for the lifetime of the process, independently of the requests that start them.

    Args:
        prediction_seconds: seconds after which Replicate cancels a prediction by itself.
        batch_seconds: seconds after which nothing more of a batch is created.
        images_per_day: daily quota of images of an account; None for no quota.
        resume: which batches other processes may resume.
        models: resolver of the models of resumed batches; None for one of its own.
        max_bytes: memory that all batches may use, in bytes; None for no limit and no estimate.
        observer: receives execution events.
    """

    def __init__(
        self,
        backend: Backend,
        dispatcher: OfferDispatcher,
        group: TaskGroup,
        *,
        prediction_seconds: int,
        batch_seconds: int,
        images_per_day: int | None = None,
        resume: ResumePolicy = "never",
        models: ModelResolver | None = None,
        max_bytes: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._services = BatchServices(backend, dispatcher, group, observer or NullObserver())
        self._cancellation = Cancellation(self._services)
        self._attempting = TaskExecutor(
            self._services,
            self._cancellation,
            prediction_seconds=prediction_seconds,
            images_per_day=images_per_day,
        )
        self._batch_seconds = batch_seconds
        self._resume_policy = resume
        self._resumption = Resumption(
            self._services,
            self._cancellation,
            self._attempting.settle,
            models or ModelResolver(backend),
            is_weighed=max_bytes is not None,
        )
        self._most_bytes = max_bytes
        self._batches: dict[str, RunningBatch] = {}
        self._reconcilers: dict[str, Reconciler] = {}
        self._recoveries: dict[str, Recovery] = {}
        self._started = anyio.Event()
        self._memory = FreeMemory(FREE_MEMORY_SECONDS)

    async def start(self, planned: PlannedBatch) -> RunningBatch:
        """Start a batch, which runs to its end whether a caller waits for it or not.

        Raises:
            IdempotencyKeyExists: the key belongs to another batch of the caller.
            TooManyBatches: the batch does not fit into memory now; nothing was started.
            InvalidInput: its inputs are too large for the journal; nothing was started.
        """
        tasks = planned.tasks
        names, weight, inputs = await run_cpu_bound(
            partial(_prepare, planned, is_weighed=self._most_bytes is not None),
            size_bytes=_preparing_cost(tasks),
        )
        dependencies = Dependencies(tasks, planned.images)
        failures = tuple(_first_failures(tasks, dependencies))
        failed = {each.task_index for each in failures}
        batch_id = f"b_{secrets.token_hex(8)}"
        batch = RunningBatch(
            id=batch_id,
            caller=planned.caller,
            account=planned.account,
            tasks=tasks,
            gateway=planned.gateway,
            reconciler=self._reconciler(planned.account),
            dispatcher=self._services.dispatcher,
            names=names,
            deadline=steady_time() + self._batch_seconds,
            opened=steady_time(),
            trace=present_context(),
            pending=deque(
                task.index
                for task in tasks
                if task.index not in failed and not dependencies.is_waiting(task.index)
            ),
            dependencies=dependencies,
            entry=QueueEntry(
                id=batch_id,
                semaphores=planned.semaphores,
                account=planned.account,
                waiting=0,
                max_running=planned.max_running,
            ),
            weight=weight,
            failed=len(failures),
            invalid=len(failures),
            is_resumable=self._resume_policy == "always"
            or (self._resume_policy == "service" and planned.key is not None),
        )
        if self._most_bytes is not None:
            try:
                check_memory(batch, self._batches.values(), self._most_bytes)
            except TooManyBatches:
                if planned.key is not None:  # The same request may have arrived twice at once.
                    await self._services.journal.check_idempotency_key(
                        planned.caller, planned.key.key
                    )
                raise
        services = self._services
        self._track(batch)
        try:
            admission = await services.journal.open_batch(
                NewBatch(
                    id=batch.id,
                    caller=planned.caller,
                    account=planned.account,
                    semaphore=planned.shown_semaphore,
                    tasks=tuple(
                        JournalTask(task.prompt, task.output_filename, task.model) for task in tasks
                    ),
                    key=planned.key,
                    failures=failures,
                    inputs=inputs,
                    retry=planned.retry,
                    seconds=self._batch_seconds,
                    resumable=batch.is_resumable,
                ),
                replace(batch.entry, waiting=len(batch.pending)),
            )
        except BaseException:  # Cancelled or refused: nothing was started.
            self._forget(batch)
            raise
        for each in failures:
            services.observer.task_ended(each, None)
        services.spawn(self._watch, batch)
        services.dispatcher.dispatch(admission)
        return batch

    def running(self, batch_id: str) -> RunningBatch | None:
        """Return the batch, if this process runs it."""
        return self._batches.get(batch_id)

    def cancel(self, batch: RunningBatch) -> None:
        """Cancel a batch: create nothing more, and cancel its running predictions."""
        self._cancellation.cancel(batch)

    async def mark_resumable(self, batch_id: str) -> None:
        """Let other processes resume a batch if this one ends: its caller can now ask for it.

        Nothing changes if this process does not run the batch, or if none may be resumed.
        """
        batch = self._batches.get(batch_id)
        if batch is not None and not batch.is_resumable and self._resume_policy != "never":
            await self._services.journal.mark_resumable(batch_id)
            batch.is_resumable = True

    def recover(self, account: str, gateway: Gateway) -> None:
        """Start to recover what the account's dead processes left, using `gateway` as well.

        Their batches that may be resumed are resumed, unless the policy is `never`.
        """
        if account not in self._recoveries:
            recovery = Recovery(
                account,
                self._reconciler(account),
                self._services,
                is_busy=lambda: bool(self._batches),
                take_over=None if self._resume_policy == "never" else self._take_over,
            )
            self._recoveries[account] = recovery
            self._services.spawn(recovery.run)
        self._recoveries[account].use(gateway)

    async def watch_cancellations(self) -> None:
        """Cancel batches that other processes cancel, and let go those that they have taken."""
        while True:
            if not self._batches:
                self._started = anyio.Event()
                await self._started.wait()
            # A wake-up is only a hint: while batches run, the journal is polled, too.
            with anyio.move_on_after(CANCEL_POLL_SECONDS):
                await self._services.dispatcher.wait_for_wakeup()
            for batch_id in await self._services.retry_until_available(
                self._services.journal.canceled_batches
            ):
                if batch := self._batches.get(batch_id):
                    self.cancel(batch)
            for batch_id in await self._services.retry_until_available(
                self._services.journal.interrupted_batches
            ):
                if batch := self._batches.get(batch_id):
                    batch.let_go()

    async def _take_over(self, batch_id: str, gateway: Gateway) -> None:
        """Resume a batch that waits for a process, unless another one is first."""
        if batch_id in self._batches:
            return  # It was taken from this process, which has not let it go yet.
        taken = await self._services.journal.take_over(batch_id)
        if taken is not None:
            self._services.spawn(self._resume, batch_id, taken, gateway)

    async def _resume(self, batch_id: str, taken: TakenOver, gateway: Gateway) -> None:
        try:
            resumed = await self._resumption.restore(batch_id, taken, gateway, self._reconciler)
        except Exception:
            # Else its tasks would wait as long as this process lives.
            log.exception("batch %s cannot be resumed", batch_id)
            await self._services.retry_until_available(self._resumption.give_up, batch_id)
            return
        self._track(resumed.batch)
        self._services.spawn(self._watch, resumed.batch)
        await self._resumption.run(resumed)

    async def _watch(self, batch: RunningBatch) -> None:
        """Enforce the batch's deadline, and remove the batch when it has ended."""
        # The event loop's clock stops while the machine sleeps; the deadline does not.
        while (left := batch.deadline - MIN_CANCEL_AFTER_SECONDS - steady_time()) > 0:
            with anyio.move_on_after(min(left, DEADLINE_POLL_SECONDS)):
                await batch.ended.wait()
                break
        if not batch.ended.is_set():
            await self._cancellation.drop_out_of_time(batch)
            await batch.ended.wait()
        self._forget(batch)

    def _track(self, batch: RunningBatch) -> None:
        services = self._services
        self._batches[batch.id] = batch
        self._started.set()
        services.dispatcher.subscribe(
            batch.id, lambda offers: services.spawn(self._attempting.start_tasks, batch, offers)
        )

    def _forget(self, batch: RunningBatch) -> None:
        self._batches.pop(batch.id, None)
        self._services.dispatcher.unsubscribe(batch.id)
        if not self._batches:
            self._memory.return_soon()

    def _reconciler(self, account: str) -> Reconciler:
        if account not in self._reconcilers:
            self._reconcilers[account] = Reconciler(
                account, self._services.attempts, self._services.spawn
            )
        return self._reconcilers[account]


def _prepare(planned: PlannedBatch, *, is_weighed: bool) -> tuple[BatchFilenames, int, str]:
    """Return a batch's filenames, the memory that it uses, and its inputs for the journal."""
    tasks = planned.tasks
    names = BatchFilenames(
        [task.output_filename for task in tasks],
        [task.expected_format for task in tasks],
        [task.expected_count for task in tasks],
    )
    weight = estimate_bytes(tasks) if is_weighed else 0
    return names, weight, encode_inputs(tasks, max_running=planned.max_running)


def _first_failures(
    tasks: Sequence[PlannedTask], dependencies: Dependencies
) -> Iterator[TaskFailure]:
    """Yield the results of the tasks with problems, and of those that need images of these."""
    for task in tasks:
        if task.problems:
            yield (refused := refusal(task))
            yield from dependencies.settle(refused)[1]


def _preparing_cost(tasks: Sequence[PlannedTask]) -> int:
    """Estimate the work on names and memory, as bytes of JSON that take as long to parse."""
    names = sum(min(task.expected_count, MAX_PLANNED) for task in tasks)
    return names * NAME_COST + json_size([task.inputs for task in tasks])
