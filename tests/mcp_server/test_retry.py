"""Retries over MCP: `retry_of` of a model, and the gallery's `retry_tasks`."""

from typing import Any

import pytest
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp_types import ElicitResult

from mcp_server.conftest import Connect
from mcp_server.tool_results import call, structured, text
from replicate_mcp.mcp_server.tools import RETRIES_KEY, TOOLS
from replicate_mcp.simulator import Simulator

APPS = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})


async def test_failed_tasks_of_a_batch_are_made_again(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect() as client:
        simulator.configure(failing=1)
        tasks: list[Any] = ["a", {"prompt": "[nsfw] b"}, {"prompt": "c", "seed": 3}]
        answer = await client.call_tool("generate_images", {"tasks": tasks})
        first = structured(answer)
        simulator.configure(failing=0)
        assert text(answer).endswith(
            "To make failed tasks again: generate_images with "
            f"retry_of={first['batch_id']} repeats those that are retryable."
        )
        again = await call(client, "generate_images", retry_of=first["batch_id"], tasks=[])
        assert again["retry_of"] == first["batch_id"]
        rows = again["successful_results"]
        assert [row["retried_task_index"] for row in rows] == [0, 2]
        assert rows[1]["seed"] == 3
        assert (await call(client, "get_batch"))["retry_of"] == first["batch_id"]
        nothing = await client.call_tool("generate_images", {"retry_of": again["batch_id"]})
        assert nothing.is_error
        assert "of its 2 tasks, 2 made" in text(nothing)
        made = await client.call_tool("get_batch", {"batch_id": again["batch_id"]})
        assert "retry_of" not in text(made)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "tasks is missing: generate_images needs it."),
        ({"retry_of": "b_1", "tasks": ["a"]}, "tasks does not go with retry_of"),
        ({"retry_of": "b_1", "model": "flux-dev"}, "model does not go with retry_of"),
        ({"retry_of": "b_1"}, "There is no batch 'b_1'"),
        ({"retry": "b_1"}, "did you mean 'retry_of'?"),
    ],
)
async def test_wrong_calls_are_refused(
    connect: Connect, given: dict[str, Any], sentence: str
) -> None:
    async with connect() as client:
        answer = await client.call_tool("generate_images", given)
        assert answer.is_error
        assert sentence in text(answer)


async def test_retry_of_many_images_needs_confirmation(
    connect: Connect, simulator: Simulator
) -> None:
    asked: list[str] = []

    async def person(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept" if len(asked) != 2 else "decline")

    async with connect(ask=person, REPLICATE_MCP_CONFIRM_ABOVE="1") as client:
        simulator.configure(failing=1)
        first = structured(await client.call_tool("generate_images", {"tasks": ["a", "b"]}))
        simulator.configure(failing=0)
        declined = await client.call_tool("generate_images", {"retry_of": first["batch_id"]})
        assert declined.is_error
        assert len(simulator.predictions()) == 2
        again = structured(
            await client.call_tool("generate_images", {"retry_of": first["batch_id"]})
        )
        assert again["successful_count"] == 2
        assert asked[0] == asked[1] == asked[2]
        assert len(simulator.predictions()) == 4


async def test_only_hosts_that_show_the_gallery_are_shown_its_tool(connect: Connect) -> None:
    async with connect() as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == list(TOOLS)
    async with connect(extensions=[APPS]) as client:
        *others, tool = (await client.list_tools()).tools
    assert others == tools
    assert (tool.name, tool.meta) == ("retry_tasks", {"ui": {"visibility": ["app"]}})
    assert len(tool.model_dump_json(by_alias=True, exclude_none=True)) < 600


async def test_gallery_makes_tasks_again_and_finds_the_retries_of_a_batch(
    connect: Connect, simulator: Simulator
) -> None:
    async def retry(batch_id: str, *task_indexes: int, **more: Any) -> dict[str, Any]:
        arguments = {"batch_id": batch_id, "task_indexes": task_indexes, **more}
        return structured(await client.call_tool("retry_tasks", arguments))

    async def retries(**arguments: Any) -> Any:
        answer = await client.call_tool("get_batch", arguments)
        assert RETRIES_KEY not in text(answer)
        return (answer.meta or {}).get(RETRIES_KEY)

    async with connect(extensions=[APPS]) as client:
        tasks: list[Any] = ["a [fail]", {"prompt": "b", "seed": 3, "aspect_ratio": "16:9"}]
        first = await call(client, "generate_images", tasks=tasks)
        batch = first["batch_id"]
        assert await retries(batch_id=batch) is None
        same = await retry(batch, 1)
        new = await retry(same["batch_id"], 0, new_seed=True)
        again = await retry(batch, 1, 0, wait_seconds="0")
        assert again["status"] == "running"
        assert again["next_step"]
        (row,) = same["successful_results"]
        assert (same["retry_of"], row["retried_task_index"], row["seed"]) == (batch, 1, 3)
        assert new["successful_results"][0]["seed"] != 3
        ratios = [each["input"].get("aspect_ratio") for each in simulator.predictions()[2:4]]
        assert ratios == ["16:9", "16:9"]
        of_new = {"batch_id": new["batch_id"], "retry_of": same["batch_id"], "task_indexes": [0]}
        assert await retries(batch_id=batch) == [
            {"batch_id": same["batch_id"], "retry_of": batch, "task_indexes": [1]},
            of_new,
            {"batch_id": again["batch_id"], "retry_of": batch, "task_indexes": [0, 1]},
        ]
        assert await retries(batch_id=same["batch_id"]) == [of_new]
        assert await retries(batch_id=batch, after=1) is None
        assert await retries() is None
        for wrong, sentence in (
            ({"batch_id": batch}, "task_indexes is missing: retry_tasks needs it."),
            ({"batch_id": batch, "task_indexes": []}, "task_indexes"),
            ({"batch_id": batch, "task_indexes": [7]}, "there is no such task"),
        ):
            refused = await client.call_tool("retry_tasks", wrong)
            assert refused.is_error
            assert sentence in text(refused)


async def test_retry_from_the_gallery_needs_the_same_confirmation(
    connect: Connect, simulator: Simulator
) -> None:
    async def decline(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    settings = {"REPLICATE_MCP_CONFIRM_ABOVE": "1"}
    async with connect(ask=decline, extensions=[APPS], **settings) as client:
        first = await call(client, "generate_images", tasks=["a"])
        arguments = {"batch_id": first["batch_id"], "task_indexes": [0]}
        assert structured(await client.call_tool("retry_tasks", arguments))["successful_count"] == 1
    async with connect() as client:
        two = [{"prompt": "b", "num_outputs": 2}]
        batch = (await call(client, "generate_images", tasks=two))["batch_id"]
    created = len(simulator.predictions())
    async with connect(ask=decline, extensions=[APPS], **settings) as client:
        arguments = {"batch_id": batch, "task_indexes": [0]}
        declined = await client.call_tool("retry_tasks", arguments)
    assert declined.is_error
    assert "Nothing was created" in text(declined)
    assert len(simulator.predictions()) == created
