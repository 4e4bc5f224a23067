"""Batches with invalid tasks: rejected as a whole with all problems, or run without them."""

import json
from typing import Any

import anyio
import pytest

from conftest import AppFactory
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.errors import InvalidInput, ModelNotFound, ReplicateMcpError, TaskProblem
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult, as_json

SCHNELL = "black-forest-labs/flux-schnell"
KONTEXT = "black-forest-labs/flux-kontext-max"

FAULTS: list[Any] = [
    {"prompt": "fine"},
    {"prompt": "x", "num_outputs": 9, "aspect_ratio": "16x9"},
    {"prompt": "x", "model": "no/such"},
    {"prompt": "x", "output_filename": "a/b.png", "seed": "abc"},
    '{"prompt": "a red',
    {"prompt": ""},
    {"prompt": "also fine", "output_filename": "fine.png"},
    {"prompt": "x", "model": "flux-kontext-max", "image": "https://x.y/cat.png"},
    {"prompt": 7, "guidance": 3},
]

PROBLEMS = [
    (1, "aspect_ratio", "aspect_ratio '16x9' is not one of "),
    (1, "num_outputs", f"num_outputs 9 is more than 4, the most {SCHNELL} takes."),
    (2, "model", "Replicate knows no model 'no/such': check its name"),
    (3, "output_filename", "output_filename 'a/b.png' contains a path separator '/'"),
    (3, "seed", "seed 'abc' is not a whole number."),
    (4, None, "the task is JSON text that is cut off at character 18."),
    (5, "prompt", "prompt is empty: say what to draw."),
    (7, "image", f"'image' is not an input of {KONTEXT}: did you mean 'input_image'? Its inputs: "),
    (8, "prompt", "prompt must be text, not a number."),
    (8, "guidance", f"'guidance' is not an input of {SCHNELL}"),
]


async def run(app: App, tasks: Any, **more: Any) -> BatchResult:
    batch_id = await app.batches.start(app.caller(), BatchRequest(tasks, **more))
    with anyio.fail_after(60):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


async def refusal(app: App, tasks: Any, **more: Any) -> ReplicateMcpError:
    with pytest.raises(ReplicateMcpError) as refused:
        await app.batches.start(app.caller(), BatchRequest(tasks, **more))
    return refused.value


def creations(simulator: Simulator) -> int:
    return int(simulator.account("acme")["creations_seen"])


def assert_problems(found: tuple[TaskProblem, ...]) -> None:
    assert [(each.task_index, each.field) for each in found] == [each[:2] for each in PROBLEMS]
    for problem, (_, _, beginning) in zip(found, PROBLEMS, strict=True):
        assert problem.error.startswith(beginning)


