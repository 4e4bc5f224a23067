"""Tasks that refer to images of other tasks and of earlier batches, on every backend."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from conftest import AppFactory
from replicate_mcp.app import references
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest, Retry
from replicate_mcp.auth import Caller
from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult, TaskFailure
from test_retry import EDIT, Opened, inputs_of, opened, run

__all__ = ["opened"]

REMOVER = "851-labs/background-remover"


def url(result: BatchResult, task: int, output: int = 0) -> str:
    """Return the URL of an image of a task that was made."""
    row = next(row for row in result.successful_results if row.task_index == task)
    return row.generated_files[output].url


def failed(result: BatchResult) -> dict[int, TaskFailure]:
    return {row.task_index: row for row in result.failed_results}


async def refusal(app: App, request: BatchRequest, caller: Caller | None = None) -> str:
    """Return the message of a request that is refused, after checking that it created nothing."""
    caller = caller or app.caller()
    before = len(await app.batches.list(caller))
    with pytest.raises(ReplicateMcpError) as caught:
        await app.batches.start(caller, request)
    assert len(await app.batches.list(caller)) == before
    return str(caught.value)


async def test_chain_of_one_call_and_its_continuation_in_another(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        chain = await run(
            app,
            BatchRequest(
                [
                    {"prompt": "a teapot", "num_outputs": 2},
                    {"model": REMOVER, "image": {"task": 0, "output": 1}},
                    {"model": EDIT, "prompt": "at night", "input_image": '{"task": 1}'},
                ]
            ),
        )
        assert chain.successful_count == 3, chain.failed_results
        created = inputs_of(simulator)
        assert created[1]["image"] == url(chain, 0, 1)
        assert created[2]["input_image"] == url(chain, 1)
        more = await run(
            app,
            BatchRequest(
                [
                    {
                        "model": EDIT,
                        "prompt": "at dawn",
                        "input_image": {"batch": chain.batch_id, "task": 0, "output": 1},
                    }
                ]
            ),
        )
        assert more.successful_count == 1
        assert inputs_of(simulator)[3]["input_image"] == url(chain, 0, 1)
        (row,) = more.successful_results
        assert [each.model_dump(exclude_none=True) for each in row.sources or ()] == [
            {"task": 0, "batch": chain.batch_id, "output": 1}
        ]


async def test_retry_makes_a_failed_source_and_its_dependents_again(
    app_with: AppFactory, simulator: Simulator
) -> None:
    tasks: list[dict[str, Any]] = [
        {"prompt": "kept"},
        {"prompt": "a teapot"},
        {"model": REMOVER, "image": {"task": 1}},
        {"model": EDIT, "prompt": "beside it", "input_image": {"task": 0}},
    ]
    async with app_with() as app:
        simulator.configure(failing=1)
        first = await run(app, BatchRequest(tasks))
        simulator.configure(failing=0)
        assert {index: row.error_code for index, row in failed(first).items()} == {
            0: "prediction_failed",
            1: "prediction_failed",
            2: "dependency_failed",
            3: "dependency_failed",
        }
        again = await run(app, BatchRequest(retry=Retry(first.batch_id)))
        assert again.successful_count == 4, again.failed_results
        created = inputs_of(simulator)[-2:]
        assert {each.get("image") or each["input_image"] for each in created} == {
            url(again, 0),
            url(again, 1),
        }


async def test_retry_of_a_dependent_alone_uses_the_image_that_was_made(
    app_with: AppFactory, simulator: Simulator
) -> None:
    tasks = [
        {"prompt": "a teapot"},
        {"model": EDIT, "prompt": "[fail] at night", "input_image": {"task": 0}},
    ]
    async with app_with() as app:
        first = await run(app, BatchRequest(tasks))
        assert list(failed(first)) == [1]
        again = await run(app, BatchRequest(retry=Retry(first.batch_id)))
        assert again.total_tasks == 1
        assert inputs_of(simulator)[-1]["input_image"] == url(first, 0)
        # A retry of the retry refers to the same image.
        await run(app, BatchRequest(retry=Retry(again.batch_id)))
        assert inputs_of(simulator)[-1]["input_image"] == url(first, 0)


async def test_retry_of_a_dependent_uses_the_image_that_another_retry_made(
    app_with: AppFactory, simulator: Simulator
) -> None:
    tasks = [
        {"prompt": "a teapot"},
        {"model": EDIT, "prompt": "at night", "input_image": {"task": 0}},
    ]
    async with app_with() as app:
        simulator.configure(failing=1)
        first = await run(app, BatchRequest(tasks))
        simulator.configure(failing=0)
        made = await run(app, BatchRequest(retry=Retry(first.batch_id, [0])))
        await run(app, BatchRequest(retry=Retry(first.batch_id, [1])))
        assert inputs_of(simulator)[-1]["input_image"] == url(made, 0)


async def test_retry_without_a_source_that_failed_or_expired_names_it(
    app_with: AppFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [
        {"prompt": "a teapot"},
        {"model": EDIT, "prompt": "at night", "input_image": {"task": 0}},
    ]
    async with app_with() as app:
        simulator.configure(failing=1)
        lost = await run(app, BatchRequest(tasks))
        simulator.configure(failing=0)
        message = await refusal(app, BatchRequest(retry=Retry(lost.batch_id, [1])))
        assert message == (
            f"task 1: input_image refers to task 0 of batch {lost.batch_id}, which failed "
            "(prediction_failed): choose task 0 as well, or send both as new tasks."
        )
        made = await run(app, BatchRequest(tasks))
        expire_urls(monkeypatch)
        message = await refusal(app, BatchRequest(retry=Retry(made.batch_id, [1])))
        assert message == (
            f"task 1: input_image refers to task 0 of batch {made.batch_id}, whose URL has "
            "expired: choose task 0 as well, or send both as new tasks."
        )


def expire_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass until all URLs of earlier batches have expired."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=2)

    monkeypatch.setattr(references, "datetime", Later)


async def test_unusable_references_are_refused_before_anything_is_created(
    app_with: AppFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_with() as app:
        earlier = await run(app, BatchRequest([{"prompt": "a"}, {"prompt": "[fail] b"}]))
        created = len(simulator.predictions())

        async def message(image: Any, *others: Any) -> str:
            task = {"model": EDIT, "prompt": "x", "input_image": image}
            return await refusal(app, BatchRequest([task, *others]))

        def of(task: int, **more: Any) -> dict[str, Any]:
            return {"batch": earlier.batch_id, "task": task, **more}

        at = f"task 0: input_image refers to task 1 of batch {earlier.batch_id}, "
        assert await message(of(1)) == (
            f"{at}which failed (prediction_failed): make task 1 of that batch again first."
        )
        assert (await message(of(2))).endswith("which does not exist: that batch has tasks 0 to 1.")
        assert (await message(of(0, output=1))).endswith("which does not exist: it made one.")
        assert "a batch that does not exist" in await message({"batch": "b_none", "task": 0})
        assert await message({"task": 1}) == (
            "task 0: input_image refers to task 1, but its only task is 0."
        )
        assert await message({"task": 0}) == "task 0: input_image refers to the task's own image."
        assert "is not a number from 0" in await message({"task": "x"})
        circle = {"model": EDIT, "prompt": "x", "input_image": {"task": 0}}
        assert "in a circle" in await message({"task": 1}, circle)
        two = {"prompt": "x", "num_outputs": 2}
        assert "which makes 2 images, 0 to 1" in await message({"task": 1, "output": 2}, two)
        seed = await refusal(app, BatchRequest([{"prompt": "x", "seed": {"task": 0}}]))
        assert seed == 'task 0: seed {"task": 0} is not a whole number.'
        expire_urls(monkeypatch)
        assert (await message(of(0))).endswith(
            "whose URL has expired: make task 0 of that batch again first."
        )
        assert len(simulator.predictions()) == created


async def test_another_callers_batch_is_unknown(app_with: AppFactory) -> None:
    async with app_with() as app:
        mine = await run(app, BatchRequest(["a"]))
        other = Caller("token:other", "r8_alice_1")
        task = {"model": EDIT, "prompt": "x", "input_image": {"batch": mine.batch_id, "task": 0}}
        assert "a batch that does not exist" in await refusal(app, BatchRequest([task]), other)


async def test_task_of_a_running_batch_has_no_image_yet(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds="60")
    async with app_with() as app:
        caller = app.caller()
        batch = await app.batches.start(caller, BatchRequest(["a"]))
        task = {"model": EDIT, "prompt": "x", "input_image": {"batch": batch, "task": 0}}
        assert (await refusal(app, BatchRequest([task]))).endswith(
            "which has not ended yet: wait for its result with get_batch."
        )
        await app.batches.cancel(caller, batch)


async def test_number_of_earlier_batches_is_bounded(app_with: AppFactory) -> None:
    async with app_with() as app:
        tasks = [
            {"model": EDIT, "prompt": "x", "input_image": {"batch": f"b_{number}", "task": 0}}
            for number in range(references.MAX_BATCHES + 1)
        ]
        message = await refusal(app, BatchRequest(tasks))
        assert message.startswith("the tasks refer to images of 101 earlier batches")


async def test_skipping_invalid_tasks_also_skips_those_that_need_them(
    app_with: AppFactory, simulator: Simulator
) -> None:
    tasks = [
        {"prompt": "x", "seed": "none"},
        {"model": EDIT, "prompt": "y", "input_image": {"task": 0}},
        {"prompt": "z"},
        {"model": EDIT, "prompt": "y", "input_image": {"batch": "b_none", "task": 0}},
    ]
    async with app_with() as app:
        result = await run(app, BatchRequest(tasks, skip_invalid=True))
        codes = {index: row.error_code for index, row in failed(result).items()}
        assert codes == {0: "invalid_input", 1: "dependency_failed", 3: "invalid_input"}
        message = await refusal(app, BatchRequest(tasks[:2], skip_invalid=True))
        assert message.startswith("task 0: seed")
