"""The interface of a backend: permits and the journal of batches, changed in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult, PermitStore, QueueEntry
from replicate_mcp.tasks.result import BatchStatus, TaskFailure, TaskResult

JOURNAL_SECONDS = 24 * 3600
"""Retention of batches and their results."""


@dataclass(frozen=True, slots=True)
class JournalTask:
    """A task in the journal, without tokens and without values that could take megabytes.

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
class NewBatch:
    """A batch to be written to the journal.

    Attributes:
        caller: who may see it: `admin`, `server`, or `token:` with a token's fingerprint.
        account: the account of its predictions.
        semaphore: the semaphore's name, as its caller knows it.
        key: idempotency key of the request; None if it has none.
        failures: results of the tasks that are never created, which are not all tasks.
    """

    id: str
    caller: str
    account: str
    semaphore: str
    tasks: tuple[JournalTask, ...]
    key: IdempotencyKey | None = None
    failures: tuple[TaskFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchState:
    """The state of a batch in the journal; times are in seconds since the epoch.

    Attributes:
        ended_at: when its last task got its result; None while it runs.
        first_prompt: the beginning of its first prompt; None if absent, or if the state is not from
            `list_batches`.
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

    @property
    def status(self) -> BatchStatus:
        """`running` until every task has its result, then `completed` or `canceled`."""
        if self.succeeded + self.failed < self.total:
            return "running"
        return "canceled" if self.canceled else "completed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One creation, recorded before it is sent.

    Attributes:
        inputs: a hash of each input; "" for one that the API may rewrite.
        cancel_after: the longest `Cancel-After` allowed, in whole seconds.
        sent_at: time on Replicate's clock, in seconds since the epoch.
        max_seconds: longest time from now until its prediction has certainly ended.
        images: number of images that it requests, which count against the daily quota.
    """

    batch: str
    task: int
    model: str
    inputs: Mapping[str, str] = field(repr=False)
    cancel_after: int
    sent_at: float
    max_seconds: float
    images: int = 1


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt in the journal, with its permit.

    Attributes:
        batch: id of its batch; "" for a prediction that `import_running` added.
        prediction_id: id of its prediction; None while that is unknown.
    """

    permit: int
    batch: str
    task: int
    model: str
    inputs: Mapping[str, str] = field(repr=False)
    cancel_after: int
    sent_at: float
    prediction_id: str | None


@dataclass(frozen=True, slots=True)
class RunningPrediction:
    """A prediction that the account's list shows as running, without a known attempt.

    Attributes:
        ends_in: seconds from now until it has certainly ended.
    """

    id: str
    model: str
    ends_in: float


@dataclass(frozen=True, slots=True)
class RecordedAttempts:
    """The attempts that were recorded; the others' offers had been withdrawn, and their tasks wait.

    Attributes:
        cancel_after: the `Cancel-After` of each recorded attempt, in seconds, by permit.
        room: the outcome of the call for this holder: further offers.
        quota_resets_in: seconds until the daily quota resets, if an attempt exceeded it; else None.
    """

    cancel_after: Mapping[int, int]
    room: AdmissionResult = field(default_factory=AdmissionResult)
    quota_resets_in: float | None = None


class Backend(PermitStore, Protocol):
    """The store of semaphores, permits, rates and the journal.

    In steady state a task costs two calls: `record_attempts` (an offer becomes a permit, and the
    attempt is recorded before it is sent) and `finish` (the result is recorded, and the permit
    released and offered on).
    """

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """Write a batch and its first failures to the journal, and queue its other tasks.

        Raises:
            IdempotencyKeyExists: the key belongs to another batch of the caller; nothing was
                written.
        """

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `IdempotencyKeyExists` if a batch of the caller has that key."""

    async def record_attempts(
        self, attempts: Mapping[int, Attempt], *, images_per_day: int | None = None
    ) -> RecordedAttempts:
        """Turn offers of one account, by permit, into permits with an attempt each.

        Args:
            attempts: the attempts to record, by the permit of their offer.
            images_per_day: daily quota of images of the account, in days of UTC, over all processes
                that share the backend; an attempt that exceeds it is not recorded. None for no
                quota.
        """

    async def requeue(self, permit: int, throttling: Throttling | None = None) -> AdmissionResult:
        """Release the permit of an attempt that created nothing, and queue its task again.

        Args:
            permit: the attempt's permit.
            throttling: details of the 429, if the creation was refused with one; else None.
        """

    async def finish(
        self, permit: int, batch_id: str, result: TaskResult, *, ended: bool = True
    ) -> AdmissionResult | None:
        """Record a task's result, release its permit, and offer the freed units.

        Args:
            permit: the permit of the task's attempt.
            batch_id: id of the batch.
            result: the result to record.
            ended: whether its prediction, if any, is known to have ended. If it may still run, its
                permit stays held, until another process can follow the prediction, or until its
                deadline.

        Returns:
            None if the prediction belongs to another attempt; then nothing is recorded.
        """

    async def record_results(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results that release no permit.

        Args:
            batch_id: id of the batch.
            results: the results to record.
            waited: whether their tasks are queued; if so, they are removed from the queue.
        """

    async def claim_prediction(self, permit: int, batch_id: str, prediction_id: str) -> bool:
        """Assign a prediction to an attempt, permanently; False if another attempt has it."""

    async def open_attempts(self, account: str) -> list[AttemptRecord]:
        """Return the account's attempts whose tasks have no result yet, oldest first."""

    async def orphans(self, account: str) -> list[AttemptRecord]:
        """Return the account's attempts whose processes have ended, oldest first.

        An attempt whose prediction must have ended holds no units any more, but stays in the list
        as long as its outcome can still be determined.
        """

    async def adopt(self, permit: int) -> bool:
        """Take over a permit whose process has ended; False if another process already has."""

    async def abandon(self, permit: int) -> None:
        """Leave a permit without a result to any process that can follow its prediction."""

    async def has_lost_state(self, account: str) -> bool:
        """Return whether the backend may have lost running predictions of the account.

        If so, nothing of the account is admitted until `import_running` is called.
        """

    async def import_running(
        self, account: str, running: Sequence[RunningPrediction]
    ) -> AdmissionResult:
        """Add a permit without a batch and without a holder for each prediction that has none."""

    async def list_prediction_ids(self, account: str) -> set[str]:
        """Return the ids of the account's predictions that belong to an attempt, open or not."""

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""

    async def canceled_batches(self) -> list[str]:
        """Return the ids of this process's running batches that are marked as canceled."""

    async def interrupted_batches(self) -> list[str]:
        """Return the ids of this process's batches whose queued tasks other processes have ended.

        Other processes end them when they consider this process dead. Each id is returned once;
        nothing more of these batches may be created.
        """

    async def get_batch(self, batch_id: str) -> BatchState | None:
        """Return a batch of the journal; None if no batch has that id."""

    async def list_batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """Return those callers' batches with their first prompts, newest first."""

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """Return a batch's tasks in the journal, in order."""

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Return finished tasks in the order in which they finished, without the first `after`."""

    async def get_cached(self, key: str) -> str | None:
        """Return a cached response of Replicate; None if absent or expired."""

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Cache a response of Replicate for `seconds`."""

    async def config_warnings(self) -> list[str]:
        """Return advice on the backend's configuration, in sentences, for `doctor`."""

    async def close(self) -> None:
        """Release what this process holds, except permits of running predictions, and leave."""
