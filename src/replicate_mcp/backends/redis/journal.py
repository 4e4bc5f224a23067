"""The journal of batches and the cache of Replicate's responses at a Redis server."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from replicate_mcp.backends.names import check_encodable
from replicate_mcp.backends.redis.call_coalescing import CallCoalescer
from replicate_mcp.backends.redis.decoding import (
    REASONS,
    BatchOpened,
    decode_batch,
    decode_result,
)
from replicate_mcp.backends.redis.encoding import OpenBatchCall, encode_row, row_of
from replicate_mcp.backends.redis.mirror import (
    Mirror,
    MirroredBatch,
    MirroredEntry,
    decode_complete_batch,
)
from replicate_mcp.backends.redis.session import Session
from replicate_mcp.backends.redis.store import RedisStore, unknown_name
from replicate_mcp.backends.space import MEMO_BYTES, journal_full, memo_size
from replicate_mcp.batches.journal import (
    BatchState,
    IdempotencyKeyExists,
    JournalTask,
    NewBatch,
    TakenOver,
)
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.tasks.result import TaskResult

BatchNotOpened = IdempotencyKeyExists | ReplicateMcpError
"""The exception for a refused batch."""


class RedisJournal(RedisStore):
    """Batches with their results, and cached responses."""

    def __init__(self, session: Session, mirror: Mirror, journal_bytes: int) -> None:
        super().__init__(session, mirror, journal_bytes)
        self._opening = CallCoalescer(session, self._open_coalesced, self._mirror_opened)

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
                opened.append(unknown_name(each.entry.semaphores, rest[0]))
            else:
                opened.append(BatchOpened(found, rest[0], float(rest[1])))
        return opened

    def _mirror_opened(self, call: OpenBatchCall, answer: BatchOpened | BatchNotOpened) -> None:
        if isinstance(answer, BatchOpened):
            self._mirror.enqueue(MirroredEntry(call.entry, call.entry.waiting), answer.limits)
            self._mirror.batches[call.batch.id] = MirroredBatch(
                call.batch, answer.created_at, entry=call.entry
            )

    async def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `IdempotencyKeyExists` if a batch of the caller's has `key`."""
        (taken,) = await self._session.read("check_idempotency_key", caller=caller, key=key)
        if taken:
            raise IdempotencyKeyExists(*taken)

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
            if answer[1] == "lost":
                session.lose([batch_id])
                return self._admission_result(answer)
            if wanted is not None:
                self._mirror.set_waiting(batch_id, wanted)
            was_running = batch_id in self._mirror.running()
            self._mirror.add_results(batch_id, rows)
            if not answer[1] and was_running:
                await self._restore(session, batch_id)
            return self._admission_result(answer)

    async def mark_resumable(self, batch_id: str) -> None:
        """Allow another process to resume a batch if this one ends."""
        async with self._session.lock() as session:
            await session.call("mark_resumable", batch=batch_id)
            kept = self._mirror.batches.get(batch_id)
            if kept is not None:
                kept.batch = replace(kept.batch, resumable=True)

    async def resumable_batches(self, account: str) -> list[str]:
        """Return the account's batches that wait for a process, in queue order."""
        if self._session.has_no_orphans:
            return []
        (reply,) = await self._session.read("resumable_batches", account=account)
        return list(reply)

    async def take_over(self, batch_id: str) -> TakenOver | None:
        """Make this process the one that runs a batch, unless another process was first."""
        async with self._session.lock() as session:
            if batch_id in self._mirror.running():
                return None
            answer = await session.call("take_over", batch=batch_id)
            if not answer:
                return None
            now, reply = answer
            kept = decode_complete_batch(reply)
            assert kept.entry is not None
            self._mirror.take_over(kept, kept.entry)
            return TakenOver(kept.created_at + kept.batch.seconds - float(now), kept.entry)

    async def unstarted_tasks(self, batch_id: str) -> list[int]:
        """Return a batch's tasks with neither a result nor a permit, in order."""
        async with self._session.lock() as session:
            (reply,) = await session.call("unstarted_tasks", batch=batch_id, reasons=REASONS)
        return list(map(int, reply))

    async def cancel_batch(self, batch_id: str) -> None:
        """Mark a batch as canceled, and wake the process that runs it."""
        async with self._session.lock() as session:
            await session.call("cancel_batch", batch=batch_id, reasons=REASONS)

    async def canceled_batches(self) -> list[str]:
        """Return this process's running batches that were marked as canceled."""
        running = self._mirror.running()
        if not running:
            return []
        canceled, lost = await self._session.read("list_canceled", batches=running)
        self._session.lose(lost)
        for batch in canceled:
            if batch in self._mirror.batches:
                self._mirror.batches[batch].canceled = True
        return list(canceled)

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

    async def inputs(self, batch_id: str) -> str | None:
        """Return what a batch's tasks need to be created again; None if it was not kept."""
        reply = await self._session.read("inputs", batch=batch_id)
        return str(reply[0]) if reply else None

    async def results(
        self, batch_id: str, *, after: int = 0, limit: int | None = None
    ) -> list[TaskResult]:
        """Return finished tasks in order of completion, without the first `after`."""
        if limit == 0:
            return []
        last = -1 if limit is None else after + limit - 1
        (reply,) = await self._session.read("results", batch=batch_id, after=after, last=last)
        rows: Sequence[str] = reply
        results = await run_cpu_bound(
            lambda: [decode_result(row) for row in rows], size_bytes=sum(map(len, rows))
        )
        kept = self._mirror.batches.get(batch_id)
        if kept is not None and kept.resumed:
            # Others recorded some of them.
            self._mirror.add_results(batch_id, map(row_of, results, rows))
        return results

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
