"""The tables of the journal: batches, results, predictions, and answers that are remembered."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter

from replicate_mcp.batches.backend import (
    JOURNAL_SECONDS,
    BatchState,
    JournalTask,
    KeyTaken,
    NewBatch,
)
from replicate_mcp.semaphores.daily_cap import day_of
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

_RESULT: TypeAdapter[TaskResult] = TypeAdapter(TaskSuccess | TaskFailure)

_STATE = (
    "SELECT id, caller, account, semaphore, total, succeeded, failed,"
    " canceled, created_at, ended_at"
    " FROM batch"
)


class JournalTables:
    """One step's view of the journal, for one holder at one time."""

    def __init__(self, connection: sqlite3.Connection, holder: str, now: float) -> None:
        self._db = connection
        self._holder = holder
        self._now = now

    def forget_old(self) -> None:
        """Drop what is older than the journal reaches."""
        since = self._now - JOURNAL_SECONDS
        self._db.execute("DELETE FROM batch WHERE ended_at < ?", (since,))
        self._db.execute("DELETE FROM prediction WHERE claimed_at < ?", (since,))
        self._db.execute("DELETE FROM memo WHERE expires_at < ?", (self._now,))
        self._db.execute("DELETE FROM usage WHERE day < ?", (day_of(since),))

    def open(self, batch: NewBatch) -> None:
        """A batch begins."""
        if batch.key is not None:
            self.check_key(batch.caller, batch.key.key)
        tasks = [[task.prompt, task.output_filename, task.model] for task in batch.tasks]
        self._db.execute(
            "INSERT INTO batch (id, caller, account, holder, semaphore, tasks, total, created_at,"
            " key, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                batch.id, batch.caller, batch.account, self._holder, batch.semaphore,
                json.dumps(tasks), len(tasks), self._now,
                batch.key and batch.key.key, batch.key and batch.key.digest,
            ),
        )  # fmt: skip

    def check_key(self, caller: str, key: str) -> None:
        """Raise `KeyTaken` where a batch of the caller's has that key."""
        row = self._db.execute(
            "SELECT id, digest FROM batch WHERE caller = ? AND key = ?", (caller, key)
        ).fetchone()
        if row:
            raise KeyTaken(*row)

    def record(self, batch: str, results: Iterable[TaskResult]) -> bool:
        """Write results, each task's once; True where the batch has ended with them."""
        succeeded = failed = 0
        row = self._db.execute(
            "SELECT succeeded + failed, total FROM batch WHERE id = ?", (batch,)
        ).fetchone()
        if row is None:
            return True
        finished, total = int(row[0]), int(row[1])
        for result in results:
            written = self._db.execute(
                "INSERT OR IGNORE INTO result (batch, finish_number, task, row)"
                " VALUES (?, ?, ?, ?)",
                (
                    batch, finished + succeeded + failed + 1, result.task_index,
                    result.model_dump_json(exclude_none=True, exclude={"prompt"}),
                ),
            ).rowcount  # fmt: skip
            if written and isinstance(result, TaskSuccess):
                succeeded += 1
            elif written:
                failed += 1
        ended = finished + succeeded + failed >= total
        self._db.execute(
            "UPDATE batch SET succeeded = succeeded + ?, failed = failed + ?,"
            " ended_at = coalesce(ended_at, ?) WHERE id = ?",
            (succeeded, failed, self._now if ended else None, batch),
        )
        return ended

    def unfinished(self, holder: str) -> list[str]:
        """Batches of a process that have not ended."""
        rows = self._db.execute(
            "SELECT id FROM batch WHERE holder = ? AND ended_at IS NULL", (holder,)
        )
        return [batch for (batch,) in rows]

    def missing(self, batch: str) -> list[tuple[int, JournalTask]]:
        """Tasks of a batch that have neither a result nor a permit."""
        done = {
            task
            for (task,) in self._db.execute(
                "SELECT task FROM result WHERE batch = ?"
                " UNION SELECT task FROM permit WHERE entry = ? AND task IS NOT NULL",
                (batch, batch),
            )
        }
        return [(i, task) for i, task in enumerate(self.tasks(batch)) if i not in done]

    def tasks(self, batch: str) -> list[JournalTask]:
        """What is known of a batch's tasks."""
        row = self._db.execute("SELECT tasks FROM batch WHERE id = ?", (batch,)).fetchone()
        return [JournalTask(*task) for task in json.loads(row[0])] if row else []

    def task(self, batch: str, index: int) -> JournalTask:
        """What is known of a task."""
        row = self._db.execute(
            "SELECT json_extract(tasks, '$[' || ? || ']') FROM batch WHERE id = ?", (index, batch)
        ).fetchone()
        return JournalTask(*json.loads(row[0])) if row and row[0] else JournalTask("", "", "")

    def claim(self, prediction_id: str, permit: int, batch: str) -> bool:
        """Give a prediction to an attempt; False where another has it."""
        self._db.execute(
            "INSERT OR IGNORE INTO prediction (id, account, permit, claimed_at)"
            " SELECT ?, account, ?, ? FROM batch WHERE id = ?",
            (prediction_id, permit, self._now, batch),
        )
        owner = self._db.execute(
            "SELECT permit FROM prediction WHERE id = ?", (prediction_id,)
        ).fetchone()
        return bool(owner) and int(owner[0]) == permit

    def known_predictions(self, account: str) -> set[str]:
        """Predictions that belong to an attempt."""
        rows = self._db.execute("SELECT id FROM prediction WHERE account = ?", (account,))
        return {prediction for (prediction,) in rows}

    def cancel(self, batch: str) -> list[int]:
        """Mark a batch as canceled; the port of the process that runs it."""
        self._db.execute(
            "UPDATE batch SET canceled = 1 WHERE id = ? AND ended_at IS NULL", (batch,)
        )
        rows = self._db.execute(
            "SELECT port FROM holder JOIN batch ON holder.id = batch.holder WHERE batch.id = ?",
            (batch,),
        )
        return [port for (port,) in rows]

    def canceled(self) -> list[str]:
        """This process's batches that were marked and have not ended."""
        rows = self._db.execute(
            "SELECT id FROM batch WHERE holder = ? AND ended_at IS NULL AND canceled",
            (self._holder,),
        )
        return [batch for (batch,) in rows]

    def state(self, batch: str) -> BatchState | None:
        """One batch."""
        row = self._db.execute(f"{_STATE} WHERE id = ?", (batch,)).fetchone()
        return _state(row) if row else None

    def states(self, callers: Sequence[str], limit: int) -> list[BatchState]:
        """Batches of these callers, the newest first."""
        marks = ", ".join("?" * len(callers))
        rows = self._db.execute(
            f"{_STATE} WHERE caller IN ({marks}) ORDER BY created_at DESC, rowid DESC LIMIT ?",
            (*callers, limit),
        )
        return [_state(row) for row in rows]

    def results(self, batch: str, after: int, limit: int | None) -> list[TaskResult]:
        """Results in the order in which they came."""
        rows = self._db.execute(
            "SELECT task, row FROM result WHERE batch = ? AND finish_number > ?"
            " ORDER BY finish_number LIMIT ?",
            (batch, after, -1 if limit is None else limit),
        ).fetchall()
        # A prompt may be long: it is kept once, with its batch's tasks.
        tasks = self.tasks(batch) if rows else []
        return [
            _RESULT.validate_json(f'{{"prompt":{json.dumps(tasks[task].prompt)},{row[1:]}')
            for task, row in rows
        ]

    def recall(self, key: str) -> str | None:
        """A remembered answer."""
        row = self._db.execute(
            "SELECT value FROM memo WHERE key = ? AND expires_at > ?", (key, self._now)
        ).fetchone()
        return str(row[0]) if row else None

    def remember(self, key: str, value: str, seconds: float) -> None:
        """Keep an answer; those whose time is over go."""
        self._db.execute("DELETE FROM memo WHERE expires_at < ?", (self._now,))
        self._db.execute(
            "INSERT OR REPLACE INTO memo (key, value, expires_at) VALUES (?, ?, ?)",
            (key, value, self._now + seconds),
        )


def _state(row: tuple[Any, ...]) -> BatchState:
    batch, caller, account, semaphore, total, succeeded, failed, canceled, created, ended = row
    return BatchState(
        batch, caller, account, semaphore, total, succeeded, failed, bool(canceled), created, ended
    )
