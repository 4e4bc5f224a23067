"""Results of a batch: a row for each task, in one of two lists, and pages of rows."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from replicate_mcp.errors import ErrorCode

BatchStatus = Literal["running", "completed", "canceled"]

URL_LIFETIME = timedelta(hours=1)
"""Time after a prediction's end for which Replicate keeps its files (its documented default)."""


def _encodable(text: str) -> str:
    """Return `text` without unpaired surrogates, which no response or journal can encode."""
    return text if text.isascii() else text.encode(errors="replace").decode()


Text = Annotated[str, AfterValidator(_encodable)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class GeneratedFile(_Row):
    """An image.

    Attributes:
        url: its URL at Replicate.
        filename: its name, unique in the batch, with the extension of its format.
        expires_at: when Replicate deletes it.
        expired: True once that time has passed; else None.
    """

    url: Text
    filename: Text
    expires_at: datetime
    expired: bool | None = None


class Source(_Row):
    """An image of another task that a task used as an input.

    Attributes:
        task: the index of that task.
        batch: the earlier batch of that task; None for the same batch.
        output: which of that task's images; None for the first.
    """

    task: int
    batch: Text | None = None
    output: int | None = None

    def __str__(self) -> str:
        """Return a short name, like `task 3`."""
        image = f" image {self.output}" if self.output else ""
        batch = f" of {self.batch}" if self.batch else ""
        return f"task {self.task}{image}{batch}"


class TaskSuccess(_Row):
    """The result of a task with at least one image.

    Attributes:
        task_index: the position of the task in the batch, from 0.
        retried_task_index: the position of the repeated task in the batch that is retried.
        prompt: the prompt; None for a task without one.
        output_filename: the filename as the task gave it; the files have the delivered names.
        model: the model's full name.
        seed: the seed that was used; None if the model has none.
        prediction_id: the id of the prediction at Replicate.
        predict_seconds: the run time that Replicate reports.
        count: the number of files.
        generated_files: the images.
        sources: the images of other tasks that it used; None if it used none.
    """

    task_index: int
    retried_task_index: int | None = None
    prompt: Text | None = None
    output_filename: Text
    model: str
    seed: int | None = None
    prediction_id: Text
    predict_seconds: float | None = None
    count: int
    generated_files: tuple[GeneratedFile, ...]
    sources: tuple[Source, ...] | None = None


class TaskFailure(_Row):
    """The result of a task without an image, and the reason.

    Attributes:
        task_index: the position of the task in the batch, from 0.
        retried_task_index: the position of the repeated task in the batch that is retried.
        prompt: the prompt; None for a task without one.
        output_filename: the filename as the task gave it.
        error: the reason, as sentences that say what helps.
        error_code: the reason, for programs.
        prediction_id: the id of the prediction at Replicate; None if none is known.
        retryable: whether sending the task again can help and cannot be billed twice.
        sources: the images of other tasks that it needs; None if it needs none.
    """

    task_index: int
    retried_task_index: int | None = None
    prompt: Text | None = None
    output_filename: Text
    error: Text
    error_code: ErrorCode
    prediction_id: Text | None = None
    retryable: bool
    sources: tuple[Source, ...] | None = None


TaskResult = TaskSuccess | TaskFailure


def was_created(result: TaskResult) -> bool:
    """Return whether the task's prediction was created and billed, or may have been."""
    unknown = isinstance(result, TaskFailure) and result.error_code == "create_outcome_unknown"
    return unknown or result.prediction_id is not None


class BatchCounts(_Row):
    """The counts and the status of a batch.

    Attributes:
        retry_of: the batch whose tasks it repeats, each with its `retried_task_index`.
        is_stopping: whether it was cancelled and has not ended yet; not serialised.
    """

    batch_id: str
    status: BatchStatus
    total_tasks: int
    successful_count: int
    failed_count: int
    pending_count: int
    semaphore: str
    retry_of: str | None = None
    is_stopping: SkipJsonSchema[bool] = Field(False, exclude=True)

    @property
    def state(self) -> str:
        """The state for display: "running", "being stopped", "completed" or "canceled"."""
        return "being stopped" if self.is_stopping else self.status


class ListedBatch(BatchCounts):
    """A batch in a list: its counts, its times, and the beginning of its first prompt.

    Attributes:
        resumed: how often another process has resumed it after its own had ended; None for never.
    """

    created_at: datetime
    ended_at: datetime | None = None
    first_prompt: Text | None = None
    resumed: int | None = None


class BatchResult(BatchCounts):
    """A batch's counts, and one page of its finished tasks sorted by `task_index`.

    Attributes:
        batch_id: the batch's id.
        status: `running`, `completed` or `canceled`.
        total_tasks: the number of its tasks.
        successful_count: the number of tasks with images.
        failed_count: the number of tasks that failed.
        pending_count: the number of tasks that have not finished.
        semaphore: the name of its semaphore.
        retry_of: the batch whose tasks it repeats; None for new tasks.
        is_stopping: whether it was cancelled and has not ended yet; not serialised.
        successful_results: the tasks with images.
        failed_results: the tasks that failed.
        cursor: the number of finished tasks up to this page.
    """

    successful_results: tuple[TaskSuccess, ...]
    failed_results: tuple[TaskFailure, ...]
    cursor: int = Field(description="Finished tasks delivered so far: pass it back as `after`.")

    @property
    def size_bytes(self) -> int:
        """Estimated size as JSON, in bytes."""
        rows: list[TaskResult] = [*self.successful_results, *self.failed_results]
        files = sum(len(row.generated_files) for row in self.successful_results)
        return 400 * (len(rows) + files) + sum(len(row.prompt or "") for row in rows)


def page(
    counts: BatchCounts, rows: list[TaskResult], *, after: int, now: datetime | None = None
) -> BatchResult:
    """Return the batch's counts with a page of rows, which finished after the first `after`."""
    now = now or datetime.now(UTC)
    rows = sorted(rows, key=lambda row: row.task_index)
    return BatchResult(
        **counts.model_dump(),
        is_stopping=counts.is_stopping,
        successful_results=tuple(
            _marked_expired(row, now) for row in rows if isinstance(row, TaskSuccess)
        ),
        failed_results=tuple(row for row in rows if isinstance(row, TaskFailure)),
        cursor=after + len(rows),
    )


def take_within(rows: list[TaskResult], characters: int) -> list[TaskResult]:
    """Return the first rows that fit into `characters`, but at least one.

    The files of a row count twice: in its JSON, and as a line of text.
    """
    for number, row in enumerate(rows):
        characters -= len(row.model_dump_json(exclude_none=True).encode())
        if isinstance(row, TaskSuccess):
            characters -= sum(
                len(f"{file.url} {file.filename}".encode()) for file in row.generated_files
            )
        if characters < 0 and number:
            return rows[:number]
    return rows


def as_json(model: BaseModel) -> dict[str, JsonValue]:
    """Return the serialised form, in which absent values are left out instead of null."""
    return model.model_dump(mode="json", exclude_none=True)


def _marked_expired(row: TaskSuccess, now: datetime) -> TaskSuccess:
    if all(file.expires_at > now for file in row.generated_files):
        return row
    files = tuple(
        file.model_copy(update={"expired": True}) if file.expires_at <= now else file
        for file in row.generated_files
    )
    return row.model_copy(update={"generated_files": files})
