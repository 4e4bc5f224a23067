"""The SQLite backend: one file shared by every process of a user on a machine, or one's memory.

A step is one short transaction, done on the event loop where nobody is in the way and in a worker
thread where another process is inside its own. A living process holds an operating-system lock,
so a dead one is known at once; one that was granted something is woken by a datagram.
"""

import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.to_thread

from replicate_mcp.backends.names import unencodable
from replicate_mcp.backends.space import JOURNAL_BYTES
from replicate_mcp.backends.sqlite.database import (
    LOCK_TIMEOUT_SECONDS,
    LONG_LOCK_TIMEOUT_SECONDS,
    MEMORY,
    Busy,
    Database,
    open_database,
)
from replicate_mcp.backends.sqlite.journal import JournalTables
from replicate_mcp.backends.sqlite.liveness_lock import LifeLock
from replicate_mcp.backends.sqlite.permits import PermitTables
from replicate_mcp.backends.sqlite.wakeup import Doorbell
from replicate_mcp.batches.backend import (
    Attempt,
    AttemptRecord,
    BatchState,
    JournalTask,
    NewBatch,
    RecordedAttempts,
    RunningPrediction,
)
from replicate_mcp.cpu_bound import INLINE_BYTES, run_cpu_bound
from replicate_mcp.errors import BackendUnavailable, ErrorCode
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import (
    AcceptedOffers,
    AdmissionResult,
    HolderUsage,
    QueueEntry,
    Scope,
    SemaphoreState,
)
from replicate_mcp.tasks.result import TaskFailure, TaskResult, was_created

T = TypeVar("T")

FORGET_EVERY_SECONDS = 600.0
"""How often what is too old is taken out of the file."""

REAP_POLL_SECONDS = 1.0
"""How often a process that waits or recovers looks for the dead among the others."""


