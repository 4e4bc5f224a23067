"""Pages of a batch's results: their size, their two forms, and the next call."""

from typing import Any

import pytest

from replicate_mcp.mcp_server.pages import (
    MAX_PAGE_CHARACTERS,
    PAGE_CHARACTERS,
    PAGE_ROWS,
    next_step,
    page_as_json,
    page_as_text,
    page_size,
)
from replicate_mcp.tasks.result import TaskResult, as_json, page
from tasks.test_result import NOW, SECOND, counts, failed, success

RETRY = (
    "To make failed tasks again: generate_images with retry_of=b1 repeats those that are retryable."
)

AGAIN = "call get_batch with batch_id=b1 and after="


@pytest.mark.parametrize(
    ("state", "after", "rows", "step"),
    [
        (
            {},
            *(0, 5),
            f"The batch is still running: {AGAIN}5 and wait_seconds=45 for what finishes next.",
        ),
        ({}, 0, 3, f"2 more finished results are ready: {AGAIN}3."),
        ({}, 4, 0, f"1 more finished results are ready: {AGAIN}4."),
        ({"is_stopping": True}, 0, 4, f"1 more finished results are ready: {AGAIN}4."),
        (
            {"is_stopping": True},
            *(5, 0),
            f"The batch is being stopped: {AGAIN}5 and wait_seconds=45 to see how it ended.",
        ),
        ({"status": "completed"}, 2, 2, f"1 more finished results are ready: {AGAIN}4."),
        ({"status": "completed"}, 2, 3, None),
        ({"status": "canceled"}, 5, 0, None),
    ],
)
def test_page_names_the_next_call(
    state: dict[str, Any], after: int, rows: int, step: str | None
) -> None:
    found = page(counts(**state), [failed(n) for n in range(rows)], after=after, now=NOW)
    assert next_step(found) == step
    assert page_as_json(found) == as_json(found) | ({"next_step": step} if step else {})
    last = step or (RETRY if rows else None)
    assert page_as_text(found).splitlines()[1 + rows :] == ([last] if last else [])


def test_page_without_a_limit_fits_a_model_and_one_with_a_limit_fits_a_host() -> None:
    assert page_size() == {"limit": PAGE_ROWS, "characters": PAGE_CHARACTERS}
    assert page_size(default_rows=24) == {"limit": 24, "characters": PAGE_CHARACTERS}
    assert page_size(300, default_rows=24) == {"limit": 300, "characters": MAX_PAGE_CHARACTERS}


def test_text_of_a_page_lists_the_counts_each_file_and_each_failure() -> None:
    first, second = success(1, NOW, NOW + SECOND), success(2, NOW + SECOND)
    rows: list[TaskResult] = [first, failed(0, error="It\nfailed."), second]
    found = page(counts(status="completed"), rows, after=2, now=NOW)
    assert page_as_text(found).splitlines() == [
        "Batch b1 is completed: 3 of 9 made, 2 failed, 4 to come.",
        "0.png https://replicate.delivery/0 (expired)",
        "1.png https://replicate.delivery/1",
        "0.png https://replicate.delivery/0",
        "task 0 (cat) failed, prediction_failed: It failed.",
        RETRY,
    ]


def test_tasks_of_a_batch_that_is_being_stopped_are_not_promised() -> None:
    found = page(counts(is_stopping=True), [], after=5, now=NOW)
    assert page_as_text(found).startswith(
        "Batch b1 is being stopped: 3 of 9 made, 2 failed, 4 left."
    )
