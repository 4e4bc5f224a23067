"""Encoding of this process's data for the script."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.journal import NewBatch, RetriedTasks
from replicate_mcp.errors import ErrorCode
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

Row = tuple[int, bool, str, str | None, int | None]
"""A result: its task, whether it succeeded, its JSON, its prediction, and the prediction's permit.
"""


def encode_row(result: TaskResult, permit: int | None = None) -> Row:
    """Encode a result as it is stored."""
    return row_of(result, result.model_dump_json(exclude_none=True), permit)


def row_of(result: TaskResult, text: str, permit: int | None = None) -> Row:
    """Return a result's row; `text` is its JSON."""
    return (
        result.task_index,
        isinstance(result, TaskSuccess),
        text,
        result.prediction_id,
        permit,
    )


def encode_batch(batch: NewBatch) -> dict[str, Any]:
    """Encode a batch; the script does not parse the JSON of its tasks."""
    return {
        "caller": batch.caller,
        "account": batch.account,
        "semaphore": batch.semaphore,
        **({} if batch.key is None else {"key": batch.key.key, "digest": batch.key.digest}),
        "tasks": [
            json.dumps(
                {
                    "prompt": task.prompt,
                    "output_filename": task.output_filename,
                    "model": task.model,
                }
            )
            for task in batch.tasks
        ],
        **({} if not batch.inputs else {"inputs": batch.inputs}),
        **({} if batch.retry is None else encode_retry(batch.retry)),
        "seconds": batch.seconds,
        **({"resumable": True} if batch.resumable else {}),
        "failures": [
            (each.task_index, encode_reason(each.error_code, each.error, retryable=each.retryable))
            for each in batch.failures
        ],
    }


def encode_retry(retry: RetriedTasks) -> dict[str, str]:
    """Encode the tasks that a batch repeats; the script does not parse their indexes."""
    return {"retry_of": retry.batch_id, "retried": json.dumps(retry.task_indexes)}


def encode_reason(code: ErrorCode, error: str, *, retryable: bool) -> str:
    """Return the part of a failed task's row that the script completes with the task itself."""
    fields = {"error": error, "error_code": code, "retryable": retryable}
    return json.dumps(fields)[1:-1]


def encode_entry(entry: QueueEntry, wanted: int) -> dict[str, Any]:
    """Encode an entry of the queue, with the number of starts that it waits for."""
    fields: dict[str, Any] = {"entry": entry.id, "semaphores": entry.semaphores, "wanted": wanted}
    if entry.account is not None:
        fields["account"] = entry.account
    if entry.max_running is not None:
        fields["max_running"] = entry.max_running
    return fields


@dataclass(frozen=True, slots=True)
class OpenBatchCall:
    """A call to open a batch, with its entry in the queue."""

    batch: NewBatch
    entry: QueueEntry

    def encode(self) -> dict[str, Any]:
        """Encode the call."""
        return encode_entry(self.entry, self.entry.waiting) | {"batch": encode_batch(self.batch)}


@dataclass(frozen=True, slots=True)
class FinishCall:
    """A call to finish a task with its row; `counts_images` keeps its images in the daily count."""

    permit: int
    batch: str
    row: Row
    ended: bool
    counts_images: bool

    def encode(self) -> dict[str, Any]:
        """Encode the call."""
        prediction = self.row[3]
        return {
            "permit": str(self.permit), "batch": self.batch, "result": self.row[:3],
            "ended": self.ended, "counts_images": self.counts_images,
        } | ({} if prediction is None else {"prediction": prediction})  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecordAttemptsCall:
    """A call to record attempts, by the permits whose offers they accept."""

    attempts: Mapping[int, Attempt]
    images_per_day: int | None

    def encode(self) -> dict[str, Any]:
        """Encode the call."""
        fields = {
            "attempts": [encode_attempt(permit, each) for permit, each in self.attempts.items()]
        }
        return fields | (
            {} if self.images_per_day is None else {"images_per_day": self.images_per_day}
        )


def encode_attempt(permit: int, attempt: Attempt) -> dict[str, Any]:
    """Encode an attempt and the offer that it accepts."""
    return {
        "permit": str(permit),
        "task": attempt.task,
        "model": attempt.model,
        "inputs": encode_inputs(attempt),
        "fingerprint": attempt_fingerprint(attempt),
        "cancel_after": attempt.cancel_after,
        "sent_at": attempt.sent_at,
        "max_seconds": attempt.max_seconds,
        "images": attempt.images,
    }


def encode_inputs(attempt: Attempt) -> str:
    """Encode the hashes of an attempt's inputs as text that the script does not parse."""
    return json.dumps(dict(attempt.inputs), sort_keys=True)


def attempt_fingerprint(attempt: Attempt) -> str:
    """Return a fingerprint that equal attempts share."""
    what = f"{attempt.model}\n{encode_inputs(attempt)}"
    return hashlib.blake2b(what.encode(), digest_size=12).hexdigest()


def encode_throttling(throttling: Throttling) -> dict[str, float]:
    """Encode the throttling details from a 429."""
    fields = {
        "retry_after": throttling.retry_after,
        "per_minute": throttling.per_minute,
        "burst": throttling.burst,
    }
    return {name: value for name, value in fields.items() if value is not None}
