"""`retry_of` in `generate_images`: what is made again, and what a model is told."""

from typing import Any

import pytest
from mcp_types import ElicitResult

from mcp_server.conftest import Connect
from mcp_server.tool_results import call, structured, text
from replicate_mcp.simulator import Simulator


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
