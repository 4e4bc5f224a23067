"""Resumption: restores a batch whose process has ended from the journal, and resumes it."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import anyio

from replicate_mcp.batches.cancellation import Cancellation
from replicate_mcp.batches.dependencies import Dependencies, read_images
from replicate_mcp.batches.journal import Journal, JournalTask, TakenOver
from replicate_mcp.batches.journal_inputs import RecordedBatch, RecordedInputs, decode_inputs
from replicate_mcp.batches.memory_limit import estimate_bytes
from replicate_mcp.batches.messages import INTERRUPTED
from replicate_mcp.batches.outcome import failure
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.reconciliation import Reconciler
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.batches.tracing import present_context
from replicate_mcp.concurrency import for_each
from replicate_mcp.cpu_bound import json_size, run_cpu_bound
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.replicate_api.error_policy import rule_for
from replicate_mcp.replicate_api.exceptions import ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.model_resolver import Model, ModelResolver
from replicate_mcp.replicate_api.model_search import unknown
from replicate_mcp.tasks.filenames import MAX_PLANNED, BatchFilenames
from replicate_mcp.tasks.input_conversion import whole_number
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

log = logging.getLogger(__name__)

ELSEWHERE_POLL_SECONDS = 0.5
"""Interval at which the journal is read while tasks of a resumed batch run in other processes."""

NAME_COST = 200
"""Bytes of JSON that take as long to parse as planning one filename takes."""

_NO_IMAGE = (
    "It needs the image of {source}, which is not in the journal any more: make that again first."
)

_NOT_KEPT = (
    "The process that ran this batch ended before this task was created, and its input {name} is a "
    "secret, which is not kept. Nothing was billed: send it again, in a new batch."
)


@dataclass(frozen=True, slots=True)
class RecordedTasks:
    """The tasks of a batch in the journal.

    Attributes:
        tasks: each task without its inputs.
        inputs: what is kept of each task's inputs; nothing if an earlier version began the batch.
    """

    tasks: Sequence[JournalTask]
    inputs: Sequence[RecordedInputs] = field(repr=False)

    @classmethod
    async def read(cls, journal: Journal, batch_id: str) -> "RecordedTasks":
        """Read a batch's tasks from the journal.

        Raises:
            BackendUnavailable: the journal cannot be read.
        """
        tasks, text = await journal.tasks(batch_id), await journal.inputs(batch_id)
        recorded = RecordedBatch(None, [])
        if text:
            recorded = await run_cpu_bound(lambda: decode_inputs(text), size_bytes=len(text))
        return cls(tasks, recorded.tasks or [RecordedInputs(None, expected_count=1)] * len(tasks))

    async def filenames(self, rows: Sequence[TaskResult]) -> BatchFilenames:
        """Return the batch's filenames as they were planned, with those of its finished tasks."""
        names = await run_cpu_bound(self._planned_filenames, size_bytes=self._cost_of_names)
        for row in rows:
            claim_files(names, row)
        return names

    async def plan(
        self, indexes: Collection[int], gateway: Gateway, models: ModelResolver, account: str
    ) -> tuple[list[PlannedTask], dict[int, TaskFailure]]:
        """Return all tasks, planned as they were, and the results of those that cannot be created.

        Args:
            indexes: the tasks that may have to be created; the models of the others are not looked
                up.
            gateway: gateway to Replicate with a token of `account`.
            models: resolver of model names.
            account: the account of the batch.

        Raises:
            ReplicateApiError: Replicate refused the token.
        """
        found: dict[ModelName, Model | None] = {}

        async def find(name: ModelName) -> None:
            found[name] = await models.find(name, gateway, account)

        await for_each({ModelName.parse(self.tasks[index].model) for index in indexes}, find)
        planned = [self._planned(index, found) for index in range(len(self.tasks))]
        failures = {
            index: row for index in indexes if (row := self._failure(planned[index], found))
        }
        return planned, failures

    def _planned(self, index: int, found: Mapping[ModelName, Model | None]) -> PlannedTask:
        task, recorded = self.tasks[index], self.inputs[index]
        name = ModelName.parse(task.model)
        model = found.get(name)
        inputs = dict(recorded.inputs or {})
        if task.prompt is not None:
            inputs["prompt"] = task.prompt
        seed = whole_number(inputs.get("seed"))
        return PlannedTask(
            index=index,
            prompt=task.prompt,
            output_filename=task.output_filename,
            model=task.model,
            target=Target(name, name.version, is_resolved=False) if model is None else model.target,
            inputs=inputs,
            seed=seed if isinstance(seed, int) else None,
            expected_format=recorded.expected_format,
            expected_count=recorded.expected_count,
            complete_at_count=recorded.complete_at_count,
            referring=recorded.referring,
        )

    def _failure(
        self, task: PlannedTask, found: Mapping[ModelName, Model | None]
    ) -> TaskFailure | None:
        """Return why a task cannot be created again; None if it can."""
        recorded, name = self.inputs[task.index], task.target.name
        if recorded.inputs is None:
            secret = next(iter(recorded.secrets), None)
            why = INTERRUPTED if secret is None else _NOT_KEPT.format(name=secret)
            return failure(task, "interrupted", why, retryable=True)
        if found[name] is None:
            return failure(task, "model_not_found", unknown(name))
        return None

    def _planned_filenames(self) -> BatchFilenames:
        return BatchFilenames(
            [task.output_filename for task in self.tasks],
            [each.expected_format for each in self.inputs],
            [each.expected_count for each in self.inputs],
        )

    @property
    def _cost_of_names(self) -> int:
        return NAME_COST * sum(min(each.expected_count, MAX_PLANNED) for each in self.inputs)


