"""From a prediction to a task's row, as pure functions."""

import re
from datetime import UTC, datetime

from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.errors import ErrorCode
from replicate_mcp.replicate_api.outputs import extension_of
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import (
    URL_LIFETIME,
    GeneratedFile,
    TaskFailure,
    TaskResult,
    TaskSuccess,
)
from replicate_mcp.text import one_line

_FLAGGED = re.compile(
    r"nsfw|flagged|sensitive|moderation|content polic|safety (?:filter|check|system)|\bE005\b", re.I
)
_FAILED = re.compile(r"^prediction failed[:.]?\s*", re.I)

MAX_REASON_CHARACTERS = 300
"""Of a model's own reason: with the words around it, it stays within a line of 500."""

MAX_REASONS = 3
"""Problems of a task that its row reports."""

_CLOCK_SECONDS = 24 * 3600.0
"""A prediction that says it ended longer ago, or later than now, has no usable time."""


def outcome(
    task: PlannedTask, prediction: Prediction, names: BatchFilenames, *, canceled: bool, now: float
) -> TaskResult:
    """The row of a task whose prediction is done.

    Args:
        canceled: whether somebody asked for the task to be stopped.
        now: on Replicate's clock, for a prediction that does not say when it ended.
    """
    if prediction.urls and prediction.status in ("succeeded", "processing"):
        return _success(task, prediction, names, now)
    return failure(task, *_reason(prediction, canceled), prediction_id=prediction.id)


def failure(
    task: PlannedTask,
    code: ErrorCode,
    sentence: str,
    retryable: bool = False,
    *,
    prediction_id: str | None = None,
) -> TaskFailure:
    """The row of a task that has no image."""
    return TaskFailure(
        task_index=task.index,
        prompt=task.prompt,
        output_filename=task.output_filename,
        error=one_line(sentence),
        error_code=code,
        prediction_id=prediction_id,
        retryable=retryable,
    )


def refusal(task: PlannedTask) -> TaskFailure:
    """Return the row of a task that is not created because of its problems."""
    is_unknown_model = all(each.code == "model_not_found" for each in task.problems)
    code: ErrorCode = "model_not_found" if is_unknown_model else "invalid_input"
    return failure(task, code, " ".join(each.error for each in task.problems[:MAX_REASONS]))


def _success(
    task: PlannedTask, prediction: Prediction, names: BatchFilenames, now: float
) -> TaskSuccess:
    ended = datetime.fromtimestamp(_ended_at(prediction, now), UTC)
    extensions = [extension_of(url) or task.expected_format for url in prediction.urls]
    files = tuple(
        GeneratedFile(url=url, filename=name, expires_at=ended + URL_LIFETIME)
        for url, name in zip(prediction.urls, names.deliver(task.index, extensions), strict=True)
    )
    return TaskSuccess(
        task_index=task.index,
        prompt=task.prompt,
        output_filename=task.output_filename,
        model=task.model,
        seed=task.seed if task.seed is not None else prediction.seed,
        prediction_id=prediction.id,
        predict_seconds=prediction.predict_seconds,
        count=len(files),
        generated_files=files,
    )


def _ended_at(prediction: Prediction, now: float) -> float:
    at = prediction.completed_at
    return now if at is None or not now - _CLOCK_SECONDS <= at <= now else at


def _reason(prediction: Prediction, canceled: bool) -> tuple[ErrorCode, str, bool]:
    said = one_line(_FAILED.sub("", prediction.error, count=1), MAX_REASON_CHARACTERS).rstrip(".")
    if prediction.status in ("canceled", "aborted"):
        if canceled:
            return "canceled", "The task was cancelled while it ran.", True
        if prediction.status == "aborted":
            return "deadline_exceeded", "Replicate did not start it in time; not billed.", True
        return (
            "deadline_exceeded",
            "It did not end in time, or was cancelled at Replicate; the time it ran is billed.",
            True,
        )
    if _FLAGGED.search(said):
        return (
            "content_flagged",
            f'The model refused the content ("{said}"): change the prompt, the same one is refused '
            "again.",
            False,
        )
    if prediction.status == "failed":
        return "prediction_failed", f"The model failed: {said or 'it gave no reason'}.", True
    return "no_output", "The model ended without giving any image.", True
