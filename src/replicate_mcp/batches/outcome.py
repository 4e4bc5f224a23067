"""Conversion of a prediction into a task's result, as pure functions."""

import re
from datetime import UTC, datetime

from replicate_mcp.batches.content_refusals import (
    refusing_line,
    reports_refused_content,
    without_advice,
)
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.errors import ErrorCode
from replicate_mcp.replicate_api.outputs import extension_of
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import (
    URL_LIFETIME,
    GeneratedFile,
    Source,
    TaskFailure,
    TaskResult,
    TaskSuccess,
)
from replicate_mcp.text import one_line

_FAILED = re.compile(r"^prediction failed[:.]?\s*", re.I)

MAX_REASON_CHARACTERS = 300
"""Maximum length of a model's own reason: with the text around it, it fits a line of 500."""

MAX_REASONS = 3
"""Maximum number of a task's problems that its result reports."""

_CLOCK_SECONDS = 24 * 3600.0
"""An end longer ago than this, or later than now, is not a usable time."""


def outcome(
    task: PlannedTask, prediction: Prediction, names: BatchFilenames, *, canceled: bool, now: float
) -> TaskResult:
    """Return the result of a task whose prediction is done.

    Args:
        task: the task.
        prediction: its prediction, with files or ended.
        names: the filenames of the batch.
        canceled: whether the caller cancelled the batch.
        now: time on Replicate's clock, for a prediction that does not report when it ended.
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
    """Return the result of a task without an image."""
    return TaskFailure(
        task_index=task.index,
        prompt=task.prompt,
        output_filename=task.output_filename,
        error=one_line(sentence),
        error_code=code,
        prediction_id=prediction_id,
        retryable=retryable,
        sources=_sources(task),
    )


def refusal(task: PlannedTask) -> TaskFailure:
    """Return the result of a task that is not created because of its problems."""
    is_unknown_model = all(each.code == "model_not_found" for each in task.problems)
    code: ErrorCode = "model_not_found" if is_unknown_model else "invalid_input"
    return failure(task, code, " ".join(each.error for each in task.problems[:MAX_REASONS]))


def _success(
    task: PlannedTask, prediction: Prediction, names: BatchFilenames, now: float
) -> TaskSuccess:
    ended = datetime.fromtimestamp(_ended_at(prediction, now), UTC)
    extensions = [extension_of(url) for url in prediction.urls]
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
        sources=_sources(task),
    )


def _sources(task: PlannedTask) -> tuple[Source, ...] | None:
    """Return the images of other tasks that a task refers to; None if it refers to none."""
    return tuple(Source(**each.as_json()) for each in task.references) or None


def _ended_at(prediction: Prediction, now: float) -> float:
    at = prediction.completed_at
    return now if at is None or not now - _CLOCK_SECONDS <= at <= now else at


def _reason(prediction: Prediction, canceled: bool) -> tuple[ErrorCode, str, bool]:
    """Return why there is no image: the code, the message, and whether a retry can help."""
    if prediction.status in ("canceled", "aborted"):
        return _stopped(prediction, canceled)
    if refusal := _refusal(prediction):
        return (
            "content_flagged",
            f'The model refused the content ("{_quoted(without_advice(refusal))}"): change the '
            "prompt or the input image.",
            False,
        )
    if prediction.status == "failed":
        said = _quoted(prediction.error)
        return "prediction_failed", f"The model failed: {said or 'it gave no reason'}.", True
    if prediction.inline:
        return (
            "no_output",
            "The model gave its file inside the answer, as a data: URI, and Replicate has no URL "
            "for it: take another model.",
            False,
        )
    if words := _quoted(prediction.words):
        return "no_output", f'The model answered in words instead of an image: "{words}".', True
    return "no_output", "The model ended without giving any image.", True


def _stopped(prediction: Prediction, canceled: bool) -> tuple[ErrorCode, str, bool]:
    if canceled:
        return "canceled", "The task was cancelled while it ran.", True
    if prediction.status == "aborted":
        return "deadline_exceeded", "Replicate did not start it in time; not billed.", True
    return (
        "deadline_exceeded",
        "It did not end in time, or was cancelled at Replicate; the time it ran is billed.",
        True,
    )


def _refusal(prediction: Prediction) -> str:
    """Return the text in which the model refused the content; "" if it did not."""
    for said in (prediction.error, prediction.words):
        if reports_refused_content(said):
            return said
    # Text in a log counts only if no error explains the missing file.
    return "" if prediction.error else refusing_line(prediction.logs)


def _quoted(text: str) -> str:
    """Return a model's message as a part of a line, without its full stop."""
    return one_line(_FAILED.sub("", text.lstrip()), MAX_REASON_CHARACTERS).rstrip(".")
