"""The SQLite backend: one file shared by a user's processes on a machine, or one process's memory.

Every operation is one short transaction; it runs on the event loop if the file is free, and in a
worker thread if another process is inside a transaction. A living process holds an operating-system
lock, so a dead one is detected at once; a datagram wakes a process that was made an offer.
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
from replicate_mcp.batches import messages
from replicate_mcp.batches.attempt_store import (
    Attempt,
    AttemptRecord,
    RecordedAttempts,
    RunningPrediction,
)
from replicate_mcp.batches.journal import BatchState, JournalTask, NewBatch, TakenOver
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
"""Seconds between two deletions of expired rows."""

SEND_WITHIN_SECONDS = 5.0
"""Seconds within which a recorded attempt may be sent."""

REAP_POLL_SECONDS = 1.0
"""Minimum seconds between two checks for dead processes by a process that waits or recovers."""


class SqliteBackend:
    """An implementation of `Backend` in a SQLite file (or `:memory:`, for one process)."""

    send_within_seconds = SEND_WITHIN_SECONDS

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
        self._reaped_at = self._orphans_polled_at = 0.0

    @classmethod
    async def open(
        cls,
        location: str = MEMORY,
        *,
        label: str = "",
        clock: Callable[[], float] = time.time,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> "SqliteBackend":
        """Open the file at `location`, and create it if it is missing.

        Args:
            location: the path of the file, or `:memory:`.
            label: the name of this process in listings for people.
            clock: returns seconds since the epoch; the same for all who share the file.
            journal_bytes: the allowance of each account in the journal.

        Raises:
            BackendUnavailable: the file cannot be used; the message says why and what to do.
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
        """Deregister: drop offers and queue entries, keep permits of running predictions."""

        def leave(permits: PermitTables, journal: JournalTables) -> None:
            _remove_holder(permits, journal, self._holder)
            permits.admit()  # Offer the freed units to others at once.

        await self._step(leave)
        await self._doorbell.close()
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    # Permits

    async def declare_limit(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Declare this process's limit and rate for an account."""
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
        """Register a name for the lifetime of this process."""
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
        """Remove a limit that was set by hand."""

        def unset(permits: PermitTables, _: JournalTables) -> AdmissionResult:
            permits.limits.unset(semaphore)
            return permits.admit()

        return await self._step(unset)

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name that is not in use."""
        await self._reap_dead_holders()
        await self._step(lambda permits, _: permits.limits.remove(semaphore))

    async def semaphores(self) -> list[SemaphoreState]:
        """Return the state of every semaphore."""
        await self._reap_dead_holders()
        return await self._step(lambda permits, _: permits.limits.states())

    async def usage_by_holder(self) -> list[HolderUsage]:
        """Return the units in use and the waiting starts by holder and semaphore."""
        return await self._step(lambda permits, _: permits.limits.usage_by_holder())

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Add an entry to the queue, or starts to an entry."""
        return await self._step(lambda permits, _: permits.enqueue(entry))

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Remove `count` starts from an entry, or the whole entry."""
        return await self._step(lambda permits, _: permits.dequeue(entry, count))

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits."""
        return AcceptedOffers(*await self._step(lambda tables, _: tables.accept_offers(permits)))

    async def release(self, permit: int) -> AdmissionResult:
        """Release a permit."""

        def release(permits: PermitTables, _: JournalTables) -> AdmissionResult:
            permits.free(permit)
            return permits.admit()

        return await self._step(release)

    async def admit(self) -> AdmissionResult:
        """Clean up after dead holders, at most once a second, and make offers."""
        await self._poll_dead_holders()
        return await self._step(lambda permits, _: permits.admit())

    async def run(self) -> None:
        """Delete expired rows periodically, until cancelled."""
        while True:
            with suppress(BackendUnavailable):
                await self._step(lambda _, journal: journal.forget_old())
            await anyio.sleep(FORGET_EVERY_SECONDS)

    async def wait_for_wakeup(self) -> None:
        """Wait until another process's transaction may have made this one an offer."""
        await self._doorbell.rung()

    # The journal

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """Write a batch to the journal, and enqueue its tasks."""

        def open_batch(permits: PermitTables, journal: JournalTables) -> AdmissionResult:
            journal.open(batch)
            return permits.enqueue(entry)

        size = sum(len(task.prompt or "") for task in batch.tasks)
        return await self._step(open_batch, size_bytes=size)

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `IdempotencyKeyExists` if a batch of the caller's has `key`."""
        await self._step(lambda _, journal: journal.check_idempotency_key(caller, key))

    async def record_attempts(
        self, attempts: Mapping[int, Attempt], *, images_per_day: int | None = None
    ) -> RecordedAttempts:
        """Turn offers into permits, each with its attempt."""
        return await self._step(
            lambda permits, _: permits.record_attempts(attempts, images_per_day)
        )

    async def requeue(self, permit: int, throttling: Throttling | None = None) -> AdmissionResult:
        """Release the permit and requeue its task; adapt the rate to a 429."""
        return await self._step(lambda permits, _: permits.requeue(permit, throttling))

    async def give_back(self, permit: int) -> AdmissionResult:
        """Release the permit of an adopted attempt that created nothing, and leave its task."""

        def give_back(permits: PermitTables, journal: JournalTables) -> AdmissionResult:
            released = permits.give_back(permit)
            if released is not None and not journal.has_process(released[0]):
                batch, task = released
                interrupted = _failure(task, journal.task(batch, task), "interrupted")
                journal.record_results(batch, [interrupted])
            return permits.admit()

        return await self._step(give_back)

    async def finish(
        self, permit: int, batch_id: str, result: TaskResult, *, ended: bool = True
    ) -> AdmissionResult | None:
        """Record a result, release its permit, and offer the freed units."""

        def finish(permits: PermitTables, journal: JournalTables) -> AdmissionResult | None:
            prediction = result.prediction_id
            if prediction and not journal.claim(prediction, permit, batch_id):
                return None
            if ended:
                permits.free(permit, counts_images=was_created(result))
            else:
                permits.abandon(permit)
            if journal.record_results(batch_id, [result]):
                permits.leave_queue(batch_id)
            return permits.admit()

        return await self._step(finish)

    async def record_results(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results without releasing a permit."""

        def record(permits: PermitTables, journal: JournalTables) -> AdmissionResult:
            if waited and journal.is_run_elsewhere(batch_id):
                return permits.admit()
            if journal.record_results(batch_id, results):
                permits.leave_queue(batch_id)
            return permits.dequeue(batch_id, len(results) if waited else 0)

        return await self._step(record)

    async def mark_resumable(self, batch_id: str) -> None:
        """Allow another process to resume a batch if this one ends."""
        await self._step(lambda _, journal: journal.mark_resumable(batch_id))

    async def resumable_batches(self, account: str) -> list[str]:
        """Return the account's batches that wait for a process, in queue order."""
        return await self._step(lambda _, journal: journal.waiting_for_process(account))

    async def take_over(self, batch_id: str) -> TakenOver | None:
        """Make this process the one that runs a batch, unless another process was first."""

        def take_over(permits: PermitTables, journal: JournalTables) -> TakenOver | None:
            waits = batch_id in journal.waiting_for_process()
            if not waits or journal.why_not_resumable(batch_id) is not None:
                return None
            return TakenOver(journal.take_over(batch_id), permits.take_over(batch_id))

        return await self._step(take_over)

    async def unstarted_tasks(self, batch_id: str) -> list[int]:
        """Return a batch's tasks with neither a result nor a permit, in order."""
        return await self._step(lambda _, journal: journal.unstarted(batch_id))

    async def claim_prediction(self, permit: int, batch_id: str, prediction_id: str) -> bool:
        """Claim a prediction permanently for an attempt; return False if another attempt has it."""
        return await self._step(lambda _, journal: journal.claim(prediction_id, permit, batch_id))

    async def open_attempts(self, account: str) -> list[AttemptRecord]:
        """Return the account's attempts, oldest first."""
        return await self._step(lambda permits, _: permits.open_attempts(account))

    async def orphans(self, account: str) -> list[AttemptRecord]:
        """Return the account's orphaned attempts, oldest first."""
        # Every idle process polls: testing the locks of all others would cost their square.
        if self._is_due(self._orphans_polled_at):
            self._orphans_polled_at = self._clock()
            await self._reap_dead(with_work=True)
        return await self._step(lambda permits, _: permits.open_attempts(account, orphaned=True))

    async def adopt(self, permit: int) -> bool:
        """Adopt an orphaned permit; return False if another process was first."""
        return await self._step(lambda permits, _: permits.adopt(permit))

    async def abandon(self, permit: int) -> None:
        """Abandon a permit, so that a process that can follow its prediction adopts it."""
        await self._step(lambda permits, _: permits.abandon(permit))

    async def has_lost_state(self, account: str) -> bool:
        """Return False: a file loses no state, and memory is lost only with its one process."""
        return False

    async def import_running(
        self, account: str, running: Sequence[RunningPrediction]
    ) -> AdmissionResult:
        """Do nothing, since no state is ever lost."""
        return AdmissionResult()

    async def list_prediction_ids(self, account: str) -> set[str]:
        """Return the predictions that belong to an attempt."""
        return await self._step(lambda _, journal: journal.list_prediction_ids(account))

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""

        def cancel(permits: PermitTables, journal: JournalTables) -> list[int]:
            ports = journal.cancel(batch_id)
            if batch_id in journal.waiting_for_process():
                _end_unless_resumable(permits, journal, batch_id)
            return ports

        self._doorbell.ring(await self._step(cancel))

    async def canceled_batches(self) -> list[str]:
        """Return this process's running batches that were marked as canceled."""
        return await self._step(lambda _, journal: journal.canceled())

    async def interrupted_batches(self) -> list[str]:
        """Return an empty list: a held lock proves that its process lives."""
        return []

    async def get_batch(self, batch_id: str) -> BatchState | None:
        """Return a batch; None if it is unknown."""
        return await self._step(lambda _, journal: journal.state(batch_id))

    async def list_batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """Return these callers' batches, newest first."""
        return await self._step(lambda _, journal: journal.states(callers, limit))

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """Return the journal's data of a batch's tasks, in order."""
        return await self._step(lambda _, journal: journal.tasks(batch_id))

    async def inputs(self, batch_id: str) -> str | None:
        """Return what a batch's tasks need to be created again; None if it was not kept."""
        return await self._step(lambda _, journal: journal.inputs(batch_id))

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Return finished tasks in order of completion, without the first `after`."""
        written = await self._step(lambda _, journal: journal.results(batch_id, after, limit))
        return await run_cpu_bound(written.read, size_bytes=written.size_bytes)

    async def get_cached(self, key: str) -> str | None:
        """Return a cached response of Replicate's; None if missing or expired."""
        return await self._step(lambda _, journal: journal.cache.get(key))

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Cache a response of Replicate's for `seconds`, unless it is too large."""
        await self._step(lambda _, journal: journal.cache.set(key, value, seconds))

    async def config_warnings(self) -> list[str]:
        """Return an empty list: an unsuitable file is rejected when it is opened."""
        return []

    # Dead holders

    async def _poll_dead_holders(self) -> None:
        """Reap dead holders, at most once a second; at once if the clock was set back."""
        if self._is_due(self._reaped_at):
            await self._reap_dead_holders()

    def _is_due(self, polled_at: float) -> bool:
        return not 0 <= self._clock() - polled_at < REAP_POLL_SECONDS

    async def _reap_dead_holders(self) -> None:
        self._reaped_at = self._orphans_polled_at = self._clock()
        await self._reap_dead()

    async def _reap_dead(self, *, with_work: bool = False) -> None:
        others = await self._step(lambda permits, _: permits.other_holders(with_work=with_work))
        lock = self._lock  # None in memory, where all holders are of this process.
        dead = await anyio.to_thread.run_sync(lock.dead, others) if lock and others else []

        def reap(permits: PermitTables, journal: JournalTables) -> None:
            for holder in dead:
                _remove_holder(permits, journal, holder)
            for batch, task, prediction in permits.release_ended_orphans():
                described = journal.task(batch, task)
                lost = _failure(task, described, "create_outcome_unknown", prediction)
                if journal.record_results(batch, [lost]):
                    permits.leave_queue(batch)
            for batch in journal.waiting_for_process():
                _end_unless_resumable(permits, journal, batch)

        await self._step(reap)
        if lock:
            for holder in dead:
                lock.clear(holder)

    # Transactions

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


_MESSAGES: Mapping[ErrorCode, str] = {
    "interrupted": messages.INTERRUPTED,
    "canceled": messages.CANCELED,
    "deadline_exceeded": messages.OUT_OF_TIME,
    "create_outcome_unknown": messages.OUTCOME_UNKNOWN,
}
"""The messages of tasks that end because their process has ended."""


def _remove_holder(permits: PermitTables, journal: JournalTables, holder: str) -> None:
    """Remove a process: its running predictions keep their permits.

    Its batches that may be resumed wait for another process; the tasks of the others fail.
    """
    permits.remove_holder(holder)
    for batch in journal.remove_holder(holder):
        _end_unless_resumable(permits, journal, batch)


def _end_unless_resumable(permits: PermitTables, journal: JournalTables, batch: str) -> None:
    """End the unstarted tasks of a batch without a process, unless it waits for another one."""
    code = journal.why_not_resumable(batch)
    if code is not None:
        permits.leave_queue(batch)
        missing = journal.missing(batch)
        journal.record_results(batch, [_failure(index, task, code) for index, task in missing])


def _failure(
    index: int, task: JournalTask, code: ErrorCode, prediction_id: str | None = None
) -> TaskFailure:
    return TaskFailure(
        task_index=index,
        prompt=task.prompt,
        output_filename=task.output_filename,
        error=_MESSAGES[code],
        error_code=code,
        prediction_id=prediction_id,
        retryable=code != "create_outcome_unknown",
    )
