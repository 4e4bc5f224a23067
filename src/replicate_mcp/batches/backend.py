"""What a backend promises: permits, and the journal of batches in the same step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult, PermitStore, QueueEntry
from replicate_mcp.tasks.result import BatchStatus, TaskFailure, TaskResult

JOURNAL_SECONDS = 24 * 3600
"""How long batches and their results are remembered."""


@dataclass(frozen=True, slots=True)
class JournalTask:
    """What the journal keeps of a task: nothing that could be megabytes, and no token.

    Attributes:
        prompt: None for a task without one.
    """

    prompt: str | None
    output_filename: str
    model: str


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a caller named a request by, so that the same one is not carried out twice.

    Attributes:
        digest: what stands for the request's content.
    """

    key: str
    digest: str


class IdempotencyKeyExists(Exception):
    """A batch of the caller's was begun under that key.

    Attributes:
        batch_id: the batch.
        digest: of the request that began it.
    """

    def __init__(self, batch_id: str, digest: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id
        self.digest = digest


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch as it enters the journal.

    Attributes:
        caller: who may see it: `admin`, `server`, or `token:` with a token's fingerprint.
        account: whose predictions its tasks are.
        semaphore: the name its caller knows it by.
        key: under which the request can be sent again; None where it has none.
        failures: results of tasks that are never created; not of all tasks.
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
    """A batch in the journal; times are in seconds since the epoch.

    Attributes:
        first_prompt: the beginning of its first prompt; None where there is none, or where it was
            not asked for: `batches` gives it.
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
        """`running` until every task has its result."""
        if self.succeeded + self.failed < self.total:
            return "running"
        return "canceled" if self.canceled else "completed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One creation, noted before it is sent.

    Attributes:
        inputs: a hash of each input, or "" for one that the API may rewrite.
        cancel_after: the longest `Cancel-After` allowed, in whole seconds.
        sent_at: the time on Replicate's clock, in seconds since the epoch.
        max_seconds: from now until its prediction has ended, whatever happens.
        images: how many it asks for, counted against the day's.
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
    """An attempt in the journal, with its permit, and its prediction where that is known.

    One that was entered by `enter_running` has no batch ("").
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
    """A prediction that the account's list shows as running and no attempt is known of.

    Attributes:
        ends_in: seconds from now until it has ended, whatever happens.
    """

    id: str
    model: str
    ends_in: float


@dataclass(frozen=True, slots=True)
class RecordedAttempts:
    """The attempts that were noted; the others' offers are gone, and their tasks wait again.

    Attributes:
        cancel_after: the `Cancel-After` of each that was noted, by permit.
        cap_opens_in: seconds until the day's images are counted anew, where one did not fit.
    """

    cancel_after: Mapping[int, int]
    room: AdmissionResult = field(default_factory=AdmissionResult)
    quota_resets_in: float | None = None


class Backend(PermitStore, Protocol):
    """Where semaphores, permits, rates and the journal live.

    In steady state a task costs two steps: `note_attempts` (an offer becomes a permit, and the
    attempt is noted before it is sent) and `finish` (the result is recorded, the permit freed and
    its room handed on).
    """

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """Write a batch and its first failures into the journal, and let its other tasks wait.

        Raises:
            KeyTaken: another batch of the caller's has its key; nothing was done.
        """

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `KeyTaken` where a batch of the caller's has that key."""

    async def record_attempts(
        self, attempts: Mapping[int, Attempt], *, images_per_day: int | None = None
    ) -> RecordedAttempts:
        """Turn offers of one account, by permit, into permits with an attempt each.

        Args:
            images_per_day: how many images the account may be asked for in a day of UTC, by all
                who share the backend; an attempt that does not fit is not noted.
        """

    async def requeue(self, permit: int, throttling: Throttling | None = None) -> AdmissionResult:
        """Nothing was created: give the permit back, and let the task wait its turn anew."""

    async def finish(
        self, permit: int, batch_id: str, result: TaskResult, *, ended: bool = True
    ) -> AdmissionResult | None:
        """Record a task's result, free its permit, and hand the room on.

        Args:
            ended: whether its prediction, if any, is known to have ended. Where it may still run,
                its permit stays out, left to whoever can follow it, or to its deadline.

        None where its prediction belongs to another attempt: then nothing is done.
        """

    async def record_results(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results without a permit's end.

        Args:
            waited: whether their tasks waited for a start; they wait no longer.
        """

    async def claim_prediction(self, permit: int, batch_id: str, prediction_id: str) -> bool:
        """Give a prediction to an attempt, for ever; False where another attempt has it."""

    async def open_attempts(self, account: str) -> list[AttemptRecord]:
        """The account's attempts whose tasks have no result yet, oldest first."""

    async def orphans(self, account: str) -> list[AttemptRecord]:
        """The account's attempts whose processes are gone, oldest first.

        One whose prediction must have ended takes no units any more, but stays for as long as
        anybody can learn what became of it.
        """

    async def adopt(self, permit: int) -> bool:
        """Take over a permit whose process is gone; False where another was quicker."""

    async def abandon(self, permit: int) -> None:
        """Leave a permit, whose result is not recorded, to whoever can follow its prediction."""

    async def has_lost_state(self, account: str) -> bool:
        """Whether what runs of the account may have been forgotten here.

        Nothing of it is admitted then until `enter_running` has told.
        """

    async def import_running(
        self, account: str, running: Sequence[RunningPrediction]
    ) -> AdmissionResult:
        """Give a permit without a batch to each that has none; nobody holds them as yet."""

    async def list_prediction_ids(self, account: str) -> set[str]:
        """Ids of the account's predictions that belong to an attempt, open or finished."""

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""

    async def canceled_batches(self) -> list[str]:
        """This process's running batches that were marked as canceled."""

    async def interrupted_batches(self) -> list[str]:
        """This process's batches whose waiting tasks others have ended, as if it were gone.

        Each is told once; nothing more of it may be created.
        """

    async def get_batch(self, batch_id: str) -> BatchState | None:
        """One batch of the journal."""

    async def list_batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """List those callers' batches with their first prompts, the newest first."""

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """What the journal keeps of a batch's tasks, in order."""

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Finished tasks in the order in which they finished, without the first `after`."""

    async def get_cached(self, key: str) -> str | None:
        """A remembered answer of Replicate's, unless it is too old."""

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Keep an answer of Replicate's for so long."""

    async def config_warnings(self) -> list[str]:
        """Sentences on what would suit better where all this is kept, for `doctor`."""

    async def close(self) -> None:
        """Give back what this process holds and leave; what runs on Replicate keeps its permit."""