@dataclass(frozen=True, slots=True)
class ResumedBatch:
    """A batch that this process has taken over.

    Attributes:
        batch: the batch, of which nothing is queued yet.
        unstarted: its tasks with neither a result nor a permit, in order.
        failures: the results of tasks that cannot be created, by task.
        rows_read: the number of results that `batch` has counted.
    """

    batch: RunningBatch
    unstarted: Sequence[int]
    failures: Mapping[int, TaskFailure]
    rows_read: int


class Resumption:
    """Resumes batches that this process has taken over.

    Args:
        settle: queues or fails the tasks that waited for the image of a task with a result.
        models: resolver of the models of their tasks.
        is_weighed: whether the memory that they use is estimated. It counts against the limit of
            new batches, but refuses none of these: what the journal keeps for an account bounds it.
    """

    def __init__(
        self,
        services: BatchServices,
        cancellation: Cancellation,
        settle: Callable[[RunningBatch, TaskResult], Awaitable[None]],
        models: ModelResolver,
        *,
        is_weighed: bool,
    ) -> None:
        self._services = services
        self._cancellation = cancellation
        self._settle = settle
        self._models = models
        self._is_weighed = is_weighed

    async def restore(
        self,
        batch_id: str,
        taken: TakenOver,
        gateway: Gateway,
        reconciler_of: Callable[[str], Reconciler],
    ) -> ResumedBatch:
        """Restore a batch from the journal.

        Args:
            batch_id: id of the batch.
            taken: what taking it over returned.
            gateway: gateway to Replicate with a token of its account.
            reconciler_of: returns the reconciler of an account.
        """
        retry, journal = self._services.retry_until_available, self._services.journal
        since = steady_time()
        state = await retry(journal.get_batch, batch_id)
        assert state is not None
        recorded = await retry(RecordedTasks.read, journal, batch_id)
        # In this order: a task that ends between the two counts as running elsewhere.
        rows = await retry(journal.results, batch_id)
        unstarted = await retry(journal.unstarted_tasks, batch_id)
        elsewhere = set(range(state.total)) - {row.task_index for row in rows} - set(unstarted)
        plan = partial(recorded.plan, gateway=gateway, models=self._models, account=state.account)
        refused: ReplicateApiError | None = None
        try:
            tasks, failures = await plan({*unstarted, *elsewhere})
        except ReplicateApiError as fault:
            refused = fault
            tasks, failures = await plan(())
        images = await retry(read_images, tasks, journal)
        dependencies = Dependencies(tasks, images)
        for row in rows:
            failures.update({each.task_index: each for each in dependencies.settle(row)[1]})
        for task in tasks:
            if missing := [each for each in task.references if each.batch and each not in images]:
                why = _NO_IMAGE.format(source=missing[0])
                failures.setdefault(task.index, failure(task, "dependency_failed", why))
        batch = RunningBatch(
            id=batch_id,
            caller=state.caller,
            account=state.account,
            tasks=tasks,
            gateway=gateway,
            reconciler=reconciler_of(state.account),
            dispatcher=self._services.dispatcher,
            names=await recorded.filenames(rows),
            deadline=since + taken.seconds_left,
            opened=since,
            trace=present_context(),
            pending=deque(),
            dependencies=dependencies,
            entry=taken.entry,
            elsewhere=elsewhere,
            weight=await self._weight(tasks),
            succeeded=sum(isinstance(row, TaskSuccess) for row in rows),
            failed=sum(isinstance(row, TaskFailure) for row in rows),
            invalid=len(rows),
            is_resumable=True,
        )
        if state.canceled:
            self._cancellation.cancel(batch)
        if refused is not None:
            rule = rule_for(refused)
            batch.stop_creating((rule.code, rule.sentence, rule.retryable))
        return ResumedBatch(batch, unstarted, failures, len(rows))

    async def run(self, resumed: ResumedBatch) -> None:
        """Queue the unstarted tasks, and those that turn out not to run elsewhere.

        Returns once no task of the batch runs in another process.
        """
        batch, journal = resumed.batch, self._services.journal
        log.info(
            "resuming %s: %d tasks wait, and %d run",
            batch.id,
            len(resumed.unstarted),
            len(batch.elsewhere),
        )
        self._services.observer.batch_resumed()
        await self._queue(resumed, resumed.unstarted)
        read = resumed.rows_read
        while batch.elsewhere and not batch.is_let_go:
            await anyio.sleep(ELSEWHERE_POLL_SECONDS)
            rows = await self._services.retry_until_available(
                partial(journal.results, batch.id, after=read)
            )
            read += len(rows)
            for row in rows:
                if row.task_index in batch.elsewhere:
                    batch.elsewhere.discard(row.task_index)
                    claim_files(batch.names, row)
                    batch.add_result(row)
                    await self._settle(batch, row)
            unstarted = await self._services.retry_until_available(
                journal.unstarted_tasks, batch.id
            )
            if given_back := [index for index in unstarted if index in batch.elsewhere]:
                batch.elsewhere.difference_update(given_back)
                await self._queue(resumed, given_back)

    async def give_up(self, batch_id: str) -> None:
        """End the unstarted tasks of a batch that cannot be restored, as `interrupted`."""
        # Without an entry in the queue, its other tasks end so, too, where none was created.
        self._services.dispatcher.dispatch(await self._services.permits.dequeue(batch_id))
        tasks = await self._services.journal.tasks(batch_id)
        ended = [
            TaskFailure(
                task_index=index,
                prompt=tasks[index].prompt,
                output_filename=tasks[index].output_filename,
                error=INTERRUPTED,
                error_code="interrupted",
                retryable=True,
            )
            for index in await self._services.journal.unstarted_tasks(batch_id)
        ]
        self._services.dispatcher.dispatch(
            await self._services.journal.record_results(batch_id, ended, waited=False)
        )

    async def _queue(self, resumed: ResumedBatch, indexes: Sequence[int]) -> None:
        """Queue tasks before those that wait, and fail those of them that cannot be created."""
        batch, services = resumed.batch, self._services
        failures = [resumed.failures[index] for index in indexes if index in resumed.failures]
        queued = [
            index
            for index in indexes
            if index not in resumed.failures and not batch.dependencies.is_waiting(index)
        ]
        batch.pending.extendleft(reversed(queued))
        if failures:
            record = partial(services.journal.record_results, batch.id, failures, waited=False)
            await services.retry_and_dispatch(record)
            for row in failures:
                batch.add_result(row)
                services.observer.task_ended(row, None)
                await self._settle(batch, row)
        if queued and batch.stop_reason is None:
            entry = replace(batch.entry, waiting=len(queued))
            await services.retry_and_dispatch(services.permits.enqueue, entry)
        if batch.stop_reason is not None:  # Perhaps since they were queued.
            await self._cancellation.abandon_pending(batch, batch.stop_reason)

    async def _weight(self, tasks: Sequence[PlannedTask]) -> int:
        if not self._is_weighed:
            return 0
        size = json_size([task.inputs for task in tasks])
        return await run_cpu_bound(lambda: estimate_bytes(tasks), size_bytes=size)


def claim_files(names: BatchFilenames, row: TaskResult) -> None:
    """Reserve the filenames that a finished task has."""
    if isinstance(row, TaskSuccess):
        names.claim(row.task_index, [file.filename for file in row.generated_files])
