"""The Redis backend: one server, Redis 6.2 or newer or Valkey, shared by a fleet of machines.

Every step is one call of one script (in `lua/`), by the server's own clock. A process is known by a
key that lives for one lease, and is renewed; one whose key has lapsed creates nothing.

Nobody can tell a server that was emptied from a new one. So where it has forgotten anything, or may
have (a restart, a failover, an evicted key), nothing is admitted for one lease: every living
process says again what it has, and what each account's list of predictions shows as running is
entered too. A new server costs that lease once.

What remains: a server that loses its memory while a process stands still between noting an attempt
and sending it, for longer than a lease, lets one more be made than the limit allows. And a named
semaphore forgets what a process holds that is gone at the same time, since the list of predictions
tells nothing of it.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio

from replicate_mcp.backends.names import check_encodable
from replicate_mcp.backends.redis.advice import advice
from replicate_mcp.backends.redis.answers import (
    REASONS,
    Begun,
    batch_state,
    noted,
    noted_attempt,
    room,
    semaphore_state,
    task_result,
)
from replicate_mcp.backends.redis.membership import Membership
from replicate_mcp.backends.redis.mirror import KeptBatch, KeptEntry, KeptPermit, Mirror
from replicate_mcp.backends.redis.server import Address, Server
from replicate_mcp.backends.redis.together import Together
from replicate_mcp.backends.redis.told import (
    Finished,
    ToNote,
    ToOpen,
    row_of,
    told_entry,
    told_throttling,
)
from replicate_mcp.backends.space import JOURNAL_BYTES, MEMO_BYTES, memo_size, no_room
from replicate_mcp.batches.backend import (
    Attempt,
    BatchState,
    JournalTask,
    IdempotencyKeyExists,
    NewBatch,
    RecordedAttempts,
    AttemptRecord,
    RunningPrediction,
)
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.errors import BackendUnavailable, ReplicateMcpError, UnknownSemaphore
from replicate_mcp.semaphores.permits import QueueEntry, AdmissionResult, Scope, SemaphoreState, HolderUsage, AcceptedOffers
from replicate_mcp.semaphores.rate_learning import Throttling
from replicate_mcp.semaphores.registry import check_removable, unknown_semaphore
from replicate_mcp.tasks.result import TaskResult, was_created

log = logging.getLogger(__name__)

NotBegun = IdempotencyKeyExists | ReplicateMcpError
"""Why a batch was refused, as it is raised."""


class RedisBackend:
    """Keeps the promise of `Backend` at a Redis or Valkey server."""

    scope: Scope = "fleet"

    def __init__(self, server: Server, label: str, journal_bytes: int) -> None:
        self._server = server
        self._journal_bytes = journal_bytes
        self._mirror = Mirror()
        self._membership = Membership(server, self._mirror, label)
        self._opening = Together(self._membership, self._open_together, self._keep_opened)
        self._noting = Together(self._membership, self._note_together, self._keep_noted)
        self._finishing = Together(self._membership, self._finish_together)
        self._forgotten_in: dict[str, str] = {}

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        label: str = "",
        clock: Callable[[], float] | None = None,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> "RedisBackend":
        """Make this process known to the server at `url`.

        Args:
            url: `redis://` or `rediss://` (TLS), with user, password and database; `?lease=` in
                seconds and `?prefix=` have to be the same for all who share it.
            label: what people know this process by.
            clock: for tests: seconds since the epoch, in place of the server's.
            journal_bytes: the allowance of each account in the journal.

        Raises:
            BackendUnavailable: it cannot be used; the message says why and what to do.
        """
        server = Server(Address.parse(url), clock=clock, journal_bytes=journal_bytes)
        backend = cls(server, label, journal_bytes)
        try:
            await backend._server.listen(backend._membership.holder)
            async with backend._membership.turn() as turn:
                await turn.renew()
        except BaseException:
            # Cancelled too: nobody else knows of the connections that it has opened.
            with anyio.CancelScope(shield=True):
                await backend._server.close()
            raise
        return backend

    async def close(self) -> None:
        """Leave: offers and places in the queue are gone, permits of running predictions stay."""
        try:
            async with self._membership.turn() as turn:
                await turn.step("close", reasons=REASONS)
        except BackendUnavailable as error:
            log.info("%s Its lease ends by itself.", error)
        finally:
            await self._server.close()

    async def advice(self) -> list[str]:
        """What of the server's settings does not suit."""
        return advice(await self._server.information())

    # Permits

    async def declare(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Say which limit and rate this process allows an account."""
        async with self._membership.turn() as turn:
            await turn.step("declare", semaphore=semaphore, limit=limit, per_minute=per_minute)
            self._mirror.declared[semaphore] = (limit, per_minute)

    async def set_rate(self, semaphore: str, per_minute: float) -> AdmissionResult:
        """Set an account's rate by hand."""
        async with self._membership.turn() as turn:
            answer = await turn.step("set_rate", semaphore=semaphore, per_minute=per_minute)
            found = self._room(answer)
            await turn.renew()  # It is kept here, too.
            return found

    async def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Make a name known while this process lives."""
        async with self._membership.turn() as turn:
            ((told,),) = await turn.step("register_name", semaphore=semaphore, limit=limit)
            state = semaphore_state(told)
            self._mirror.declared[semaphore] = (state.limit, None)
            await turn.renew()  # What was set is kept here, too.
            return state

    async def resize(self, semaphore: str, limit: int, *, by_admin: bool = False) -> AdmissionResult:
        """Set a limit by hand."""
        async with self._membership.turn() as turn:
            answer = await turn.step("resize", semaphore=semaphore, limit=limit, by_admin=by_admin)
            found = self._room(answer, semaphore)
            await turn.renew()
            return found

    async def unset(self, semaphore: str) -> AdmissionResult:
        """Drop a limit that was set by hand."""
        async with self._membership.turn() as turn:
            found = self._room(await turn.step("unset", semaphore=semaphore), semaphore)
            await turn.renew()  # What is kept here of it is older.
            return found

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name that nothing uses."""
        async with self._membership.turn() as turn:
            outcome, *about = await turn.step("remove", semaphore=semaphore, **self._looking())
            if outcome == "unknown":
                raise _unknown([semaphore], about[0])
            if outcome == "used":
                in_use, waiting, processes = map(int, about)
                check_removable(semaphore, in_use=in_use, waiting=waiting, processes=processes)
            self._mirror.remove_semaphore(semaphore)
            await turn.renew()

    async def semaphores(self) -> list[SemaphoreState]:
        """Every semaphore as it stands."""
        async with self._membership.turn() as turn:
            (told,) = await turn.step("semaphores", **self._looking())
        return sorted(map(semaphore_state, told), key=lambda state: state.name)

    async def shares(self) -> list[HolderUsage]:
        """Who holds and who waits."""
        (told,) = await self._membership.read("shares")
        in_use: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        for label, name, used, waits in told:
            in_use[name, label] += int(used)
            waiting[name, label] += int(waits)
        return [
            HolderUsage(label, name, in_use[name, label], waiting[name, label])
            for name, label in sorted(in_use.keys() | waiting.keys())
        ]

    async def join(self, entry: QueueEntry) -> AdmissionResult:
        """Wait in the queue."""
        async with self._membership.turn() as turn:
            wanted = self._mirror.wanted(entry.id) + entry.waiting
            answer = await turn.step("join", **told_entry(entry, wanted))
            found = self._room(answer, *entry.semaphores)
            self._mirror.join(KeptEntry(entry, wanted), answer[1])
            return found

    async def leave(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Wait for less, or not at all."""
        async with self._membership.turn() as turn:
            wanted = 0 if count is None else max(0, self._mirror.wanted(entry) - count)
            answer = await turn.step("leave", entry=entry, wanted=wanted, wholly=count is None)
            # Not before: asked for again, it counts once.
            self._mirror.want(entry, wanted)
            if count is None:
                self._mirror.entries.pop(entry, None)
            return self._room(answer)

    async def take(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits."""
        async with self._membership.next_turn() as turn:
            told, now, taken = await turn.step("take", permits=[str(each) for each in permits])
            for permit, entry in taken:
                self._mirror.hold(int(permit), entry, taken_at=float(now))
            return AcceptedOffers(frozenset(int(permit) for permit, _ in taken), self._room([told]))

    async def release(self, permit: int) -> AdmissionResult:
        """Give a permit back."""
        async with self._membership.turn() as turn:
            # It is given back in any case: if not by this step, then when all is said again.
            self._mirror.permits.pop(permit, None)
            return self._room(await turn.step("release", permit=str(permit)))

    async def admit(self) -> AdmissionResult:
        """Clear what the dead left, and make offers."""
        async with self._membership.turn() as turn:
            return self._room(await turn.step("admit", **self._looking()))

    async def run(self) -> None:
        """Renew the lease."""
        await self._membership.keep_alive()

    async def woken(self) -> None:
        """Return when another process's step may have offered this one something."""
        await self._server.woken(self._membership.holder)

    # The journal

    async def open_batch(self, batch: NewBatch, entry: QueueEntry) -> AdmissionResult:
        """A batch begins, and its tasks wait."""
        if batch.key is not None:
            check_encodable(batch.key.key)  # Before others' batches are sent with it.
        answer = await self._opening.ask(ToOpen(batch, entry))
        if isinstance(answer, Begun):
            return answer.room
        raise answer

    async def _open_together(
        self, turn: Membership, asked: Sequence[ToOpen]
    ) -> list[Begun | NotBegun]:
        told, answers = await turn.step("open_batch", asked=[each.told() for each in asked])
        found = self._room([told])
        opened: list[Begun | NotBegun] = []
        for each, (outcome, *rest) in zip(asked, answers, strict=True):
            if outcome == "taken":
                opened.append(IdempotencyKeyExists(*rest))
            elif outcome == "full":
                needed, running, keys = map(int, rest[0])
                opened.append(
                    no_room(needed=needed, running=running, keys=keys, allowed=self._journal_bytes)
                )
            elif outcome == "unknown":
                opened.append(_unknown(each.entry.semaphores, rest[0]))
            else:
                opened.append(Begun(found, rest[0], float(rest[1])))
        return opened

    def _keep_opened(self, asked: ToOpen, answer: Begun | NotBegun) -> None:
        if isinstance(answer, Begun):
            self._mirror.join(KeptEntry(asked.entry, asked.entry.waiting), answer.limits)
            self._mirror.batches[asked.batch.id] = KeptBatch(asked.batch, answer.created_at)

    async def check_key(self, caller: str, key: str) -> None:
        """Raise `KeyTaken` where a batch of the caller's has that key."""
        (taken,) = await self._membership.read("check_key", caller=caller, key=key)
        if taken:
            raise IdempotencyKeyExists(*taken)

    async def note_attempts(
        self, attempts: Mapping[int, Attempt], *, images_per_day: int | None = None
    ) -> RecordedAttempts:
        """Turn offers into permits, each with its attempt."""
        answer, _ = await self._noting.ask(ToNote(attempts, images_per_day))
        return answer

    async def _note_together(
        self, turn: Membership, asked: Sequence[ToNote]
    ) -> list[tuple[RecordedAttempts, float]]:
        """With each, when it was noted."""
        told, now, answers = await turn.step("note_attempts", asked=[each.told() for each in asked])
        found = self._room([told])
        return [(noted(answer, found), float(now)) for answer in answers]

    def _keep_noted(self, asked: ToNote, answer: tuple[RecordedAttempts, float]) -> None:
        told, now = answer
        for permit, seconds in told.cancel_after.items():
            self._mirror.hold_attempt(permit, asked.attempts[permit], seconds, now)

    async def put_back(self, permit: int, throttling: Throttling | None = None) -> AdmissionResult:
        """Let a task wait anew; a 429 is learned from."""
        async with self._membership.turn() as turn:
            kept = self._mirror.permits.get(permit)
            entry = kept.entry if kept and kept.entry in self._mirror.entries else None
            wanted = None if entry is None else self._mirror.wanted(entry) + 1
            answer = await turn.step(
                "put_back",
                permit=str(permit),
                entry=entry,
                wanted=wanted,
                throttling=None if throttling is None else told_throttling(throttling),
            )
            self._mirror.permits.pop(permit, None)
            if entry is not None and wanted is not None:
                self._mirror.want(entry, wanted)
            return self._room(answer)

    async def finish(
        self, permit: int, batch_id: str, result: TaskResult, *, ended: bool = True
    ) -> AdmissionResult | None:
        """Record a result, free its permit, hand the room on."""
        row = row_of(result, permit)
        finished = Finished(permit, batch_id, row, ended, was_created(result))
        return await self._finishing.ask(finished)

    async def _finish_together(
        self, turn: Membership, asked: Sequence[Finished]
    ) -> list[AdmissionResult | None]:
        told, outcomes = await turn.step("finish", asked=[each.told() for each in asked])
        running = set(self._mirror.running())
        for each, outcome in zip(asked, outcomes, strict=True):
            if outcome != "taken":
                self._mirror.permits.pop(each.permit, None)
                self._mirror.note(each.batch, [each.row])
        unknown = {
            each.batch
            for each, outcome in zip(asked, outcomes, strict=True)
            if outcome == "unknown" and each.batch in running
        }
        for batch in unknown:
            await self._restore(turn, batch)
        found = self._room([told])
        return [None if outcome == "taken" else found for outcome in outcomes]

    async def record(
        self, batch_id: str, results: Sequence[TaskResult], *, waited: bool = True
    ) -> AdmissionResult:
        """Record results without a permit's end."""
        async with self._membership.turn() as turn:
            rows = [row_of(result) for result in results]
            told: dict[str, Any] = {"batch": batch_id, "results": [row[:3] for row in rows]}
            wanted = max(0, self._mirror.wanted(batch_id) - len(rows)) if waited else None
            if wanted is not None:
                told["wanted"] = wanted
            answer = await turn.step("record", **told)
            if wanted is not None:
                self._mirror.want(batch_id, wanted)
            was_running = batch_id in self._mirror.running()
            self._mirror.note(batch_id, rows)
            if not answer[1] and was_running:
                await self._restore(turn, batch_id)
            return self._room(answer)

    async def claim_prediction(self, permit: int, batch_id: str, prediction_id: str) -> bool:
        """Give a prediction to an attempt, for ever."""
        async with self._membership.turn() as turn:
            (given,) = await turn.step(
                "claim", permit=str(permit), batch=batch_id, prediction=prediction_id
            )
            if given and permit in self._mirror.permits:
                self._mirror.permits[permit].prediction = prediction_id
            return bool(given)

    async def open_attempts(self, account: str) -> list[AttemptRecord]:
        """The account's attempts, oldest first."""
        (told,) = await self._membership.read("open_attempts", account=account)
        return sorted(map(noted_attempt, told), key=lambda each: each.permit)

    async def orphans(self, account: str) -> list[AttemptRecord]:
        """The account's attempts whose processes are gone, oldest first."""
        async with self._membership.turn() as turn:
            (told,) = await turn.step("orphans", account=account, **self._looking())
        return sorted(map(noted_attempt, told), key=lambda each: each.permit)

    async def adopt(self, permit: int) -> bool:
        """Take over a permit whose process is gone; False where another was quicker."""
        async with self._membership.turn() as turn:
            answer = await turn.step(
                "adopt", permit=str(permit), unbroken=self._membership.unbroken
            )
            if answer:
                self._mirror.permits[permit] = KeptPermit.read(answer[0])
            return bool(answer)

    async def abandon(self, permit: int) -> None:
        """Leave a permit to whoever can follow its prediction."""
        async with self._membership.turn() as turn:
            self._mirror.permits.pop(permit, None)
            await turn.step("abandon", permit=str(permit))

    async def forgot(self, account: str) -> bool:
        """Whether it is time to tell what runs of the account: the lease after a loss is over."""
        answer = await self._membership.read("forgot", account=account)
        self._forgotten_in[account] = answer[0]
        return bool(answer[0])

    async def enter_running(self, account: str, running: Sequence[RunningPrediction]) -> AdmissionResult:
        """Enter what nobody is known to have made; then the account's tasks may start.

        They may not where the memory was lost once more since `forgot` was asked.
        """
        async with self._membership.turn() as turn:
            answer = await turn.step(
                "enter_running",
                account=account,
                generation=self._forgotten_in.get(account, ""),
                running=[
                    {"id": each.id, "model": each.model, "ends_in": each.ends_in}
                    for each in running
                ],
            )
            return self._room(answer)

    async def known_predictions(self, account: str) -> set[str]:
        """Predictions that belong to an attempt, as far back as a list is looked at."""
        (told,) = await self._membership.read("known_predictions", account=account)
        return set(told)

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""
        async with self._membership.turn() as turn:
            await turn.step("cancel_batch", batch=batch_id)

    async def canceled_batches(self) -> list[str]:
        """This process's running batches that were marked."""
        running = self._mirror.running()
        if not running:
            return []
        (told,) = await self._membership.read("canceled", batches=running)
        for batch in told:
            if batch in self._mirror.batches:
                self._mirror.batches[batch].canceled = True
        return list(told)

    async def interrupted_batches(self) -> list[str]:
        """Those that were taken over while this process had no contact for longer than a lease."""
        return self._membership.take_left()

    async def batch(self, batch_id: str) -> BatchState | None:
        """One batch."""
        told = await self._membership.read("batch", batch=batch_id)
        return batch_state(told[0]) if told else None

    async def batches(self, callers: Sequence[str], *, limit: int = 100) -> list[BatchState]:
        """Those callers' batches, the newest first."""
        (told,) = await self._membership.read("batches", callers=list(callers), limit=limit)
        states = sorted(map(batch_state, told), key=lambda state: state.created_at, reverse=True)
        return states[:limit]

    async def tasks(self, batch_id: str) -> list[JournalTask]:
        """What the journal keeps of a batch's tasks, in order."""
        (told,) = await self._membership.read("tasks", batch=batch_id)
        return [JournalTask(**json.loads(task)) for task in told]

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Finished tasks in the order in which they finished."""
        if limit == 0:
            return []
        last = -1 if limit is None else after + limit - 1
        (told,) = await self._membership.read("results", batch=batch_id, after=after, last=last)
        rows: Sequence[str] = told
        return await run_cpu_bound(
            lambda: [task_result(row) for row in rows], size_bytes=sum(map(len, rows))
        )

    async def recall(self, key: str) -> str | None:
        """A remembered answer of Replicate's."""
        told = await self._membership.read("recall", key=key)
        return str(told[0]) if told else None

    async def remember(self, key: str, value: str, *, seconds: float) -> None:
        """Keep an answer of Replicate's for `seconds`, unless it is too large."""
        size = memo_size(key, value)
        if size is not None:
            await self._membership.read(
                "remember", key=key, value=value, seconds=seconds, size=size, most=MEMO_BYTES
            )

    # What all of it stands on

    def _looking(self) -> dict[str, Any]:
        return {"unbroken": self._membership.unbroken, "reasons": REASONS}

    def _room(self, answer: Sequence[Any], *semaphores: str) -> AdmissionResult:
        """The room in an answer, or the reason why there is none: a name that nobody registered."""
        if not answer[0] and len(answer) > 1:
            raise _unknown(semaphores, answer[1])
        found = room(answer[0])
        self._mirror.newest = max(self._mirror.newest, *(o.permit for o in found.offers), 0)
        return found

    async def _restore(self, turn: Membership, batch_id: str) -> None:
        """Write a batch anew that the server has lost while it ran, with its results.

        One that had ended was forgotten there to make room for newer ones.
        """
        kept = self._mirror.batches.get(batch_id)
        if kept is not None:
            await turn.restore(kept, wholly=True)


def _unknown(semaphores: Iterable[str], known: Iterable[str]) -> UnknownSemaphore:
    names = set(known)
    unknown = next(name for name in semaphores if name not in names)
    return UnknownSemaphore(unknown_semaphore(unknown, names))
