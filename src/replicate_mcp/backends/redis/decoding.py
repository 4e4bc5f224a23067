"""Decoding of the script's replies, all of which are text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from replicate_mcp.backends.first_prompt import first_prompt
from replicate_mcp.backends.redis.encoding import encode_reason
from replicate_mcp.batches.attempt_store import AttemptRecord, RecordedAttempts
from replicate_mcp.batches.journal import BatchState, RetriedTasks
from replicate_mcp.batches.messages import (
    CANCELED,
    INTERRUPTED,
    OUT_OF_TIME,
    OUTCOME_UNKNOWN,
    OUTCOME_UNKNOWN_AFTER_RESTART,
)
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer, SemaphoreState
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

_RESULT: TypeAdapter[TaskResult] = TypeAdapter(TaskSuccess | TaskFailure)


def decode_admission(reply: Sequence[str]) -> AdmissionResult:
    """Decode a holder's offers, the time until the next decision, and the pause of admission."""
    retry_in, paused_for, *offers = reply
    return AdmissionResult(
        tuple(
            Offer(int(permit), entry)
            for permit, entry in zip(offers[::2], offers[1::2], strict=True)
        ),
        float(retry_in) if retry_in else None,
        float(paused_for) if paused_for else None,
    )


def decode_semaphore(reply: Sequence[str]) -> SemaphoreState:
    """Decode the state of a semaphore."""
    name, limit, in_use, waiting, *rate = reply
    per_minute, paused = rate or ("", "")
    return SemaphoreState(
        name,
        int(limit),
        int(in_use),
        int(waiting),
        float(per_minute) if per_minute else None,
        float(paused) if paused else None,
    )


def decode_attempt(reply: Sequence[Any]) -> AttemptRecord:
    """Decode an attempt with its permit."""
    permit, batch, task, model, inputs, cancel_after, sent_at, prediction = reply
    return AttemptRecord(
        int(permit), batch, int(task), model, json.loads(inputs), int(cancel_after),
        float(sent_at), prediction or None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BatchOpened:
    """An opened batch: its time on the server's clock, and its semaphores' limits there."""

    admission: AdmissionResult
    limits: Sequence[Sequence[str]]
    created_at: float


def decode_recorded_attempts(reply: Sequence[Any], admission: AdmissionResult) -> RecordedAttempts:
    """Decode the reply of one `RecordAttemptsCall`."""
    chosen, resets_in = reply
    return RecordedAttempts(
        {int(permit): int(seconds) for permit, seconds in chosen},
        admission,
        float(resets_in) if resets_in else None,
    )


def decode_batch(reply: Sequence[str]) -> BatchState:
    """Decode a batch of the journal."""
    (
        batch, caller, account, semaphore, total, succeeded, failed, canceled, created, ended,
        retry_of, retried, resumed, *first_task,
    ) = reply  # fmt: skip
    return BatchState(
        batch, caller, account, semaphore, int(total), int(succeeded), int(failed),
        bool(canceled), float(created), float(ended) if ended else None,
        first_prompt(first_task[0]) if first_task else None,
        RetriedTasks(retry_of, tuple(json.loads(retried))) if retry_of else None,
        int(resumed or 0),
    )  # fmt: skip


def decode_result(row: str) -> TaskResult:
    """Decode a task's result."""
    return _RESULT.validate_json(row)


REASONS = {
    "interrupted": encode_reason("interrupted", INTERRUPTED, retryable=True),
    "canceled": encode_reason("canceled", CANCELED, retryable=True),
    "out_of_time": encode_reason("deadline_exceeded", OUT_OF_TIME, retryable=True),
    "lost": encode_reason("create_outcome_unknown", OUTCOME_UNKNOWN, retryable=False),
    "unsure": encode_reason(
        "create_outcome_unknown", OUTCOME_UNKNOWN_AFTER_RESTART, retryable=False
    ),
}
"""Failures of tasks whose process is dead; the script chooses by what it knows of the task."""
