"""Interface of the journal: batches, their tasks and results, kept for a day."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.tasks.result import BatchStatus, TaskFailure, TaskResult

JOURNAL_SECONDS = 24 * 3600
"""Retention of batches and their results."""


@dataclass(frozen=True, slots=True)
class JournalTask:
    """A task in the journal, without its inputs, which are read only to create it again.

    Attributes:
        prompt: None for a task without one.
    """

    prompt: str | None
    output_filename: str
    model: str


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for a request, so that a repeated request is not executed twice.

    Attributes:
        digest: hash of the request's content.
    """

    key: str
    digest: str


class IdempotencyKeyExists(Exception):
    """The key belongs to another batch of the caller.

    Attributes:
        batch_id: id of that batch.
        digest: hash of the content of the request that started it.
    """

    def __init__(self, batch_id: str, digest: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id
        self.digest = digest


@dataclass(frozen=True, slots=True)
class RetriedTasks:
    """The tasks of an earlier batch that a batch repeats.

    Attributes:
        batch_id: id of the earlier batch.
        task_indexes: for each task of the new batch, the index of the repeated one.
    """

    batch_id: str
    task_indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to be written to the journal.

    Attributes:
        caller: who may see it: `admin`, `server`, or `token:` with a token's fingerprint.
        account: the account of its predictions.
        semaphore: the semaphore's name, as its caller knows it.
        key: idempotency key of the request; None if it has none.
        failures: results of the tasks that are never created, which are not all tasks.
        inputs: what its tasks need to be created again, as `encode_inputs` returns it; "" if that
            is not kept.
        retry: the tasks that it repeats; None for a batch of new tasks.
        seconds: seconds from now until its deadline, after which nothing more of it is created.
        resumable: whether another process may resume it if this one ends.
    """

    id: str
    caller: str
    account: str
    semaphore: str
    tasks: tuple[JournalTask, ...]
    key: IdempotencyKey | None = None
    failures: tuple[TaskFailure, ...] = ()
    inputs: str = field(default="", repr=False)
    retry: RetriedTasks | None = None
    seconds: float = 0
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class BatchState:
    """The state of a batch in the journal; times are in seconds since the epoch.

    Attributes:
        ended_at: when its last task got its result; None while it runs.
        first_prompt: the beginning of its first prompt; None if absent, or if the state is not from
            `list_batches`.
        retry: the tasks that it repeats; None for a batch of new tasks.
        resumed: how often a process has taken it over.
    """

    id: str
    caller: str
    account: str
    semaphore: str
    total: int
    succeeded: int
    failed: int
    canceled: bool
    created_at: float
    ended_at: float | None
    first_prompt: str | None = None
    retry: RetriedTasks | None = None
    resumed: int = 0

    @property
    def status(self) -> BatchStatus:
        """`running` until every task has its result, then `completed` or `canceled`."""
        if self.succeeded + self.failed < self.total:
            return "running"
        return "canceled" if self.canceled else "completed"


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A batch that this process runs from now on.

    Attributes:
        seconds_left: seconds until its deadline.
        entry: its entry in the queue, which keeps its turn; nothing of it waits yet.
    """

    seconds_left: float
    entry: QueueEntry


class Journal(Protocol):
    """A store of batches; a call that changes the queue returns this holder's new offers.

    The process that opens a batch runs it. If it ends, its tasks without an attempt end as
    `interrupted`, unless the batch is resumable: then it waits, without a process, until another
    one takes it over, or until its deadline, at which these tasks end as `deadline_exceeded`. The
    process that ran it before can then record no attempt of it, and queue no task.

    Every method raises `BackendUnavailable` if the store cannot be used.
    """

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """Write a batch and its first failures to the journal, and queue its other tasks.

        Raises:
            IdempotencyKeyExists: the key belongs to another batch of the caller; nothing was
                written.
        """

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `IdempotencyKeyExists` if a batch of the caller has that key."""

    async def record_results(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results that release no permit.

        Args:
            batch_id: id of the batch.
            results: the results to record.
            waited: whether their tasks are queued; if so, they are removed from the queue, and
                nothing is recorded unless this process runs the batch.
        """

    async def mark_resumable(self, batch_id: str) -> None:
        """Allow another process to resume a batch if this one ends; nothing if it has ended."""

    async def resumable_batches(self, account: str) -> list[str]:
        """Return the ids of the account's batches that wait for a process, in queue order."""

    async def take_over(self, batch_id: str) -> TakenOver | None:
        """Make this process the one that runs a batch without a process.

        Returns:
            None if another process runs it, or if nothing more of it is to be created.
        """

    async def unstarted_tasks(self, batch_id: str) -> list[int]:
        """Return the indexes of a batch's tasks with neither a result nor a permit, in order."""

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""

    async def canceled_batches(self) -> list[str]:
        """Return the ids of this process's running batches that are marked as canceled."""

    async def interrupted_batches(self) -> list[str]:
        """Return the ids of batches that other processes have taken from this one.

        They do so when they consider this process dead: they end the queued tasks, or run them.
        Each id is returned once; this process can create nothing more of these batches.
        """

    async def get_batch(self, batch_id: str) -> BatchState | None:
        """Return a batch of the journal; None if no batch has that id."""

    async def list_batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """Return those callers' batches with their first prompts, newest first."""

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """Return a batch's tasks in the journal, in order."""

    async def inputs(self, batch_id: str) -> str | None:
        """Return what a batch's tasks need to be created again, for `decode_inputs`.

        None if the batch is unknown, or if an earlier version began it, which kept no inputs.
        """

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Return finished tasks in the order in which they finished, without the first `after`."""
