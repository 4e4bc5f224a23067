"""What a batch gives back: one row a task, in one of two lists, and the pages they come in."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from replicate_mcp.errors import ErrorCode

BatchStatus = Literal["running", "completed", "canceled"]

URL_LIFETIME = timedelta(hours=1)
"""How long after a prediction's end Replicate keeps its files (its documented default)."""

PAGE_ROWS = 50
PAGE_CHARACTERS = 48_000
"""What a tool's answer holds at most, rows and characters: hosts hand 25,000 tokens to a model, and
a token of URLs and JSON is about 2.4 characters. A character beyond ASCII counts as its UTF-8
bytes: a Chinese one is about one token."""

MAX_PAGE_ROWS = 1_000
MAX_PAGE_CHARACTERS = 900_000
"""What an answer holds at most where rows were asked for by number: Claude Desktop refuses results
over 1,048,576 characters."""

NEXT_WAIT_SECONDS = 45
"""For how long a model is told to wait for what finishes next: else it would ask without end."""


def _encodable(text: str) -> str:
    """Others' words may hold half a character, which no answer and no journal can."""
    return text if text.isascii() else text.encode(errors="replace").decode()


Text = Annotated[str, AfterValidator(_encodable)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class GeneratedFile(_Row):
    """One image: where it is, what to call it, and until when the URL works."""

    url: Text
    filename: Text
    expires_at: datetime
    expired: bool | None = None


class TaskSuccess(_Row):
    """A task whose image or images were made."""

    task_index: int
    prompt: Text | None = None
    output_filename: Text
    model: str
    seed: int | None = None
    prediction_id: Text
    predict_seconds: float | None = None
    count: int
    generated_files: tuple[GeneratedFile, ...]


class TaskFailure(_Row):
    """A task without an image, and why."""

    task_index: int
    prompt: Text | None = None
    output_filename: Text
    error: Text
    error_code: ErrorCode
    prediction_id: Text | None = None
    retryable: bool


TaskResult = TaskSuccess | TaskFailure


def was_created(result: TaskResult) -> bool:
    """Whether the task's prediction was made, or may have been, and billed."""
    unknown = isinstance(result, TaskFailure) and result.error_code == "create_outcome_unknown"
    return unknown or result.prediction_id is not None


class BatchCounts(_Row):
    """Where a whole batch stands.

    Attributes:
        is_stopping: whether it was cancelled and has not ended yet; for sentences only.
    """

    batch_id: str
    status: BatchStatus
    total_tasks: int
    successful_count: int
    failed_count: int
    pending_count: int
    semaphore: str
    is_stopping: SkipJsonSchema[bool] = Field(False, exclude=True)

    @property
    def state(self) -> str:
        """The state as a sentence says it: "running", "being stopped", "completed", "canceled"."""
        return "being stopped" if self.is_stopping else self.status


class ListedBatch(BatchCounts):
    """A batch in a list: its counts, times, and the beginning of its first prompt."""

    created_at: datetime
    ended_at: datetime | None = None
    first_prompt: Text | None = None


class BatchResult(BatchCounts):
    """A batch's counts, and one page of its finished tasks sorted by `task_index`."""

    successful_results: tuple[TaskSuccess, ...]
    failed_results: tuple[TaskFailure, ...]
    cursor: int = Field(description="Finished tasks delivered so far: pass it back as `after`.")
    next_step: str | None = None

    @property
    def size_bytes(self) -> int:
        """About what it has as JSON."""
        rows: list[TaskResult] = [*self.successful_results, *self.failed_results]
        files = sum(len(row.generated_files) for row in self.successful_results)
        return 400 * (len(rows) + files) + sum(len(row.prompt or "") for row in rows)


def page(
    counts: BatchCounts, rows: list[TaskResult], *, after: int, now: datetime | None = None
) -> BatchResult:
    """Put rows, those that finished after the first `after`, into the contract's form."""
    now = now or datetime.now(UTC)
    rows = sorted(rows, key=lambda row: row.task_index)
    cursor = after + len(rows)
    finished = counts.successful_count + counts.failed_count
    return BatchResult(
        **counts.model_dump(),
        is_stopping=counts.is_stopping,
        successful_results=tuple(
            _marked_expired(row, now) for row in rows if isinstance(row, TaskSuccess)
        ),
        failed_results=tuple(row for row in rows if isinstance(row, TaskFailure)),
        cursor=cursor,
        next_step=_next_step(counts, cursor, finished),
    )


def take_within(rows: list[TaskResult], characters: int) -> list[TaskResult]:
    """Return the first rows that an answer of `characters` has room for, one at least."""
    for number, row in enumerate(rows):
        characters -= len(row.model_dump_json(exclude_none=True).encode())
        if isinstance(row, TaskSuccess):  # Its files are in the text as well.
            characters -= sum(
                len(f"{file.url} {file.filename}".encode()) for file in row.generated_files
            )
        if characters < 0 and number:
            return rows[:number]
    return rows


def as_json(model: BaseModel) -> dict[str, JsonValue]:
    """The wire form: absent values are left out, not null."""
    return model.model_dump(mode="json", exclude_none=True)


def _next_step(counts: BatchCounts, cursor: int, finished: int) -> str | None:
    call = f"get_batch with batch_id={counts.batch_id} and after={cursor}"
    if cursor < finished:
        return f"{finished - cursor} more finished results are ready: call {call}."
    if counts.status == "running":
        call += f" and wait_seconds={NEXT_WAIT_SECONDS}"
        if counts.is_stopping:
            return f"The batch is being stopped: call {call} to see how it ended."
        return f"The batch is still running: call {call} for what finishes next."
    return None


def _marked_expired(row: TaskSuccess, now: datetime) -> TaskSuccess:
    if all(file.expires_at > now for file in row.generated_files):
        return row
    files = tuple(
        file.model_copy(update={"expired": True}) if file.expires_at <= now else file
        for file in row.generated_files
    )
    return row.model_copy(update={"generated_files": files})
