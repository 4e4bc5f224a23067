"""Attempts at a Redis server: recorded, finished, and taken over from dead processes."""

from collections.abc import Mapping, Sequence

from replicate_mcp.backends.redis.call_coalescing import CallCoalescer
from replicate_mcp.backends.redis.decoding import (
    REASONS,
    decode_attempt,
    decode_recorded_attempts,
)
from replicate_mcp.backends.redis.encoding import (
    FinishCall,
    RecordAttemptsCall,
    encode_row,
    encode_throttling,
)
from replicate_mcp.backends.redis.mirror import Mirror, MirroredPermit
from replicate_mcp.backends.redis.session import Session
from replicate_mcp.backends.redis.store import RedisStore
from replicate_mcp.batches.attempt_store import (
    Attempt,
    AttemptRecord,
    RecordedAttempts,
    RunningPrediction,
)
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult
from replicate_mcp.tasks.result import TaskResult, was_created


class RedisAttempts(RedisStore):
    """The attempts of tasks, with their permits and predictions."""

    def __init__(self, session: Session, mirror: Mirror, journal_bytes: int) -> None:
        super().__init__(session, mirror, journal_bytes)
        self._recording = CallCoalescer(
            session, self._record_attempts_coalesced, self._mirror_recorded
        )
        self._finishing = CallCoalescer(session, self._finish_coalesced)
        # By account, the generation in which its running predictions are to be imported, or were.
        self._lost_in: dict[str, str] = {}
        self._imported_in: dict[str, str] = {}

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

    async def give_back(self, permit: int) -> AdmissionResult:
        """Release the permit of an adopted attempt that created nothing, and leave its task."""
        async with self._session.lock() as session:
            answer = await session.call("give_back", permit=str(permit), reasons=REASONS)
            self._mirror.permits.pop(permit, None)
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
            kept = self._mirror.permits.get(permit)
            if kept is not None and kept.entry not in self._mirror.batches:
                # Abandoned in any case: if not by this call, then by the next resync. Of a batch of
                # this process, a resync would free the permit instead, as of a task never sent.
                del self._mirror.permits[permit]
            await session.call("abandon", permit=str(permit))
            self._mirror.permits.pop(permit, None)

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
