"""The tables of the journal: batches, results and predictions."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from replicate_mcp.backends.first_prompt import READ_CHARACTERS, first_prompt
from replicate_mcp.backends.space import (
    BATCH_BYTES,
    KEY_BYTES,
    journal_full,
)
from replicate_mcp.backends.sqlite.cache import CacheTable
from replicate_mcp.batches.journal import (
    JOURNAL_SECONDS,
    BatchState,
    IdempotencyKeyExists,
    JournalTask,
    NewBatch,
    RetriedTasks,
)
from replicate_mcp.errors import ErrorCode
from replicate_mcp.semaphores.daily_quota import day_of
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

_RESULT: TypeAdapter[TaskResult] = TypeAdapter(TaskSuccess | TaskFailure)

_STATE = (
    "SELECT id, caller, account, semaphore, total, succeeded, failed,"
    " canceled, created_at, ended_at, retry_of, retried, resumed"
    " FROM batch"
)
_WITH_TASKS = _STATE.replace(
    " FROM batch",
    f", (SELECT substr(tasks, 1, {READ_CHARACTERS}) FROM task_list WHERE task_list.batch = id)"
    " FROM batch",
)


class JournalTables:
    """The journal within one transaction, for one holder at one time.

    Attributes:
        cache: Replicate's cached responses.

    Args:
        connection: the connection, inside a transaction.
        holder: the id of this process.
        now: seconds since the epoch.
        allowance: maximum bytes of an account's batches, ended ones included.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        holder: str,
        now: float,
        allowance: int,
    ) -> None:
        self._db = connection
        self._holder = holder
        self._now = now
        self._allowance = allowance
        self.cache = CacheTable(connection, now)

    def forget_old(self) -> None:
        """Delete expired rows."""
        since = self._now - JOURNAL_SECONDS
        self._forget_old_batches()
        self._db.execute(
            # Up to the oldest permit whose prediction is not expired: no later row is read.
            "DELETE FROM prediction WHERE permit < coalesce((SELECT permit FROM prediction"
            " WHERE claimed_at >= ? ORDER BY permit LIMIT 1), 1 << 62)",
            (since,),
        )
        self.cache.forget_old()
        self._db.execute("DELETE FROM usage WHERE day < ?", (day_of(since),))

    def open(self, batch: NewBatch) -> None:
        """Insert a batch; delete the account's oldest ended batches if it needs their space.

        Raises:
            IdempotencyKeyExists: the caller's key belongs to another batch.
            JournalFull: the account has no space for the batch now.
            InvalidInput: the batch exceeds the account's allowance.
        """
        self._forget_old_batches()
        if batch.key is not None:
            self.check_idempotency_key(batch.caller, batch.key.key)
        tasks = json.dumps(
            [[task.prompt, task.output_filename, task.model] for task in batch.tasks]
        )
        retried = batch.retry and json.dumps(batch.retry.task_indexes)
        size = BATCH_BYTES + len(tasks) + len(batch.inputs) + len(retried or "")
        self._ensure_space(batch.account, size)
        self._db.execute(
            "INSERT INTO batch (id, caller, account, holder, semaphore, total, created_at,"
            " key, digest, bytes, retry_of, retried, deadline, resumable)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                batch.id, batch.caller, batch.account, self._holder, batch.semaphore,
                len(batch.tasks), self._now,
                batch.key and batch.key.key, batch.key and batch.key.digest, size,
                batch.retry and batch.retry.batch_id, retried,
                self._now + batch.seconds, batch.resumable,
            ),
        )  # fmt: skip
        self._db.execute(
            "INSERT INTO task_list (batch, tasks, inputs) VALUES (?, ?, ?)",
            (batch.id, tasks, batch.inputs or None),
        )
        if batch.failures:
            self.record_results(batch.id, batch.failures)

    def _forget_old_batches(self) -> None:
        since = self._now - JOURNAL_SECONDS
        self._db.execute("DELETE FROM batch WHERE ended_at < ?", (since,))

    def _ensure_space(self, account: str, needed: int) -> None:
        taken = self._used_bytes(account)
        running, keys = taken.get("running", 0), taken.get("forgotten", 0)
        fits = running + keys + needed <= self._allowance
        if not fits or self._delete_ended(account, self._excess(account) + needed) > 0:
            raise journal_full(needed=needed, running=running, keys=keys, allowed=self._allowance)

    def _used_bytes(self, account: str) -> dict[str, int]:
        """Return the bytes of the account's batches by state."""
        return dict(
            self._db.execute("SELECT state, bytes FROM journal_bytes WHERE account = ?", (account,))
        )

    def _excess(self, account: str) -> int:
        return sum(self._used_bytes(account).values()) - self._allowance

    def _delete_ended(self, account: str, excess: int, *, keep: str = "") -> int:
        """Delete the account's oldest ended batches until `excess` bytes are free.

        A batch with an idempotency key leaves that key, so that its request is not carried out
        again. A batch with attempts that have not ended at Replicate stays: recovery needs its
        tasks.

        Returns:
            The rest of `excess`, at most 0 if enough was freed.
        """
        while excess > 0:
            oldest = self._db.execute(
                "SELECT id, bytes, key IS NOT NULL FROM batch WHERE account = ? AND state = 'ended'"
                " AND id != ? AND NOT EXISTS (SELECT 1 FROM permit WHERE entry = batch.id)"
                " ORDER BY ended_at LIMIT 1",
                (account, keep),
            ).fetchone()
            if oldest is None:
                break
            batch, size, has_key = oldest
            if has_key:
                self._db.execute(
                    "UPDATE batch SET state = 'forgotten', bytes = ? WHERE id = ?",
                    (KEY_BYTES, batch),
                )
                self._db.execute("DELETE FROM task_list WHERE batch = ?", (batch,))
                self._db.execute("DELETE FROM result WHERE batch = ?", (batch,))
                excess -= size - KEY_BYTES
            else:
                self._db.execute("DELETE FROM batch WHERE id = ?", (batch,))
                excess -= size
        return excess

    def check_idempotency_key(self, caller: str, key: str) -> None:
        """Raise `IdempotencyKeyExists` if a batch of the caller's has `key`, even a deleted one."""
        self._forget_old_batches()
        row = self._db.execute(
            "SELECT id, digest FROM batch WHERE caller = ? AND key = ?", (caller, key)
        ).fetchone()
        if row:
            raise IdempotencyKeyExists(*row)

    def record_results(self, batch: str, results: Iterable[TaskResult]) -> bool:
        """Record results, one per task; return whether the batch has ended with them."""
        succeeded = failed = size = 0
        found = self._db.execute(
            "SELECT succeeded + failed, total, account FROM batch"
            " WHERE id = ? AND state != 'forgotten'",
            (batch,),
        ).fetchone()
        if found is None:
            return True
        finished, total, account = int(found[0]), int(found[1]), str(found[2])
        for result in results:
            row = result.model_dump_json(exclude_none=True, exclude={"prompt"})
            written = self._db.execute(
                "INSERT OR IGNORE INTO result (batch, finish_number, task, row)"
                " VALUES (?, ?, ?, ?)",
                (
                    batch, finished + succeeded + failed + 1, result.task_index, row,
                ),
            ).rowcount  # fmt: skip
            size += len(row.encode()) if written else 0
            if written and isinstance(result, TaskSuccess):
                succeeded += 1
            elif written:
                failed += 1
        ended = finished + succeeded + failed >= total
        self._db.execute(
            "UPDATE batch SET succeeded = succeeded + ?, failed = failed + ?,"
            " ended_at = coalesce(ended_at, ?), state = ?, bytes = bytes + ? WHERE id = ?",
            (
                succeeded, failed, self._now if ended else None,
                "ended" if ended else "running", size, batch,
            ),
        )  # fmt: skip
        self._delete_ended(account, self._excess(account), keep=batch)
        return ended

    def remove_holder(self, holder: str) -> list[str]:
        """Leave a process's batches that have not ended without a process; return them."""
        rows = self._db.execute(
            "UPDATE batch SET holder = '' WHERE holder = ? AND ended_at IS NULL RETURNING id",
            (holder,),
        ).fetchall()
        return [batch for (batch,) in rows]

    def is_run_elsewhere(self, batch: str) -> bool:
        """Return whether another process runs a batch, or it waits for one."""
        row = self._db.execute(
            "SELECT 1 FROM batch LEFT JOIN queue ON entry = id WHERE id = ? AND ended_at IS NULL"
            " AND batch.holder != ? AND (batch.holder != '' OR entry IS NOT NULL)",
            (batch, self._holder),
        ).fetchone()
        return row is not None

    def has_process(self, batch: str) -> bool:
        """Return whether a process runs a batch, or it waits for one."""
        row = self._db.execute(
            "SELECT 1 FROM batch LEFT JOIN queue ON entry = id WHERE id = ?"
            " AND (batch.holder != '' OR entry IS NOT NULL)",
            (batch,),
        ).fetchone()
        return row is not None

    def mark_resumable(self, batch: str) -> None:
        """Allow another process to resume a batch."""
        self._db.execute(
            "UPDATE batch SET resumable = 1 WHERE id = ? AND ended_at IS NULL", (batch,)
        )

    def waiting_for_process(self, account: str | None = None) -> list[str]:
        """Return the batches that wait for a process, in queue order; of one account or of all."""
        rows = self._db.execute(
            "SELECT entry FROM queue WHERE holder = '' AND (? IS NULL OR account = ?)"
            " ORDER BY turn",
            (account, account),
        )
        return [batch for (batch,) in rows]

    def why_not_resumable(self, batch: str) -> ErrorCode | None:
        """Return why a batch without a process is not resumed; None if it waits for one."""
        entry, canceled, deadline = self._db.execute(
            "SELECT entry, canceled, deadline FROM batch"
            " LEFT JOIN queue ON entry = id WHERE id = ?",
            (batch,),
        ).fetchone()
        if entry is None:
            return "interrupted"
        if canceled:
            return "canceled"
        return "deadline_exceeded" if deadline <= self._now else None

    def take_over(self, batch: str) -> float:
        """Make this process the one that runs a batch; return the seconds until its deadline."""
        ((deadline,),) = self._db.execute(
            "UPDATE batch SET holder = ?, resumed = resumed + 1 WHERE id = ? RETURNING deadline",
            (self._holder, batch),
        ).fetchall()
        return float(deadline) - self._now

    def missing(self, batch: str) -> list[tuple[int, JournalTask]]:
        """Return the tasks of a batch that have neither a result nor a permit."""
        tasks = self.tasks(batch)
        return [(index, tasks[index]) for index in self.unstarted(batch)]

    def unstarted(self, batch: str) -> list[int]:
        """Return the indexes of the same tasks, in order."""
        row = self._db.execute(
            "SELECT total FROM batch WHERE id = ? AND state != 'forgotten'", (batch,)
        ).fetchone()
        done = {
            task
            for (task,) in self._db.execute(
                "SELECT task FROM result WHERE batch = ?"
                " UNION SELECT task FROM permit WHERE entry = ? AND task IS NOT NULL",
                (batch, batch),
            )
        }
        return [index for index in range(row[0] if row else 0) if index not in done]

    def tasks(self, batch: str) -> list[JournalTask]:
        """Return the journal's data of a batch's tasks."""
        return _tasks(self._task_list(batch))

    def inputs(self, batch: str) -> str | None:
        """Return what a batch's tasks need to be created again; None if it was not kept."""
        row = self._db.execute("SELECT inputs FROM task_list WHERE batch = ?", (batch,)).fetchone()
        return None if row is None else row[0]

    def task(self, batch: str, index: int) -> JournalTask:
        """Return the journal's data of a task."""
        row = self._db.execute(
            "SELECT json_extract(tasks, '$[' || ? || ']') FROM task_list WHERE batch = ?",
            (index, batch),
        ).fetchone()
        return JournalTask(*json.loads(row[0])) if row and row[0] else JournalTask(None, "", "")

    def claim(self, prediction_id: str, permit: int, batch: str) -> bool:
        """Claim a prediction for an attempt; return False if another attempt has it."""
        self._db.execute(
            "INSERT OR IGNORE INTO prediction (id, account, permit, claimed_at)"
            " SELECT ?, account, ?, ? FROM batch WHERE id = ?",
            (prediction_id, permit, self._now, batch),
        )
        owner = self._db.execute(
            "SELECT permit FROM prediction WHERE id = ?", (prediction_id,)
        ).fetchone()
        return bool(owner) and int(owner[0]) == permit

    def list_prediction_ids(self, account: str) -> set[str]:
        """Return the predictions that belong to an attempt."""
        rows = self._db.execute("SELECT id FROM prediction WHERE account = ?", (account,))
        return {prediction for (prediction,) in rows}

    def cancel(self, batch: str) -> list[int]:
        """Mark a batch as canceled, and return the port of the process that runs it."""
        self._db.execute(
            "UPDATE batch SET canceled = 1 WHERE id = ? AND ended_at IS NULL", (batch,)
        )
        rows = self._db.execute(
            "SELECT port FROM holder JOIN batch ON holder.id = batch.holder WHERE batch.id = ?",
            (batch,),
        )
        return [port for (port,) in rows]

    def canceled(self) -> list[str]:
        """Return this process's running batches that were marked as canceled."""
        rows = self._db.execute(
            "SELECT id FROM batch WHERE holder = ? AND ended_at IS NULL AND canceled",
            (self._holder,),
        )
        return [batch for (batch,) in rows]

    def state(self, batch: str) -> BatchState | None:
        """Return a batch; None if it is unknown."""
        row = self._db.execute(
            f"{_STATE} WHERE id = ? AND state != 'forgotten'", (batch,)
        ).fetchone()
        return _state(row) if row else None

    def states(self, callers: Sequence[str], limit: int) -> list[BatchState]:
        """Return these callers' batches, newest first."""
        marks = ", ".join("?" * len(callers))
        rows = self._db.execute(
            f"{_WITH_TASKS} WHERE caller IN ({marks}) AND state != 'forgotten'"
            " ORDER BY created_at DESC, rowid DESC LIMIT ?",
            (*callers, limit),
        )
        return [
            replace(_state(row), first_prompt=first_prompt(tasks or "")) for *row, tasks in rows
        ]

    def results(self, batch: str, after: int, limit: int | None) -> "WrittenResults":
        """Return results in order of completion, without the first `after`."""
        rows = self._db.execute(
            "SELECT task, row FROM result WHERE batch = ? AND finish_number > ?"
            " ORDER BY finish_number LIMIT ?",
            (batch, after, -1 if limit is None else limit),
        ).fetchall()
        # A prompt may be long, so it is stored only once, with the batch's tasks.
        return WrittenResults(rows, self._task_list(batch) if rows else "[]")

    def _task_list(self, batch: str) -> str:
        row = self._db.execute("SELECT tasks FROM task_list WHERE batch = ?", (batch,)).fetchone()
        return str(row[0]) if row else "[]"


@dataclass(frozen=True, slots=True)
class WrittenResults:
    """Unparsed results: parsing them may take longer than a transaction should."""

    rows: Sequence[tuple[int, str]]
    tasks: str

    @property
    def size_bytes(self) -> int:
        """The length of the text to parse."""
        return len(self.tasks) + sum(len(row) for _, row in self.rows)

    def read(self) -> list[TaskResult]:
        """Parse the results."""
        tasks = _tasks(self.tasks)
        return [
            _RESULT.validate_json(f'{{"prompt":{json.dumps(tasks[task].prompt)},{row[1:]}')
            for task, row in self.rows
        ]


def _tasks(written: str) -> list[JournalTask]:
    return [JournalTask(*task) for task in json.loads(written)]


def _state(row: Sequence[Any]) -> BatchState:
    (
        batch, caller, account, semaphore, total, succeeded, failed, canceled, created, ended,
        retry_of, retried, resumed,
    ) = row  # fmt: skip
    return BatchState(
        batch, caller, account, semaphore, total, succeeded, failed, bool(canceled), created, ended,
        retry=RetriedTasks(retry_of, tuple(json.loads(retried))) if retry_of else None,
        resumed=resumed,
    )  # fmt: skip
