"""From a prediction to a task's row, as pure functions."""

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.errors import ErrorCode
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import (
    URL_LIFETIME,
    GeneratedFile,
    TaskFailure,
    TaskResult,
    TaskSuccess,
)

_FLAGGED = re.compile(
    r"nsfw|flagged|sensitive|moderation|content polic|safety (?:filter|check|system)|\bE005\b", re.I
)
_FAILED = re.compile(r"^prediction failed[:.]?\s*", re.I)
_EXTENSION = re.compile(r"[A-Za-z0-9]{2,5}")


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
        error=sentence,
        error_code=code,
        prediction_id=prediction_id,
        retryable=retryable,
    )


def extension_of(url: str) -> str | None:
    """The extension of the file that a URL names, without its dot."""
    suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.removeprefix(".")
    return suffix if _EXTENSION.fullmatch(suffix) else None


def _success(
    task: PlannedTask, prediction: Prediction, names: BatchFilenames, now: float
) -> TaskSuccess:
    ended = datetime.fromtimestamp(prediction.completed_at or now, UTC)
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


def _reason(prediction: Prediction, canceled: bool) -> tuple[ErrorCode, str, bool]:
    said = _FAILED.sub("", prediction.error.strip(), count=1).rstrip(".")
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
