"""Malformed responses: the task gets a row, its permit is released, and nothing is billed twice."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from batches.playback import Playback, running_playback
from batches.test_arbitrary_predictions import ended, settings_of
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.tasks.result import TaskFailure, TaskResult

pytestmark = pytest.mark.usefixtures("short_intervals")


async def one(playback: Playback) -> TaskResult:
    async with App.running(settings_of(playback)) as app:
        batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "a fox"}]))
        result = await ended(app, batch_id)
    rows: list[TaskResult] = [*result.successful_results, *result.failed_results]
    return rows[0]


def failed(row: TaskResult) -> TaskFailure:
    assert isinstance(row, TaskFailure)
    return row


@pytest.mark.parametrize(
    "output",
    [
        '"https://[x/"',
        '"https://a\uff0fb/x.png"',
        "[" * 1_500 + "]" * 1_500,
        "9" * 5_000,
        '"https://example.com see this page"',
        '"https://replicate.delivery/a\\u0000.png"',
        f'"https://replicate.delivery/{"a" * 70_000}.png"',
    ],
)
def test_output_without_a_file_ends_as_no_output(output: str) -> None:
    with running_playback(Playback()) as playback:
        playback.created = lambda made: (
            json.dumps({**made, "output": 0})[:-1] + (f', "output": {output}}}')
        )
        row = failed(anyio.run(one, playback))
        assert row.error_code == "no_output"
        assert row.prediction_id in playback.predictions


def test_unreadable_output_url_ends_as_no_output_once_across_processes(tmp_path: Path) -> None:
    async def run(playback: Playback) -> list[tuple[TaskResult, ...]]:
        seen: list[tuple[TaskResult, ...]] = []
        batch_id = ""
        settings = settings_of(playback, f"sqlite://{tmp_path}/state.db")
        for _ in range(3):
            async with App.running(settings) as app:
                caller = app.caller()
                request = BatchRequest([{"prompt": "a fox"}])
                batch_id = batch_id or await app.batches.start(caller, request)
                seen.append((await ended(app, batch_id)).failed_results)
        return seen

    with running_playback(Playback()) as playback:
        playback.created = lambda made: json.dumps({**made, "output": "https://[broken/out.png"})
        first, *later = anyio.run(run, playback)
        assert failed(first[0]).error_code == "no_output"
        assert "https://[broken/out.png" in failed(first[0]).error
        assert later == [first, first]
        assert len(playback.predictions) == 1


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"output": [], "logs": "step 1\nNSFW content detected\n"}, "content_flagged", "NSFW"),
        ({"output": ["I cannot", " draw that."]}, "no_output", '"I cannot draw that"'),
        ({"status": "failed", "error": "violates our policies"}, "content_flagged", "policies"),
        ({"output": "data:image/png;base64,AAAA"}, "no_output", "as a data: URI"),
    ],
)
def test_output_without_an_image_is_reported_as_failure(
    answer: dict[str, Any], code: str, said: str
) -> None:
    with running_playback(Playback()) as playback:
        body = playback.seen = lambda made: json.dumps({"output": None, **made, **answer})
        playback.created = body
        row = failed(anyio.run(one, playback))
    assert (row.error_code, said in row.error) == (code, True)


def test_error_of_megabytes_becomes_one_short_line() -> None:
    error = "\x1b[2J" + "no\r\n\u202e" * 2_000_000
    with running_playback(Playback()) as playback:
        playback.created = lambda made: json.dumps({**made, "status": "failed", "error": error})
        row = failed(anyio.run(one, playback))
    assert row.error.isprintable()
    assert len(row.error) <= 500
    assert row.error.startswith("The model failed: [2J")


@pytest.mark.parametrize(
    "unreadable",
    ["{", "[]", '{"id": "../account", "status": "succeeded"}'],
)
def test_creation_with_malformed_response_is_never_retried(unreadable: str) -> None:
    def hidden(made: dict[str, Any]) -> str:
        return json.dumps({**made, "input": {"prompt": "of somebody else"}})

    with running_playback(Playback()) as playback:
        playback.created, playback.listed = lambda _: unreadable, hidden
        row = failed(anyio.run(one, playback))
        assert (row.error_code, row.retryable) == ("create_outcome_unknown", False)
        assert len(playback.predictions) == 1


def test_creation_with_malformed_response_is_found_in_the_list() -> None:
    with running_playback(Playback()) as playback:
        playback.created = lambda _: "{"
        deep = "[" * 2_000 + "]" * 2_000
        playback.others = ["null", f'{{"id": "x", "output": {deep}}}']
        row = anyio.run(one, playback)
        assert not isinstance(row, TaskFailure)
        assert len(playback.predictions) == 1


@pytest.mark.parametrize("completed", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_impossible_timestamp_is_not_used_as_the_end_of_a_prediction(completed: str) -> None:
    with running_playback(Playback()) as playback:
        playback.created = lambda made: json.dumps({**made, "completed_at": completed})
        row = anyio.run(one, playback)
        assert not isinstance(row, TaskFailure)