async def test_all_problems_of_all_tasks_are_reported_together_and_nothing_is_created(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        error = await refusal(app, FAULTS)
        assert await app.batches.list(app.caller()) == []
    assert isinstance(error, InvalidInput)
    assert_problems(error.problems)
    assert str(error).startswith("task 1: aspect_ratio '16x9' is not one of ")
    assert "; task 2: Replicate knows no model 'no/such'" in str(error)
    assert creations(simulator) == 0


async def test_same_problem_of_forty_tasks_is_reported_in_one_line(app_with: AppFactory) -> None:
    tasks = [{"prompt": "x", "input_image": "https://x.y/z.png"}] * 40
    async with app_with() as app:
        error = await refusal(app, tasks)
    assert str(error).startswith(f"tasks 0-39: 'input_image' is not an input of {SCHNELL}")
    assert "Models that edit images: black-forest-labs/flux-kontext-max" in str(error)
    assert [each.task_index for each in error.problems] == list(range(40))


async def test_thousand_invalid_tasks_are_rejected_quickly_and_briefly(
    app_with: AppFactory,
) -> None:
    tasks = [{f"wrong_{n}_{i}": "x" * 100 for i in range(12)} for n in range(1_000)]
    async with app_with() as app:
        with anyio.fail_after(30):
            error = await refusal(app, tasks)
    assert str(error).endswith("(and 9,891 more).")
    assert len(str(error)) < 10_000
    assert len(error.problems) == 1_000


async def test_model_not_found_is_raised_only_when_all_problems_are_unknown_models(
    app_with: AppFactory,
) -> None:
    async with app_with() as app:
        error = await refusal(app, [{"prompt": "x", "model": "no/such"}] * 2)
        mixed = await refusal(app, [{"prompt": "x", "model": "no/such"}, {"prompt": 7}])
    assert isinstance(error, ModelNotFound)
    assert str(error).startswith("tasks 0-1: Replicate knows no model 'no/such'")
    assert isinstance(mixed, InvalidInput)


async def test_request_problem_is_reported_together_with_task_problems(
    app_with: AppFactory,
) -> None:
    async with app_with() as app:
        error = await refusal(app, [{"prompt": 7}], semaphore="nope")
    assert [(each.task_index, each.field) for each in error.problems] == [
        (None, None),
        (0, "prompt"),
    ]
    assert str(error).startswith("semaphore 'nope' is not registered")


@pytest.mark.parametrize("skip_invalid", [False, True])
async def test_problems_are_reported_without_replicate_unless_skip_invalid_is_set(
    app_with: AppFactory, skip_invalid: bool
) -> None:
    async with app_with(REPLICATE_BASE_URL="http://127.0.0.1:1") as app:
        with anyio.fail_after(20):
            error = await refusal(app, [{"prompt": 7}, "x"], skip_invalid=skip_invalid)
    assert error.code == ("replicate_unavailable" if skip_invalid else "invalid_input")


async def test_skipped_tasks_fail_and_the_rest_run(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        result = await run(app, FAULTS, skip_invalid=True)
        first = await app.batches.result(app.caller(), result.batch_id, limit=7)
        rest = await app.batches.result(app.caller(), result.batch_id, after=first.cursor)
        (listed,) = await app.batches.list(app.caller())
        (own,) = await app.semaphores.list_for(app.caller())
    assert creations(simulator) == 2
    assert (result.status, result.total_tasks) == ("completed", 9)
    assert (result.successful_count, result.failed_count, result.pending_count) == (2, 7, 0)
    assert (listed.successful_count, listed.failed_count) == (2, 7)
    assert (own.in_use, own.waiting) == (0, 0)
    assert [row.task_index for row in result.successful_results] == [0, 6]
    assert [row.task_index for row in result.failed_results] == [1, 2, 3, 4, 5, 7, 8]
    assert [row.error_code for row in result.failed_results] == [
        "invalid_input", "model_not_found", *["invalid_input"] * 5,
    ]  # fmt: skip
    assert not any(row.retryable or row.prediction_id for row in result.failed_results)
    wrong = {row.task_index: row for row in result.failed_results}
    assert wrong[1].error.endswith(f"num_outputs 9 is more than 4, the most {SCHNELL} takes.")
    assert (wrong[3].prompt, wrong[3].output_filename) == ("x", "generated_image_4")
    assert "prompt" not in as_json(wrong[4])
    assert "prompt" not in as_json(wrong[8])
    # Tasks finished from the start come first, and every row appears once over all pages.
    assert [row.task_index for row in first.failed_results] == [1, 2, 3, 4, 5, 7, 8]
    assert [row.task_index for row in rest.successful_results] == [0, 6]


async def test_invalid_tasks_are_finished_while_others_run(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=30)
    async with app_with() as app:
        request = BatchRequest(["fine", {"prompt": 7}, "fine too"], skip_invalid=True)
        batch_id = await app.batches.start(app.caller(), request)
        await simulator.reached(account="acme", in_flight=2)
        result = await app.batches.result(app.caller(), batch_id)
        progress = await app.batches.progress(batch_id)
        assert (result.status, result.failed_count, result.pending_count) == ("running", 1, 2)
        assert progress is not None
        assert progress.line.startswith("1/3 done, 2 running, 1 failed")
        await app.batches.cancel(app.caller(), batch_id)
        with anyio.fail_after(30):
            await app.batches.wait(app.caller(), batch_id, seconds=None)
        result = await app.batches.result(app.caller(), batch_id)
    assert result.status == "canceled"
    assert [row.error_code for row in result.failed_results] == [
        "canceled", "invalid_input", "canceled",
    ]  # fmt: skip


@pytest.mark.parametrize("tasks", [FAULTS[1:2], FAULTS[2:3], [FAULTS[1]] * 3], ids=str)
async def test_batch_without_valid_tasks_is_rejected(app_with: AppFactory, tasks: Any) -> None:
    async with app_with() as app:
        error = await refusal(app, tasks, skip_invalid=True)
        whole = await refusal(app, tasks)
        assert await app.batches.list(app.caller()) == []
    assert (type(error), str(error)) == (type(whole), str(whole))


async def test_skip_invalid_changes_nothing_for_valid_tasks(
    app_with: AppFactory,
) -> None:
    async with app_with() as app:
        result = await run(app, ["a", "b"], skip_invalid=True)
    assert (result.successful_count, result.failed_count) == (2, 0)


async def test_skipped_task_reserves_its_filename(app_with: AppFactory) -> None:
    tasks = [
        {"prompt": "x", "output_filename": "cat.png", "seed": "abc"},
        {"prompt": "y", "output_filename": "cat.png"},
    ]
    async with app_with() as app:
        result = await run(app, tasks, skip_invalid=True)
    assert result.failed_results[0].output_filename == "cat.png"
    assert result.successful_results[0].generated_files[0].filename == "cat_2.png"


async def test_confirmation_covers_only_valid_tasks(app_with: AppFactory) -> None:
    asked: list[int] = []

    async def consent(planned: Any) -> None:
        asked.extend(task.index for task in planned)

    async with app_with() as app:
        request = BatchRequest([{"prompt": 7}, "x", "y"], skip_invalid=True)
        await app.batches.start(app.caller(), request, consent=consent)
    assert asked == [1, 2]


FORMS = [
    ('["a red car", "a blue house"]', ["a red car", "a blue house"]),
    ([json.dumps({"prompt": "a red car", "seed": 42.0})], ["a red car"]),
    ("[{'prompt': 'a red car',},]", ["a red car"]),
    (["[masterpiece], a fox", "{a drawing}"], ["[masterpiece], a fox", "{a drawing}"]),
]


@pytest.mark.parametrize(("tasks", "prompts"), FORMS, ids=str)
async def test_tasks_given_as_json_text_are_parsed_and_not_used_as_prompts(
    app_with: AppFactory, tasks: Any, prompts: list[str]
) -> None:
    async with app_with() as app:
        result = await run(app, tasks, semaphore="", model="")
    assert [row.prompt for row in result.successful_results] == prompts


async def test_whole_float_is_sent_and_reported_as_an_integer(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        result = await run(app, [{"prompt": "x", "seed": 42.0}])
    assert result.successful_results[0].seed == 42
    (prediction,) = simulator.predictions("acme")
    assert json.dumps(prediction["input"]["seed"]) == "42"


@pytest.mark.parametrize(
    "tasks",
    ['[{"prompt": "a red car"}, {"prompt": "a blu', ['{"prompt": "a red'], [{"prompt": '["a"'}]],
    ids=str,
)
async def test_malformed_json_text_is_never_used_as_a_prompt(
    app_with: AppFactory, simulator: Simulator, tasks: Any
) -> None:
    async with app_with() as app:
        error = await refusal(app, tasks)
    assert "is JSON text that is cut off at character" in str(error)
    assert creations(simulator) == 0
