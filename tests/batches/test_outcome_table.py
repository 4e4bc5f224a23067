"""Table from a prediction to the row of its task, and the fields common to all rows."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batches.test_outcome import TASK
from replicate_mcp.batches.content_refusals import PATTERNS, reports_refused_content
from replicate_mcp.batches.outcome import failure, outcome, refusal
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.errors import ErrorCode, TaskProblem
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import TaskFailure, TaskSuccess

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
URL = "https://replicate.delivery/a/out.png"


def row(
    *, canceled: bool = False, task: PlannedTask = TASK, **answer: Any
) -> TaskSuccess | TaskFailure:
    prediction = Prediction.from_response({"id": "p1", "status": "succeeded", **answer})
    names = BatchFilenames(["fox"], [task.expected_format])
    return outcome(task, prediction, names, canceled=canceled, now=NOW.timestamp())


# A prediction and whether its batch was cancelled; then the code, `retryable` and the message.
ROWS: list[tuple[dict[str, Any], bool, ErrorCode, bool, str]] = [
    (
        {"status": "canceled"},
        *(True, "canceled", True, "The task was cancelled while it ran."),
    ),
    (
        {"status": "aborted"},
        *(True, "canceled", True, "The task was cancelled while it ran."),
    ),
    (
        {"status": "aborted"},
        *(False, "deadline_exceeded", True, "Replicate did not start it in time; not billed."),
    ),
    (
        {"status": "canceled"},
        *(False, "deadline_exceeded", True),
        "It did not end in time, or was cancelled at Replicate; the time it ran is billed.",
    ),
    # A stopped prediction has no image, whatever its output and its own status.
    (
        {"status": "canceled", "output": URL, "error": "NSFW content detected"},
        *(False, "deadline_exceeded", True),
        "It did not end in time, or was cancelled at Replicate; the time it ran is billed.",
    ),
    (
        {"status": "failed", "output": URL},
        *(False, "prediction_failed", True, "The model failed: it gave no reason."),
    ),
    (
        {"status": "failed", "error": "Prediction failed: CUDA error."},
        *(True, "prediction_failed", True, "The model failed: CUDA error."),
    ),
    (
        {"status": "failed", "error": "Prediction failed. prediction failed: twice"},
        *(False, "prediction_failed", True, "The model failed: prediction failed: twice."),
    ),
    (
        {"status": "failed", "error": "The prediction failed: it did"},
        *(False, "prediction_failed", True, "The model failed: The prediction failed: it did."),
    ),
    (
        {"status": "failed", "error": "Something went wrong. (E005)"},
        *(False, "content_flagged", False),
        'The model refused the content ("Something went wrong. (E005)"): change the prompt or the '
        "input image.",
    ),
    (
        {"status": "failed", "error": "code E0051"},
        *(False, "prediction_failed", True, "The model failed: code E0051."),
    ),
    (
        {"error": "request moderated", "output": "NSFW content detected"},
        *(False, "content_flagged", False),
        'The model refused the content ("request moderated"): change the prompt or the input '
        "image.",
    ),
    (
        {"output": "data:image/png;base64,AA"},
        *(False, "no_output", False),
        "The model gave its file inside the answer, as a data: URI, and Replicate has no URL for "
        "it: take another model.",
    ),
    (
        {"output": "I cannot draw that."},
        *(True, "no_output", True),
        'The model answered in words instead of an image: "I cannot draw that".',
    ),
    ({}, False, "no_output", True, "The model ended without giving any image."),
    (
        {"status": "starting", "output": URL},
        *(False, "no_output", True, "The model ended without giving any image."),
    ),
]


@pytest.mark.parametrize(
    ("answer", "canceled", "code", "retryable", "sentence"),
    ROWS,
    ids=[f"{place}-{answer[2]}" for place, answer in enumerate(ROWS)],
)
def test_prediction_without_an_image_gets_a_failure_result(
    answer: dict[str, Any], canceled: bool, code: ErrorCode, retryable: bool, sentence: str
) -> None:
    assert row(canceled=canceled, **answer) == TaskFailure(
        task_index=0,
        prompt="a fox",
        output_filename="fox",
        error=sentence,
        error_code=code,
        prediction_id="p1",
        retryable=retryable,
    )


@pytest.mark.parametrize("status", ["succeeded", "processing"])
@pytest.mark.parametrize("canceled", [True, False])
def test_prediction_with_an_image_gets_a_complete_success_result(
    status: str, canceled: bool
) -> None:
    found = row(
        canceled=canceled,
        status=status,
        output=URL,
        metrics={"predict_time": 1.5},
        input={"seed": 7},
        completed_at="2026-11-30T11:59:00Z",
    )
    assert found.model_dump() == {
        "task_index": 0,
        "retried_task_index": None,
        "prompt": "a fox",
        "output_filename": "fox",
        "model": "owner/name",
        "seed": 7,
        "prediction_id": "p1",
        "predict_seconds": 1.5,
        "count": 1,
        "generated_files": (
            {
                "url": URL,
                "filename": "fox.png",
                "expires_at": datetime(2026, 11, 30, 12, 59, tzinfo=UTC),
                "expired": None,
            },
        ),
        "sources": None,
    }


DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("completed", "ended"),
    [
        (NOW - 20 * SECOND, NOW - 20 * SECOND),
        (NOW, NOW),
        (NOW + SECOND, NOW),
        (NOW - DAY, NOW - DAY),
        (NOW - DAY - SECOND, NOW),
        (None, NOW),
    ],
)
def test_urls_expire_one_hour_after_the_known_end(
    completed: datetime | None, ended: datetime
) -> None:
    found = row(output=[URL, f"{URL}2"], completed_at=completed and completed.isoformat())
    assert isinstance(found, TaskSuccess)
    expected = ended + timedelta(hours=1)
    assert [file.expires_at for file in found.generated_files] == [expected] * 2


@pytest.mark.parametrize(("sent", "reported", "expected"), [(0, 7, 0), (5, 7, 5), (None, 7, 7)])
def test_sent_seed_takes_precedence_over_reported_seed(
    sent: int | None, reported: int, expected: int
) -> None:
    found = row(task=replace(TASK, seed=sent), output=URL, input={"seed": reported})
    assert isinstance(found, TaskSuccess)
    assert found.seed == expected


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://replicate.delivery/a/out.png", "fox.png"),
        ("https://replicate.delivery/a/out", "fox.webp"),
    ],
)
def test_url_without_extension_gets_the_requested_format(url: str, name: str) -> None:
    found = row(task=replace(TASK, expected_format="webp"), output=url)
    assert isinstance(found, TaskSuccess)
    assert [file.filename for file in found.generated_files] == [name]


def test_reason_of_the_model_is_truncated_to_300_characters() -> None:
    words = 'The model answered in words instead of an image: "'
    for found, before, after in (
        (row(status="failed", error="x" * 400), "The model failed: ", "."),
        (row(output="x" * 400), words, '".'),
    ):
        assert isinstance(found, TaskFailure)
        assert found.error == f"{before}{'x' * 299}…{after}"


def test_failure_before_creation_is_not_retryable_by_default() -> None:
    plain = failure(TASK, "create_outcome_unknown", "It is not\nknown.")
    assert (plain.error, plain.retryable, plain.prediction_id) == ("It is not known.", False, None)
    reported = failure(TASK, "interrupted", "It ended.", True, prediction_id="p2")
    assert (reported.error_code, reported.retryable, reported.prediction_id) == (
        "interrupted",
        True,
        "p2",
    )


def problem(number: int, code: ErrorCode = "invalid_input") -> TaskProblem:
    return TaskProblem(0, f"f{number}", f"Input {number} is wrong.", code)


@pytest.mark.parametrize(
    ("problems", "code", "sentence"),
    [
        ([problem(1)], "invalid_input", "Input 1 is wrong."),
        (
            [problem(number) for number in range(1, 6)],
            "invalid_input",
            "Input 1 is wrong. Input 2 is wrong. Input 3 is wrong.",
        ),
        (
            [problem(1), problem(2, "model_not_found")],
            "invalid_input",
            "Input 1 is wrong. Input 2 is wrong.",
        ),
        (
            [problem(1, "model_not_found"), problem(2, "model_not_found")],
            "model_not_found",
            "Input 1 is wrong. Input 2 is wrong.",
        ),
    ],
)
def test_invalid_task_result_names_at_most_three_problems(
    problems: list[TaskProblem], code: ErrorCode, sentence: str
) -> None:
    found = refusal(replace(TASK, problems=tuple(problems)))
    assert (found.error_code, found.error, found.retryable) == (code, sentence, False)
    assert found.prediction_id is None


SAID = [
    ["nsfw found", "NSFW concepts were blocked", "contains potential nsfw"],
    ["E005", "input flagged: it is unsafe"],
    ["prompts were flagged", "moderation_blocked"],
    ["blocked by our content policy", "caught by moderation"],
    ["violating the guidelines"],
    ["content_policy_violation", "content_filtered", "blocked by the content filter"],
    ["finish_reason: SAFETY", "image_prohibited_content", "prohibited content"],
    ["ImageRiskDetected", "sensitive material"],
    ["triggered a safety filter", "did not pass moderation checks"],
    ["DataInspectionFailed", "unsafe content"],
]


@pytest.mark.parametrize("place", range(len(PATTERNS)))
def test_each_rejection_pattern_matches_case_insensitively(place: int) -> None:
    alone = re.compile(PATTERNS[place].pattern, re.IGNORECASE)
    for said in SAID[place]:
        for text in (said, said.upper(), f"It says: {said}, sorry."):
            assert alone.search(text)
            assert reports_refused_content(text)
