"""Pages of result rows: order, size, and expired files."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from replicate_mcp.tasks.result import (
    BatchCounts,
    BatchResult,
    GeneratedFile,
    TaskFailure,
    TaskResult,
    TaskSuccess,
    as_json,
    page,
    take_within,
    was_created,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def success(index: int, *ends: datetime, **fields: Any) -> TaskSuccess:
    files = tuple(
        GeneratedFile(url=f"https://replicate.delivery/{n}", filename=f"{n}.png", expires_at=end)
        for n, end in enumerate(ends)
    )
    return TaskSuccess(
        **{
            "task_index": index,
            "output_filename": "cat",
            "model": "o/m",
            "prediction_id": f"p{index}",
            "count": len(files),
            "generated_files": files,
            **fields,
        }
    )


def failed(index: int, **fields: Any) -> TaskFailure:
    return TaskFailure(
        **{
            "task_index": index,
            "output_filename": "cat",
            "error": "It failed.",
            "error_code": "prediction_failed",
            "retryable": True,
            **fields,
        }
    )


def counts(**fields: Any) -> BatchCounts:
    return BatchCounts(
        **{
            "batch_id": "b1",
            "status": "running",
            "total_tasks": 9,
            "successful_count": 3,
            "failed_count": 2,
            "pending_count": 4,
            "semaphore": "s",
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("row", "created"),
    [
        (success(0), True),
        (failed(0), False),
        (failed(0, prediction_id="p"), True),
        (failed(0, error_code="create_outcome_unknown"), True),
    ],
)
def test_created_and_possibly_created_tasks_count_as_created(
    row: TaskResult, created: bool
) -> None:
    assert was_created(row) is created


def test_page_sorts_its_rows_and_continues_the_cursor() -> None:
    found = page(counts(), [failed(4), success(2), success(0), failed(1)], after=1, now=NOW)
    assert [row.task_index for row in found.successful_results] == [0, 2]
    assert [row.task_index for row in found.failed_results] == [1, 4]
    assert found.cursor == 5
    assert (found.batch_id, found.total_tasks, found.pending_count) == ("b1", 9, 4)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "running"),
        ({"is_stopping": True}, "being stopped"),
        ({"status": "canceled"}, "canceled"),
    ],
)
def test_stopping_state_appears_only_in_messages(fields: dict[str, Any], state: str) -> None:
    found = page(counts(**fields), [], after=0, now=NOW)
    assert found.state == state
    assert "is_stopping" not in as_json(found)


def test_files_are_marked_expired_after_their_hour() -> None:
    rows: list[TaskResult] = [
        success(0, NOW + SECOND, NOW + SECOND),
        success(1, NOW, NOW + SECOND, NOW - SECOND),
        success(2, NOW, NOW + SECOND),
    ]
    found = page(counts(), rows, after=0, now=NOW).successful_results
    marks = [[file.expired for file in row.generated_files] for row in found]
    assert marks == [[None, None], [True, None, True], [True, None]]
    assert found[0] is rows[0]
    assert as_json(found[0])["generated_files"] == [
        {
            "url": f"https://replicate.delivery/{n}",
            "filename": f"{n}.png",
            "expires_at": "2026-11-30T12:00:01Z",
        }
        for n in range(2)
    ]


def test_file_expiry_defaults_to_the_current_time() -> None:
    past, future = datetime.now(UTC) - SECOND, datetime.now(UTC) + 60 * SECOND
    (row,) = page(counts(), [success(0, past, future)], after=0).successful_results
    assert [file.expired for file in row.generated_files] == [True, None]


def size(row: TaskResult) -> int:
    """Return the size of a row in a response: as JSON, and its files again as text."""
    files = row.generated_files if isinstance(row, TaskSuccess) else ()
    texts = [f"{file.url} {file.filename}" for file in files]
    json = row.model_dump_json(exclude_none=True)
    return sum(len(text.encode()) for text in [json, *texts])


@pytest.mark.parametrize(
    "row",
    [failed(0), failed(0, error="é" * 50), success(0, NOW), success(0, NOW, NOW)],
    ids=["failed", "not ASCII", "one file", "two files"],
)
def test_page_takes_as_many_rows_as_fit_and_at_least_one(row: TaskResult) -> None:
    rows = [row] * 5
    assert take_within(rows, 3 * size(row)) == rows[:3]
    assert take_within(rows, 3 * size(row) - 1) == rows[:2]
    assert take_within(rows, 5 * size(row)) == rows
    assert take_within(rows, 0) == rows[:1]
    assert take_within([], 0) == []


def test_page_size_grows_with_rows_files_and_prompts() -> None:
    rows: list[TaskResult] = [success(0, NOW, NOW, prompt="x" * 10), failed(1, prompt="x" * 5)]
    assert page(counts(), rows, after=0, now=NOW).size_bytes == 4 * 400 + 15
    assert page(counts(), [], after=0, now=NOW).size_bytes == 0


def test_foreign_lone_surrogate_becomes_a_question_mark() -> None:
    assert failed(0, error="no \ud83d for é").error == "no ? for é"


def test_row_is_frozen_and_ignores_unknown_fields() -> None:
    row = success(0, NOW, of_a_later_version=1)
    assert row == success(0, NOW)
    with pytest.raises(ValidationError, match="frozen"):
        row.task_index = 1  # type: ignore[misc]


def test_schema_describes_the_cursor_and_omits_message_only_fields() -> None:
    properties = BatchResult.model_json_schema()["properties"]
    assert properties["cursor"]["description"] == (
        "Finished tasks delivered so far: pass it back as `after`."
    )
    assert "is_stopping" not in properties
    assert not counts().is_stopping


def test_row_without_a_prompt_has_the_size_of_its_files() -> None:
    rows: list[TaskResult] = [failed(0), success(1, NOW)]
    assert page(counts(), rows, after=0, now=NOW).size_bytes == 1_200
