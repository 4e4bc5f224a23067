"""Interface of a store of attempts: each is recorded before it is sent, and holds a permit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult
from replicate_mcp.tasks.result import TaskResult


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

    None is recorded of a batch that another process has taken over.

    Attributes:
        cancel_after: the `Cancel-After` of each recorded attempt, in seconds, by permit.
        admission: the outcome of the call for this holder: further offers.
        quota_resets_in: seconds until the daily quota resets, if an attempt exceeded it; else None.
    """

    cancel_after: Mapping[int, int]
    admission: AdmissionResult = field(default_factory=AdmissionResult)
    quota_resets_in: float | None = None


class AttemptStore(Protocol):
    """A store of attempts and of the predictions that belong to them.

    In steady state a task costs two calls: `record_attempts` (an offer becomes a permit, and the
    attempt is recorded before it is sent) and `finish` (the result is recorded, and the permit
    released and offered on).

    Every method raises `BackendUnavailable` if the store cannot be used.

    Attributes:
        send_within_seconds: seconds within which a recorded attempt may be sent. After more, this
            process may count as dead, and the attempt as one that was never sent.
    """

    send_within_seconds: float

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

        If this process does not run the task's batch, the task is not queued, but only left without
        a permit: the process that runs the batch finds it with `unstarted_tasks`.

        Args:
            permit: the attempt's permit.
            throttling: details of the 429, if the creation was refused with one; else None.
        """

    async def give_back(self, permit: int) -> AdmissionResult:
        """Release the permit of an adopted attempt that created nothing, and leave its task.

        The process that runs the batch, or takes it over, finds the task with `unstarted_tasks`. If
        there is none and no process may take it over, the task ends as `interrupted`.
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
