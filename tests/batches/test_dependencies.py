"""Batches with tasks that need the images of others: order, URLs, failures, and cancellation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batches.direct import (
    ACCOUNT,
    OWN,
    Process,
    Replicate,
    finished,
    running_process,
    task,
    wrapped,
)
from batches.virtual_time import EPOCH, in_virtual_time
from replicate_mcp.batches.dependencies import Dependencies
from replicate_mcp.batches.planning import PlannedBatch, PlannedTask
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.errors import TaskProblem
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.references import Reference
from replicate_mcp.tasks.result import GeneratedFile, TaskFailure, TaskResult, TaskSuccess

EDIT = "black-forest-labs/flux-2-pro"


def edit(index: int, *sources: int | Reference, prompt: str = "an edit") -> PlannedTask:
    """Return a task that edits the images of others."""
    references = [each if isinstance(each, Reference) else Reference(each) for each in sources]
    inputs = {"prompt": prompt, "input_images": [each.as_json() for each in references]}
    return replace(
        task(index, prompt),
        model=EDIT,
        target=Target(ModelName.parse(EDIT)),
        inputs=inputs,
        referring=("input_images",),
    )


async def start(
    process: Process,
    gateway: Gateway,
    tasks: Sequence[PlannedTask],
    images: Mapping[Reference, GeneratedFile] | None = None,
) -> RunningBatch:
    return await process.runner.start(
        PlannedBatch(
            tasks, gateway, ACCOUNT, "server", "replicate-global", (OWN,), images=images or {}
        )
    )


def images_in(replicate: Replicate) -> list[Any]:
    """Return the images that each prediction was created with, oldest prediction first."""
    return [each.asked.input.get("input_images") for each in replicate.predictions]


def code(row: TaskResult) -> str:
    return row.error_code if isinstance(row, TaskFailure) else "made"


@in_virtual_time
async def test_task_starts_with_the_url_that_its_source_made_as_soon_as_that_has_ended() -> None:
    replicate = Replicate(predict_seconds="3")
    async with running_process() as process:
        tasks = [edit(0, 1), task(1), edit(2, 0, 1), edit(3, Reference(1))]
        batch = await start(process, replicate.gateway(), tasks)
        rows = await process.rows(batch)
    urls = {
        index: row.generated_files[0].url
        for index, row in rows.items()
        if isinstance(row, TaskSuccess)
    }
    assert sorted(urls) == [0, 1, 2, 3]
    one, (first, second), last = (
        replicate.predictions[0],
        replicate.predictions[1:3],
        (replicate.predictions[3]),
    )
    assert "input_images" not in one.asked.input
    assert first.asked.input["input_images"] == second.asked.input["input_images"] == [urls[1]]
    assert last.asked.input["input_images"] == [urls[0], urls[1]]
    begun = replicate.times("create")
    assert begun == pytest.approx([0, 3, 3, 6], abs=0.5)


@in_virtual_time
async def test_rows_name_the_images_that_their_tasks_used() -> None:
    replicate = Replicate(predict_seconds="1")
    async with running_process() as process:
        batch = await start(
            process, replicate.gateway(), [task(0), edit(1, 0), edit(2, 1, prompt="[fail] x")]
        )
        rows = await process.rows(batch)
    assert rows[0].sources is None
    assert [str(each) for each in rows[1].sources or ()] == ["task 0"]
    assert [str(each) for each in rows[2].sources or ()] == ["task 1"]


@in_virtual_time
async def test_tasks_of_a_failed_source_fail_with_it_and_nothing_is_created_for_them() -> None:
    replicate = Replicate(predict_seconds="1")
    async with running_process() as process:
        tasks = [
            task(0, "[fail] x"), edit(1, 0), edit(2, 1, 4), edit(3, 4), task(4),
            task(5, "[nsfw] x"), edit(6, 5),
        ]  # fmt: skip
        batch = await start(process, replicate.gateway(), tasks)
        rows = await process.rows(batch)
        own = await process.own()
    assert {index: code(row) for index, row in rows.items()} == {
        0: "prediction_failed",
        1: "dependency_failed",
        2: "dependency_failed",
        3: "made",
        4: "made",
        5: "content_flagged",
        6: "dependency_failed",
    }
    for index, needed, retryable in ((1, 0, True), (2, 1, True), (6, 5, False)):
        row = rows[index]
        assert isinstance(row, TaskFailure)
        assert row.error.startswith(f"It needs the image of task {needed}, which failed: ")
        assert row.retryable is retryable
        assert row.prediction_id is None
    assert len(replicate.predictions) == 4
    assert (own.in_use, own.waiting) == (0, 0)


@in_virtual_time
async def test_image_that_the_source_did_not_make_fails_the_task() -> None:
    replicate = Replicate(predict_seconds="1")
    async with running_process() as process:
        batch = await start(
            process, replicate.gateway(), [task(0), edit(1, Reference(0, None, 1)), edit(2, 0)]
        )
        rows = await process.rows(batch)
    row = rows[1]
    assert isinstance(row, TaskFailure)
    assert (row.error_code, row.retryable) == ("dependency_failed", False)
    assert row.error == "It needs image 1 of task 0, which made only image 0."
    assert code(rows[2]) == "made"


@in_virtual_time
async def test_tasks_that_need_an_invalid_one_fail_at_once_and_the_others_run() -> None:
    replicate = Replicate(predict_seconds="1")
    broken = replace(task(0), inputs={}, problems=(TaskProblem(0, "prompt", "prompt is empty"),))
    async with running_process() as process:
        batch = await start(
            process, replicate.gateway(), [broken, edit(1, 0), edit(2, 1), task(3), edit(4, 3)]
        )
        assert (batch.failed, batch.invalid) == (3, 3)
        rows = await process.rows(batch)
    codes = [code(rows[index]) for index in range(5)]
    assert codes == ["invalid_input", "dependency_failed", "dependency_failed", "made", "made"]


@in_virtual_time
async def test_cancelling_ends_the_tasks_that_wait_for_images_too() -> None:
    replicate = Replicate(predict_seconds="30")
    async with running_process() as process:
        batch = await start(process, replicate.gateway(), [task(0), edit(1, 0), edit(2, 1)])
        await anyio.sleep(1)
        process.runner.cancel(batch)
        rows = await process.rows(batch)
        await anyio.sleep(60)
        own = await process.own()
    assert [code(rows[index]) for index in range(3)] == ["canceled"] * 3
    assert len(replicate.predictions) == 1
    assert (own.in_use, own.waiting) == (0, 0)


@in_virtual_time
async def test_cancelling_while_a_task_becomes_ready_leaves_nothing_in_the_queue() -> None:
    replicate = Replicate(predict_seconds="1")
    batches: list[RunningBatch] = []

    async def canceled_first(enqueue: Any, *arguments: Any) -> Any:
        process.runner.cancel(batches[0])
        await batches[0].ended.wait()
        return await enqueue(*arguments)

    async with running_process(wrap=wrapped(enqueue=canceled_first)) as process:
        batches.append(await start(process, replicate.gateway(), [task(0), edit(1, 0)]))
        rows = await process.rows(batches[0])
        await anyio.sleep(5)
        own = await process.own()
    assert [code(rows[index]) for index in range(2)] == ["made", "canceled"]
    assert (own.in_use, own.waiting) == (0, 0)


@in_virtual_time
async def test_batch_out_of_time_ends_the_tasks_that_wait_for_images() -> None:
    replicate = Replicate(predict_seconds="30")
    async with running_process(batch_seconds=20, prediction_seconds=60) as process:
        batch = await start(process, replicate.gateway(), [task(0), edit(1, 0)])
        rows = await process.rows(batch)
    assert [code(rows[index]) for index in range(2)] == ["deadline_exceeded"] * 2


@in_virtual_time
async def test_image_of_an_earlier_batch_is_used_and_one_that_expired_meanwhile_is_not() -> None:
    replicate = Replicate(predict_seconds="50")
    first, second = Reference(0, "b_1"), Reference(1, "b_1")
    lasting, ending = (
        GeneratedFile(
            url=f"https://replicate.delivery/{name}.png",
            filename=f"{name}.png",
            expires_at=datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=seconds),
        )
        for name, seconds in (("lasting", 3_000), ("ending", 40))
    )
    async with running_process(limit=1) as process:
        tasks = [edit(0, first), edit(1, second), edit(2, 1), edit(3, first)]
        images = {first: lasting, second: ending}
        batch = await start(process, replicate.gateway(), tasks, images)
        rows = await process.rows(batch)
        own = await process.own()
    codes = [code(rows[index]) for index in range(4)]
    assert codes == ["made", "dependency_failed", "dependency_failed", "made"]
    row = rows[1]
    assert isinstance(row, TaskFailure)
    assert "task 1 of batch b_1" in row.error
    assert not row.retryable
    assert images_in(replicate) == [[lasting.url], [lasting.url]]
    assert (own.in_use, own.waiting) == (0, 0)


def made(index: int, count: int = 1) -> TaskSuccess:
    """Return the result of a task that made `count` images, whose URLs end at `EPOCH`."""
    ends = datetime.fromtimestamp(EPOCH, UTC)
    files = tuple(
        GeneratedFile(url=f"https://replicate.delivery/{index}/{n}", filename="f", expires_at=ends)
        for n in range(count)
    )
    return TaskSuccess(
        task_index=index,
        output_filename="f",
        model="o/m",
        prediction_id="p",
        count=count,
        generated_files=files,
    )


def test_task_that_became_ready_or_failed_waits_no_more() -> None:
    dependencies = Dependencies([task(0), edit(1, 0), task(2), edit(3, 2), edit(4, 0)])
    assert dependencies.settle(made(0)) == ([1, 4], [])
    (failed,) = dependencies.settle(finished(2))[1]
    assert failed.task_index == 3
    assert dependencies.drop() == []


def test_dropped_tasks_wait_no_more() -> None:
    dependencies = Dependencies([task(0), edit(1, 0), edit(2, 1)])
    assert dependencies.drop() == [1, 2]
    assert dependencies.drop() == []
    assert dependencies.settle(made(0)) == ([], [])


def test_image_that_is_missing_is_one_of_this_source_in_this_batch() -> None:
    beyond = Reference(0, "b_1", 3)
    tasks = [task(0), task(1), edit(2, Reference(0), Reference(1, None, 1), beyond)]
    dependencies = Dependencies(tasks, {beyond: made(0).generated_files[0]})
    assert dependencies.settle(made(0)) == ([], [])
    assert dependencies.settle(made(1, 2)) == ([2], [])


def test_url_is_expired_from_its_end_on() -> None:
    dependencies = Dependencies([task(0), edit(1, 0)])
    dependencies.settle(made(0))
    assert dependencies.expired(1, EPOCH - 0.001) is None
    assert dependencies.expired(1, EPOCH) == Reference(0)


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[list[int], str]]:
    """Draw tasks in any order: the tasks whose images each needs, and its prompt."""
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    tasks: dict[int, tuple[list[int], str]] = {}
    for place, index in enumerate(order):
        sources = draw(st.lists(st.sampled_from(order[:place]), max_size=3)) if place else []
        prompt = draw(st.sampled_from(["a", "a", "a", "[fail] a"]))
        tasks[index] = (sources, prompt)
    return [tasks[index] for index in range(count)]


@settings(max_examples=40, deadline=None)
@given(graphs(), st.integers(1, 4), st.none() | st.floats(0, 12))
def test_every_graph_ends_with_one_row_a_task_made_of_its_sources(
    graph: list[tuple[list[int], str]], limit: int, cancelled_at: float | None
) -> None:
    run_graph(graph, limit, cancelled_at)


@in_virtual_time
async def run_graph(
    graph: list[tuple[list[int], str]], limit: int, cancelled_at: float | None
) -> None:
    replicate = Replicate(predict_seconds="1,2,3")
    async with running_process(limit=limit) as process:
        tasks = [
            edit(index, *sources, prompt=f"{prompt} {index}")
            if sources
            else task(index, f"{prompt} {index}")
            for index, (sources, prompt) in enumerate(graph)
        ]
        batch = await start(process, replicate.gateway(), tasks)
        if cancelled_at is not None:
            with anyio.move_on_after(cancelled_at):
                await batch.ended.wait()
            process.runner.cancel(batch)
        rows = await process.rows(batch)
        await anyio.sleep(10)
        own = await process.own()
    assert sorted(rows) == list(range(len(graph)))
    assert (own.in_use, own.waiting) == (0, 0)
    created = {each.asked.input["prompt"]: each for each in replicate.predictions}
    assert len(created) == len(replicate.predictions)
    for index, (sources, prompt) in enumerate(graph):
        prediction = created.get(f"{prompt} {index}")
        needed = [rows[source] for source in sources]
        if prediction is not None and sources:
            assert prediction.asked.input["input_images"] == [
                row.generated_files[0].url for row in needed if isinstance(row, TaskSuccess)
            ]
            assert len(prediction.asked.input["input_images"]) == len(sources)
        failed = any(isinstance(row, TaskFailure) for row in needed)
        if cancelled_at is None:
            assert (prediction is None) == failed
            assert (code(rows[index]) == "dependency_failed") == failed


@pytest.mark.parametrize("failing", [0, 4])
def test_chains_of_three_keep_the_limit_full(failing: int) -> None:
    """40 subjects at a limit of 10, 2 s each: the chains allow 12 rounds of 10."""
    run_chains(failing)


@in_virtual_time
async def run_chains(failing: int) -> None:
    replicate = Replicate(predict_seconds="2")
    async with running_process(limit=10) as process:
        tasks = []
        for subject in range(40):
            first = 3 * subject
            tasks += [
                task(first, "[fail] x" if subject % 10 < failing / 4 else "x"),
                edit(first + 1, first),
                edit(first + 2, first + 1),
            ]
        before = anyio.current_time()
        batch = await start(process, replicate.gateway(), tasks)
        rows = await process.rows(batch)
        seconds = anyio.current_time() - before
    lost = {index for index in range(120) if index % 30 < 3 and index % 3} if failing else set()
    failed = {index for index, row in rows.items() if code(row) == "dependency_failed"}
    assert failed == lost
    rounds = -(-(120 - len(lost)) // 10)
    assert 2 * rounds / seconds >= 0.97