class SqliteBackend:
    """Keeps the promise of `Backend` in a SQLite file (or `:memory:`, for one process)."""

    def __init__(
        self,
        database: Database,
        holder: str,
        doorbell: Doorbell,
        lock: LifeLock | None,
        clock: Callable[[], float],
        journal_bytes: int,
    ) -> None:
        self.scope: Scope = "process" if database.location == MEMORY else "machine"
        self._database = database
        self._holder = holder
        self._doorbell = doorbell
        self._lock = lock
        self._clock = clock
        self._journal_bytes = journal_bytes
        self._turn = anyio.Lock(fast_acquire=True)
        self._reaped_at = 0.0

    @classmethod
    async def open(
        cls,
        location: str = MEMORY,
        *,
        label: str = "",
        clock: Callable[[], float] = time.time,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> "SqliteBackend":
        """Open the file at `location`, making it where there is none.

        Args:
            label: what people know this process by.
            clock: seconds since the epoch; the same for all who share the file.
            journal_bytes: the allowance of each account in the journal.

        Raises:
            BackendUnavailable: it cannot be used; the message says why and what to do.
        """
        database = open_database(location)
        holder = secrets.token_hex(8)
        lock = None if location == MEMORY else LifeLock(location, holder)
        backend = cls(database, holder, Doorbell(), lock, clock, journal_bytes)
        await backend._step(lambda permits, journal: journal.forget_old())
        await backend._step(
            lambda permits, journal: permits.add_holder(backend._doorbell.port, label)
        )
        await backend._reap_dead_holders()
        return backend

    async def close(self) -> None:
        """Leave: offers and places in the queue are gone, permits of running predictions stay."""

        def leave(permits: PermitTables, journal: JournalTables) -> None:
            _remove_holder(permits, journal, self._holder)
            permits.admit()  # What this frees is others' at once.

        await self._step(leave)
        await self._doorbell.close()
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    # Permits

    async def declare_limit(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Say which limit and rate this process allows an account."""
        await self._step(
            lambda permits, _: permits.limits.declare_limit(semaphore, limit, per_minute)
        )

    async def set_rate(self, semaphore: str, per_minute: float) -> AdmissionResult:
        """Set an account's rate by hand."""

        def set_rate(permits: PermitTables, _: JournalTables) -> AdmissionResult:
            permits.limits.set_rate(semaphore, per_minute)
            return permits.admit()

        return await self._step(set_rate)

    async def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Make a name known while this process lives."""
        return await self._step(lambda permits, _: permits.limits.register(semaphore, limit))

    async def resize(
        self, semaphore: str, limit: int, *, by_admin: bool = False
    ) -> AdmissionResult:
        """Set a limit by hand."""

        def resize(permits: PermitTables, _: JournalTables) -> AdmissionResult:
            permits.limits.resize(semaphore, limit, by_admin=by_admin)
            return permits.admit()

        return await self._step(resize)

    async def unset(self, semaphore: str) -> AdmissionResult:
        """Drop a limit that was set by hand."""

        def unset(permits: PermitTables, _: JournalTables) -> AdmissionResult:
            permits.limits.unset(semaphore)
            return permits.admit()

        return await self._step(unset)

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name that nothing uses."""
        await self._reap_dead_holders()
        await self._step(lambda permits, _: permits.limits.remove(semaphore))

    async def semaphores(self) -> list[SemaphoreState]:
        """Every semaphore as it stands."""
        await self._reap_dead_holders()
        return await self._step(lambda permits, _: permits.limits.states())

    async def usage_by_holder(self) -> list[HolderUsage]:
        """Who holds and who waits."""
        return await self._step(lambda permits, _: permits.limits.usage_by_holder())

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Wait in the queue."""
        return await self._step(lambda permits, _: permits.enqueue(entry))

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Wait for less, or not at all."""
        return await self._step(lambda permits, _: permits.dequeue(entry, count))

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits."""
        return AcceptedOffers(*await self._step(lambda tables, _: tables.accept_offers(permits)))

    async def release(self, permit: int) -> AdmissionResult:
        """Give a permit back."""

        def release(permits: PermitTables, _: JournalTables) -> AdmissionResult:
            permits.free(permit)
            return permits.admit()

        return await self._step(release)

    async def admit(self) -> AdmissionResult:
        """Clear what the dead left, at most once a second, and make offers."""
        await self._poll_dead_holders()
        return await self._step(lambda permits, _: permits.admit())

    async def run(self) -> None:
        """Forget what is old, now and then."""
        while True:
            with suppress(BackendUnavailable):
                await self._step(lambda _, journal: journal.forget_old())
            await anyio.sleep(FORGET_EVERY_SECONDS)

    async def wait_for_wakeup(self) -> None:
        """Return when another process's step may have offered this one something."""
        await self._doorbell.rung()

    # The journal

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """A batch begins, and its tasks wait."""

        def open_batch(permits: PermitTables, journal: JournalTables) -> AdmissionResult:
            journal.open(batch)
            return permits.enqueue(entry)

        size = sum(len(task.prompt or "") for task in batch.tasks)
        return await self._step(open_batch, size_bytes=size)

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `KeyTaken` where a batch of the caller's has that key."""
        await self._step(lambda _, journal: journal.check_idempotency_key(caller, key))

    async def record_attempts(
        self, attempts: Mapping[int, Attempt], *, images_per_day: int | None = None
    ) -> RecordedAttempts:
        """Turn offers into permits, each with its attempt."""
        return await self._step(
            lambda permits, _: permits.record_attempts(attempts, images_per_day)
        )

    async def requeue(self, permit: int, throttling: Throttling | None = None) -> AdmissionResult:
        """Let a task wait anew."""
        return await self._step(lambda permits, _: permits.requeue(permit, throttling))

    async def finish(
        self, permit: int, batch_id: str, result: TaskResult, *, ended: bool = True
    ) -> AdmissionResult | None:
        """Record a result, free its permit, hand the room on."""

        def finish(permits: PermitTables, journal: JournalTables) -> AdmissionResult | None:
            prediction = result.prediction_id
            if prediction and not journal.claim(prediction, permit, batch_id):
                return None
            if ended:
                permits.free(permit, asked_for=was_created(result))
            else:
                permits.abandon(permit)
            if journal.record_results(batch_id, [result]):
                permits.leave_queue(batch_id)
            return permits.admit()

        return await self._step(finish)

    async def record_results(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results without a permit's end."""

        def record(permits: PermitTables, journal: JournalTables) -> AdmissionResult:
            journal.record_results(batch_id, results)
            return permits.dequeue(batch_id, len(results) if waited else 0)

        return await self._step(record)

    async def claim_prediction(self, permit: int, batch_id: str, prediction_id: str) -> bool:
        """Give a prediction to an attempt, for ever."""
        return await self._step(lambda _, journal: journal.claim(prediction_id, permit, batch_id))

    async def open_attempts(self, account: str) -> list[AttemptRecord]:
        """The account's attempts, oldest first."""
        return await self._step(lambda permits, _: permits.open_attempts(account))

    async def orphans(self, account: str) -> list[AttemptRecord]:
        """The account's attempts whose processes are gone, oldest first."""
        await self._poll_dead_holders()
        return await self._step(lambda permits, _: permits.open_attempts(account, orphaned=True))

    async def adopt(self, permit: int) -> bool:
        """Take over a permit whose process is gone; False where another was quicker."""
        return await self._step(lambda permits, _: permits.adopt(permit))

    async def abandon(self, permit: int) -> None:
        """Leave a permit to whoever can follow its prediction."""
        await self._step(lambda permits, _: permits.abandon(permit))

    async def has_lost_state(self, account: str) -> bool:
        """A file does not forget; and what was in memory went with the only process."""
        return False

    async def import_running(
        self, account: str, running: Sequence[RunningPrediction]
    ) -> AdmissionResult:
        """Never needed, since nothing is forgotten."""
        return AdmissionResult()

    async def list_prediction_ids(self, account: str) -> set[str]:
        """Predictions that belong to an attempt."""
        return await self._step(lambda _, journal: journal.list_prediction_ids(account))

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""
        self._doorbell.ring(await self._step(lambda _, journal: journal.cancel(batch_id)))

    async def canceled_batches(self) -> list[str]:
        """This process's running batches that were marked."""
        return await self._step(lambda _, journal: journal.canceled())

    async def interrupted_batches(self) -> list[str]:
        """None, ever: a lock shows for certain that its process lives."""
        return []

    async def get_batch(self, batch_id: str) -> BatchState | None:
        """One batch."""
        return await self._step(lambda _, journal: journal.state(batch_id))

    async def list_batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """Those callers' batches, the newest first."""
        return await self._step(lambda _, journal: journal.states(callers, limit))

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """What the journal keeps of a batch's tasks, in order."""
        return await self._step(lambda _, journal: journal.tasks(batch_id))

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Finished tasks in the order in which they finished."""
        written = await self._step(lambda _, journal: journal.results(batch_id, after, limit))
        return await run_cpu_bound(written.read, size_bytes=written.size_bytes)

    async def get_cached(self, key: str) -> str | None:
        """A remembered answer of Replicate's."""
        return await self._step(lambda _, journal: journal.get_cached(key))

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Keep an answer of Replicate's for so long."""
        await self._step(lambda _, journal: journal.set_cached(key, value, seconds))

    async def config_warnings(self) -> list[str]:
        """None: what does not suit is refused when the file is opened."""
        return []

    # The dead

    async def _poll_dead_holders(self) -> None:
        """Bury them, at most once a second; at once where the clock was set back."""
        if not 0 <= self._clock() - self._reaped_at < REAP_POLL_SECONDS:
            await self._reap_dead_holders()

    async def _reap_dead_holders(self) -> None:
        self._reaped_at = self._clock()
        others = await self._step(lambda permits, _: permits.other_holders())
        lock = self._lock  # In memory there is none, since all are of this process.
        dead = await anyio.to_thread.run_sync(lock.dead, others) if lock and others else []

        def reap(permits: PermitTables, journal: JournalTables) -> None:
            for holder in dead:
                _remove_holder(permits, journal, holder)
            for batch, task, prediction in permits.release_ended_orphans():
                lost = _failure(task, journal.task(batch, task), *_LOST, prediction_id=prediction)
                journal.record_results(batch, [lost])

        await self._step(reap)
        if lock:
            for holder in dead:
                lock.clear(holder)

    # Steps

    async def _step(
        self, work: Callable[[PermitTables, JournalTables], T], *, size_bytes: int = 0
    ) -> T:
        def step(timeout: float) -> T:
            ports: set[int] = set()

            def transaction(connection: sqlite3.Connection) -> T:
                now = self._clock()
                permits = PermitTables(connection, self._holder, now)
                journal = JournalTables(connection, self._holder, now, self._journal_bytes)
                outcome = work(permits, journal)
                ports.update(permits.ports_to_ring)
                return outcome

            outcome = self._database.run(transaction, timeout=timeout)
            self._doorbell.ring(ports)
            return outcome

        async with self._turn:
            try:
                if size_bytes <= INLINE_BYTES:
                    return step(LOCK_TIMEOUT_SECONDS)
            except UnicodeEncodeError:
                raise unencodable() from None
            except Busy:
                pass
            try:
                return await anyio.to_thread.run_sync(step, LONG_LOCK_TIMEOUT_SECONDS)
            except UnicodeEncodeError:
                raise unencodable() from None
            except Busy:
                raise BackendUnavailable(
                    f"The state in {self._database.location} is locked by another process for over "
                    f"{LONG_LOCK_TIMEOUT_SECONDS:.0f} s: `replicate-mcp doctor` says which."
                ) from None


_INTERRUPTED: tuple[ErrorCode, str, bool] = (
    "interrupted",
    "The process that ran this batch ended before this task was created. Nothing was billed: send "
    "it again.",
    True,
)
_LOST: tuple[ErrorCode, str, bool] = (
    "create_outcome_unknown",
    "The process that ran this batch ended while this task's prediction ran, so its outcome is not "
    "known. It may have been billed: look at replicate.com/predictions before sending it again.",
    False,
)


def _remove_holder(permits: PermitTables, journal: JournalTables, holder: str) -> None:
    """Take a process out: its running predictions keep their permits, its other tasks end."""
    permits.remove_holder(holder)
    for batch in journal.unfinished(holder):
        missing = journal.missing(batch)
        journal.record_results(
            batch, [_failure(index, task, *_INTERRUPTED) for index, task in missing]
        )


def _failure(
    index: int,
    task: JournalTask,
    code: ErrorCode,
    error: str,
    retryable: bool,
    *,
    prediction_id: str | None = None,
) -> TaskFailure:
    return TaskFailure(
        task_index=index,
        prompt=task.prompt,
        output_filename=task.output_filename,
        error=error,
        error_code=code,
        prediction_id=prediction_id,
        retryable=retryable,
    )
