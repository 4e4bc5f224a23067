"""The Redis backend: one server, Redis 6.2 or newer or Valkey, shared by a fleet of machines.

Every operation is one call of one script (in `lua/`), by the server's own clock. A process is
represented by a key that lives for one lease and is renewed; a process whose key has expired
creates nothing.

An emptied server is indistinguishable from a new one. So if it has lost any state, or may have (a
restart, a failover, an evicted key), nothing is admitted for one lease: every living process sends
its state again, and the running predictions of each account's list are imported too. A new server
costs this lease once.

Two gaps remain. If a server loses its memory while a process is suspended between recording an
attempt and sending it, for longer than a lease, one prediction more than the limit can be created.
And a named semaphore loses the permits of a process that died at the same time, since the list of
predictions does not show them.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio

from replicate_mcp.backends.names import check_encodable
from replicate_mcp.backends.redis.call_coalescing import CallCoalescer
from replicate_mcp.backends.redis.config_checks import config_warnings
from replicate_mcp.backends.redis.connection import Address, RedisConnection
from replicate_mcp.backends.redis.decoding import (
    REASONS,
    BatchOpened,
    decode_admission,
    decode_attempt,
    decode_batch,
    decode_recorded_attempts,
    decode_result,
    decode_semaphore,
)
from replicate_mcp.backends.redis.encoding import (
    FinishCall,
    OpenBatchCall,
    RecordAttemptsCall,
    encode_entry,
    encode_row,
    encode_throttling,
)
from replicate_mcp.backends.redis.mirror import Mirror, MirroredBatch, MirroredEntry, MirroredPermit
from replicate_mcp.backends.redis.session import Session
from replicate_mcp.backends.space import JOURNAL_BYTES, MEMO_BYTES, journal_full, memo_size
from replicate_mcp.batches.backend import (
    Attempt,
    AttemptRecord,
    BatchState,
    IdempotencyKeyExists,
    JournalTask,
    NewBatch,
    RecordedAttempts,
    RunningPrediction,
)
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.errors import BackendUnavailable, ReplicateMcpError, UnknownSemaphore
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.names import check_removable, unknown_semaphore
from replicate_mcp.semaphores.permit_store import (
    AcceptedOffers,
    AdmissionResult,
    HolderUsage,
    QueueEntry,
    Scope,
    SemaphoreState,
)
from replicate_mcp.tasks.result import TaskResult, was_created

log = logging.getLogger(__name__)

BatchNotOpened = IdempotencyKeyExists | ReplicateMcpError
"""The exception for a refused batch."""


class RedisBackend:
    """An implementation of `Backend` on a Redis or Valkey server."""

    scope: Scope = "fleet"

    def __init__(self, server: RedisConnection, label: str, journal_bytes: int) -> None:
        self._server = server
        self._journal_bytes = journal_bytes
        self._mirror = Mirror()
        self._session = Session(server, self._mirror, label)
        self._opening = CallCoalescer(self._session, self._open_coalesced, self._mirror_opened)
        self._recording = CallCoalescer(
            self._session, self._record_attempts_coalesced, self._mirror_recorded
        )
        self._finishing = CallCoalescer(self._session, self._finish_coalesced)
        # By account, the generation in which its running predictions are to be imported, or were.
        self._lost_in: dict[str, str] = {}
        self._imported_in: dict[str, str] = {}

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        label: str = "",
        clock: Callable[[], float] | None = None,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> "RedisBackend":
        """Connect to the server at `url`, and register this process there.

        Args:
            url: `redis://` or `rediss://` (TLS), with user, password and database; `?lease=` in
                seconds and `?prefix=` must be the same for all processes that share the server.
            label: the name of this process in listings for people.
            clock: returns seconds since the epoch in place of the server's clock, for tests.
            journal_bytes: the allowance of each account in the journal.

        Raises:
            BackendUnavailable: the server cannot be used; the message says why and what to do.
        """
        server = RedisConnection(Address.parse(url), clock=clock, journal_bytes=journal_bytes)
        backend = cls(server, label, journal_bytes)
        try:
            await backend._server.listen(backend._session.holder)
            async with backend._session.lock() as session:
                await session.renew()
        except BaseException:
            # On cancellation too: nothing else refers to the connections that were opened.
            with anyio.CancelScope(shield=True):
                await backend._server.close()
            raise
        return backend

    async def close(self) -> None:
        """Deregister: drop offers and queue entries, keep permits of running predictions."""
        try:
            async with self._session.lock() as session:
                await session.call("close", reasons=REASONS)
        except BackendUnavailable as error:
            log.info("%s Its lease ends by itself.", error)
        finally:
            await self._server.close()

    async def config_warnings(self) -> list[str]:
        """Return a sentence for each unsuitable server setting."""
        return config_warnings(await self._server.server_info())

    # Permits

    async def declare_limit(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Declare this process's limit and rate for an account."""
        async with self._session.lock() as session:
            await session.call(
                "declare_limit", semaphore=semaphore, limit=limit, per_minute=per_minute
            )
            self._mirror.declared[semaphore] = (limit, per_minute)

    async def set_rate(self, semaphore: str, per_minute: float) -> AdmissionResult:
        """Set an account's rate by hand."""
        async with self._session.lock() as session:
            answer = await session.call("set_rate", semaphore=semaphore, per_minute=per_minute)
            found = self._admission_result(answer)
            await session.renew()  # Refresh the mirror.
            return found

    async def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Register a name for the lifetime of this process."""
        async with self._session.lock() as session:
            ((reply,),) = await session.call("register_name", semaphore=semaphore, limit=limit)
            state = decode_semaphore(reply)
            self._mirror.declared[semaphore] = (state.limit, None)
            await session.renew()  # Refresh the mirror.
            return state

    async def resize(
        self, semaphore: str, limit: int, *, by_admin: bool = False
    ) -> AdmissionResult:
        """Set a limit by hand."""
        async with self._session.lock() as session:
            answer = await session.call(
                "resize", semaphore=semaphore, limit=limit, by_admin=by_admin
            )
            found = self._admission_result(answer, semaphore)
            await session.renew()
            return found

    async def unset(self, semaphore: str) -> AdmissionResult:
        """Remove a limit that was set by hand."""
        async with self._session.lock() as session:
            found = self._admission_result(
                await session.call("unset", semaphore=semaphore), semaphore
            )
            await session.renew()  # The mirror's copy is outdated.
            return found

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name that is not in use."""
        async with self._session.lock() as session:
            outcome, *about = await session.call(
                "remove", semaphore=semaphore, **self._reap_arguments()
            )
            if outcome == "unknown":
                raise _unknown([semaphore], about[0])
            if outcome == "used":
                in_use, waiting, processes = map(int, about)
                check_removable(semaphore, in_use=in_use, waiting=waiting, processes=processes)
            self._mirror.remove_semaphore(semaphore)
            await session.renew()

    async def semaphores(self) -> list[SemaphoreState]:
        """Return the state of every semaphore."""
        async with self._session.lock() as session:
            (reply,) = await session.call("semaphores", **self._reap_arguments())
        return sorted(map(decode_semaphore, reply), key=lambda state: state.name)

    async def usage_by_holder(self) -> list[HolderUsage]:
        """Return the units in use and the waiting starts by holder and semaphore."""
        (reply,) = await self._session.read("usage_by_holder")
        in_use: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        for label, name, used, waits in reply:
            in_use[name, label] += int(used)
            waiting[name, label] += int(waits)
        return [
            HolderUsage(label, name, in_use[name, label], waiting[name, label])
            for name, label in sorted(in_use.keys() | waiting.keys())
        ]

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Add an entry to the queue, or starts to an entry."""
        async with self._session.lock() as session:
            wanted = self._mirror.waiting(entry.id) + entry.waiting
            answer = await session.call("enqueue", **encode_entry(entry, wanted))
            found = self._admission_result(answer, *entry.semaphores)
            self._mirror.enqueue(MirroredEntry(entry, wanted), answer[1])
            return found

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Remove `count` starts from an entry, or the whole entry."""
        async with self._session.lock() as session:
            wanted = 0 if count is None else max(0, self._mirror.waiting(entry) - count)
            answer = await session.call(
                "dequeue", entry=entry, wanted=wanted, entirely=count is None
            )
            # Only now: a repeated call must send the same number.
            self._mirror.set_waiting(entry, wanted)
            if count is None:
                self._mirror.entries.pop(entry, None)
            return self._admission_result(answer)

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits."""
        async with self._session.priority_lock() as session:
            reply, now, taken = await session.call(
                "accept_offers", permits=[str(each) for each in permits]
            )
            for permit, entry in taken:
                self._mirror.add_permit(int(permit), entry, taken_at=float(now))
            return AcceptedOffers(
                frozenset(int(permit) for permit, _ in taken), self._admission_result([reply])
            )

    async def release(self, permit: int) -> AdmissionResult:
        """Release a permit."""
        async with self._session.lock() as session:
            # Released in any case: if not by this call, then by the next resync.
            self._mirror.permits.pop(permit, None)
            return self._admission_result(await session.call("release", permit=str(permit)))

    async def admit(self) -> AdmissionResult:
        """Clean up after dead holders, and make offers."""
        async with self._session.lock() as session:
            return self._admission_result(await session.call("admit", **self._reap_arguments()))

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        await self._session.renew_lease()

    async def wait_for_wakeup(self) -> None:
        """Wait until another process's call may have made this one an offer."""
        await self._server.wait_for_wakeup(self._session.holder)

    # The journal

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """Write a batch to the journal, and enqueue its tasks."""
        if batch.key is not None:
            check_encodable(batch.key.key)  # Here, before it is coalesced with others' batches.
        answer = await self._opening.call(OpenBatchCall(batch, entry))
        if isinstance(answer, BatchOpened):
            return answer.admission
        raise answer

    async def _open_coalesced(
        self, session: Session, calls: Sequence[OpenBatchCall]
    ) -> list[BatchOpened | BatchNotOpened]:
        reply, answers = await session.call("open_batch", calls=[each.encode() for each in calls])
        found = self._admission_result([reply])
        opened: list[BatchOpened | BatchNotOpened] = []
        for each, (outcome, *rest) in zip(calls, answers, strict=True):
            if outcome == "taken":
                opened.append(IdempotencyKeyExists(*rest))
            elif outcome == "full":
                needed, running, keys = map(int, rest[0])
                opened.append(
                    journal_full(
                        needed=needed, running=running, keys=keys, allowed=self._journal_bytes
                    )
                )
            elif outcome == "unknown":
                opened.append(_unknown(each.entry.semaphores, rest[0]))
            else:
                opened.append(BatchOpened(found, rest[0], float(rest[1])))
        return opened

    def _mirror_opened(self, call: OpenBatchCall, answer: BatchOpened | BatchNotOpened) -> None:
        if isinstance(answer, BatchOpened):
            self._mirror.enqueue(MirroredEntry(call.entry, call.entry.waiting), answer.limits)
            self._mirror.batches[call.batch.id] = MirroredBatch(call.batch, answer.created_at)

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `IdempotencyKeyExists` if a batch of the caller's has `key`."""
        (taken,) = await self._session.read("check_idempotency_key", caller=caller, key=key)
        if taken:
            raise IdempotencyKeyExists(*taken)

    async def record_attempts(
        self, attempts: Mapping[int, Attempt], *, images_per_day: int | None = None
    ) -> RecordedAttempts:
        """Turn offers into permits, each with its attempt."""
        answer, _ = await self._recording.call(RecordAttemptsCall(attempts, images_per_day))
        return answer

    async def _record_attempts_coalesced(
        self, session: Session, calls: Sequence[RecordAttemptsCall]
    ) -> list[tuple[RecordedAttempts, float]]:
        """Send the calls; return each reply with the time of recording."""
        reply, now, answers = await session.call(
            "record_attempts", calls=[each.encode() for each in calls]
        )
        found = self._admission_result([reply])
        return [(decode_recorded_attempts(answer, found), float(now)) for answer in answers]

    def _mirror_recorded(
        self, call: RecordAttemptsCall, answer: tuple[RecordedAttempts, float]
    ) -> None:
        reply, now = answer
        for permit, seconds in reply.cancel_after.items():
            self._mirror.add_attempt(permit, call.attempts[permit], seconds, now)

    async def requeue(self, permit: int, throttling: Throttling | None = None) -> AdmissionResult:
        """Release the permit and requeue its task; adapt the rate to a 429."""
        async with self._session.lock() as session:
            kept = self._mirror.permits.get(permit)
            entry = kept.entry if kept and kept.entry in self._mirror.entries else None
            wanted = None if entry is None else self._mirror.waiting(entry) + 1
            answer = await session.call(
                "requeue",
                permit=str(permit),
                entry=entry,
                wanted=wanted,
                throttling=None if throttling is None else encode_throttling(throttling),
            )
            self._mirror.permits.pop(permit, None)
            if entry is not None and wanted is not None:
                self._mirror.set_waiting(entry, wanted)
            return self._admission_result(answer)

    async def finish(
        self, permit: int, batch_id: str, result: TaskResult, *, ended: bool = True
    ) -> AdmissionResult | None:
        """Record a result, release its permit, and offer the freed units."""
        row = encode_row(result, permit)
        finished = FinishCall(permit, batch_id, row, ended, was_created(result))
        return await self._finishing.call(finished)

    async def _finish_coalesced(
        self, session: Session, calls: Sequence[FinishCall]
    ) -> list[AdmissionResult | None]:
        reply, outcomes = await session.call("finish", calls=[each.encode() for each in calls])
        running = set(self._mirror.running())
        for each, outcome in zip(calls, outcomes, strict=True):
            if outcome != "taken":
                self._mirror.permits.pop(each.permit, None)
                self._mirror.add_results(each.batch, [each.row])
        unknown = {
            each.batch
            for each, outcome in zip(calls, outcomes, strict=True)
            if outcome == "unknown" and each.batch in running
        }
        for batch in unknown:
            await self._restore(session, batch)
        found = self._admission_result([reply])
        return [None if outcome == "taken" else found for outcome in outcomes]

    async def record_results(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results without releasing a permit."""
        async with self._session.lock() as session:
            rows = [encode_row(result) for result in results]
            reply: dict[str, Any] = {"batch": batch_id, "results": [row[:3] for row in rows]}
            wanted = max(0, self._mirror.waiting(batch_id) - len(rows)) if waited else None
            if wanted is not None:
                reply["wanted"] = wanted
            answer = await session.call("record_results", **reply)
            if wanted is not None:
                self._mirror.set_waiting(batch_id, wanted)
            was_running = batch_id in self._mirror.running()
            self._mirror.add_results(batch_id, rows)
            if not answer[1] and was_running:
                await self._restore(session, batch_id)
            return self._admission_result(answer)

    async def claim_prediction(self, permit: int, batch_id: str, prediction_id: str) -> bool:
        """Claim a prediction permanently for an attempt; return False if another attempt has it."""
        async with self._session.lock() as session:
            (given,) = await session.call(
                "claim_prediction", permit=str(permit), batch=batch_id, prediction=prediction_id
            )
            if given and permit in self._mirror.permits:
                self._mirror.permits[permit].prediction = prediction_id
            return bool(given)

    async def open_attempts(self, account: str) -> list[AttemptRecord]:
        """Return the account's attempts, oldest first."""
        (reply,) = await self._session.read("open_attempts", account=account)
        return sorted(map(decode_attempt, reply), key=lambda each: each.permit)

    async def orphans(self, account: str) -> list[AttemptRecord]:
        """Return the account's orphaned attempts, oldest first."""
        if self._session.has_no_orphans:
            return []
        (has_orphans,) = await self._session.read("has_orphans", account=account)
        if not has_orphans:
            return []
        async with self._session.lock() as session:
            (reply,) = await session.call("orphans", account=account, **self._reap_arguments())
        return sorted(map(decode_attempt, reply), key=lambda each: each.permit)

    async def adopt(self, permit: int) -> bool:
        """Adopt an orphaned permit; return False if another process was first."""
        async with self._session.lock() as session:
            answer = await session.call(
                "adopt", permit=str(permit), unbroken=self._session.is_connected_for_a_lease
            )
            if answer:
                self._mirror.permits[permit] = MirroredPermit.decode(answer[0])
            return bool(answer)

    async def abandon(self, permit: int) -> None:
        """Abandon a permit, so that a process that can follow its prediction adopts it."""
        async with self._session.lock() as session:
            self._mirror.permits.pop(permit, None)
            await session.call("abandon", permit=str(permit))

    async def has_lost_state(self, account: str) -> bool:
        """Return whether the account's running predictions must be imported now.

        That is so from the end of the lease that follows a loss of state.
        """
        if self._imported_in.get(account) == self._session.generation:
            return False  # A resync shows when the state is lost again.
        lost_in, imported_in = await self._session.read("has_lost_state", account=account)
        self._lost_in[account], self._imported_in[account] = lost_in, imported_in
        return bool(lost_in)

    async def import_running(
        self, account: str, running: Sequence[RunningPrediction]
    ) -> AdmissionResult:
        """Import running predictions without a known attempt, and admit the account's tasks again.

        Admission stays paused if state was lost again since the call of `has_lost_state`.
        """
        async with self._session.lock() as session:
            answer = await session.call(
                "import_running",
                account=account,
                generation=self._lost_in.get(account, ""),
                running=[
                    {"id": each.id, "model": each.model, "ends_in": each.ends_in}
                    for each in running
                ],
            )
            return self._admission_result(answer)

    async def list_prediction_ids(self, account: str) -> set[str]:
        """Return the recent predictions that belong to an attempt, as far as lists are searched."""
        (reply,) = await self._session.read("list_prediction_ids", account=account)
        return set(reply)

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""
        async with self._session.lock() as session:
            await session.call("cancel_batch", batch=batch_id)

    async def canceled_batches(self) -> list[str]:
        """Return this process's running batches that were marked as canceled."""
        running = self._mirror.running()
        if not running:
            return []
        (reply,) = await self._session.read("list_canceled", batches=running)
        for batch in reply:
            if batch in self._mirror.batches:
                self._mirror.batches[batch].canceled = True
        return list(reply)

    async def interrupted_batches(self) -> list[str]:
        """Return batches that were taken over while contact was lost for over a lease."""
        return self._session.pop_taken_over()

    async def get_batch(self, batch_id: str) -> BatchState | None:
        """Return a batch; None if it is unknown."""
        reply = await self._session.read("get_batch", batch=batch_id)
        return decode_batch(reply[0]) if reply else None

    async def list_batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """Return these callers' batches, newest first."""
        (reply,) = await self._session.read("list_batches", callers=list(callers), limit=limit)
        states = sorted(map(decode_batch, reply), key=lambda state: state.created_at, reverse=True)
        return states[:limit]

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """Return the journal's data of a batch's tasks, in order."""
        (reply,) = await self._session.read("tasks", batch=batch_id)
        return [JournalTask(**json.loads(task)) for task in reply]

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Return finished tasks in order of completion, without the first `after`."""
        if limit == 0:
            return []
        last = -1 if limit is None else after + limit - 1
        (reply,) = await self._session.read("results", batch=batch_id, after=after, last=last)
        rows: Sequence[str] = reply
        return await run_cpu_bound(
            lambda: [decode_result(row) for row in rows], size_bytes=sum(map(len, rows))
        )

    async def get_cached(self, key: str) -> str | None:
        """Return a cached response of Replicate's; None if missing or expired."""
        reply = await self._session.read("get_cached", key=key)
        return str(reply[0]) if reply else None

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Cache a response of Replicate's for `seconds`, unless it is too large."""
        size = memo_size(key, value)
        if size is not None:
            await self._session.read(
                "set_cached", key=key, value=value, seconds=seconds, size=size, max_bytes=MEMO_BYTES
            )

    # Shared helpers

    def _reap_arguments(self) -> dict[str, Any]:
        return {"unbroken": self._session.is_connected_for_a_lease, "reasons": REASONS}

    def _admission_result(self, answer: Sequence[Any], *semaphores: str) -> AdmissionResult:
        """Decode the admission in a reply; raise `UnknownSemaphore` if a name is not registered."""
        if not answer[0] and len(answer) > 1:
            raise _unknown(semaphores, answer[1])
        found = decode_admission(answer[0])
        self._mirror.newest = max(self._mirror.newest, *(o.permit for o in found.offers), 0)
        return found

    async def _restore(self, session: Session, batch_id: str) -> None:
        """Restore a running batch that the server has lost, with its results.

        An ended one was deleted there to make space for newer ones.
        """
        kept = self._mirror.batches.get(batch_id)
        if kept is not None:
            await session.restore(kept, entirely=True)


def _unknown(semaphores: Iterable[str], known: Iterable[str]) -> UnknownSemaphore:
    names = set(known)
    unknown = next(name for name in semaphores if name not in names)
    return UnknownSemaphore(unknown_semaphore(unknown, names))
