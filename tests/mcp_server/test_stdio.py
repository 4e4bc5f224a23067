"""The tools called by a client over stdio, in both protocol eras."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import RequestParamsMeta, TextResourceContents, Tool

from backends.servers import RunningServer
from conftest import environment
from mcp_server.conftest import Connect
from mcp_server.tool_results import call, structured, text
from replicate_mcp.simulator import Simulator


async def test_batch_result_has_a_text_summary(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool(
            "generate_images",
            {
                "tasks": [
                    {"prompt": "A red car", "output_filename": "red_car.jpg"},
                    {"prompt": "[fail] x"},
                ]
            },
        )
    answer = structured(result)
    url = answer["successful_results"][0]["generated_files"][0]["url"]
    lines = text(result).splitlines()
    assert lines[0] == f"Batch {answer['batch_id']} is completed: 1 of 2 made, 1 failed."
    assert lines[1] == f"red_car.jpg {url}"
    assert lines[2].startswith("task 1 (generated_image_2) failed, prediction_failed: ")


async def test_tool_list_stays_within_its_size_limit(connect: Connect) -> None:
    async with connect() as client:
        listed = await client.list_tools()
    size = len(listed.model_dump_json(by_alias=True, exclude_none=True))
    # With room for future arguments.
    assert size < 9_400
    assert {tool.name for tool in listed.tools} == {
        "generate_images",
        "get_batch",
        "cancel_batch",
        "list_semaphores",
        "find_models",
    }
    for tool in listed.tools:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is not None
        assert tool.annotations.open_world_hint is not None
        assert tool.output_schema is not None
        assert tool.description


async def test_batch_tools_link_to_the_gallery_resource(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect() as client:
        listed = {tool.name: tool.meta or {} for tool in (await client.list_tools()).tools}
        shown = {name: meta["ui"]["resourceUri"] for name, meta in listed.items() if meta}
        assert list(shown) == ["generate_images", "get_batch"]
        (uri,) = set(shown.values())
        (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "text/html;profile=mcp-app"
    assert content.text.startswith("<!doctype html>")
    assert simulator.url in (content.meta or {})["ui"]["csp"]["resourceDomains"]


async def test_long_batch_is_paged_with_each_row_once(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds="0.02-0.3")
    seen: list[int] = []
    async with connect() as client:
        answer = await call(
            client,
            "generate_images",
            tasks=[{"prompt": f"car {n}"} for n in range(130)],
            wait_seconds=0.5,
        )
        pages = 0
        while True:
            rows = answer["successful_results"] + answer["failed_results"]
            indices = [row["task_index"] for row in rows]
            assert len(rows) <= 50
            assert all(a < b for a, b in pairwise(indices))
            seen += indices
            pages += 1
            if "next_step" not in answer:
                break
            assert f"after={answer['cursor']}" in answer["next_step"]
            waits = "wait_seconds" in answer["next_step"]
            assert waits == (answer["cursor"] == 130 - answer["pending_count"])
            answer = await call(
                client,
                "get_batch",
                batch_id=answer["batch_id"],
                after=answer["cursor"],
                wait_seconds=5,
            )
        again = await call(client, "get_batch", after=0, limit=1000)
    assert sorted(seen) == list(range(130))
    assert pages >= 3
    assert again["batch_id"] == answer["batch_id"]
    assert len(again["successful_results"]) == 130
    names = [row["generated_files"][0]["filename"] for row in again["successful_results"]]
    assert len(set(names)) == 130


async def test_call_returns_after_wait_seconds_and_the_batch_continues(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=1.5)
    async with connect() as client:
        early = await call(client, "generate_images", tasks=[{"prompt": "x"}], wait_seconds=0)
        assert (early["status"], early["pending_count"]) == ("running", 1)
        # The model has to wait, because polling immediately returns the same response.
        assert early["next_step"].endswith("and wait_seconds=45 for what finishes next.")
        late = await call(client, "get_batch", batch_id=early["batch_id"], wait_seconds=20)
    assert (late["status"], late["successful_count"]) == ("completed", 1)


async def test_null_counts_as_an_omitted_argument(connect: Connect, simulator: Simulator) -> None:
    def without(tool: Tool) -> dict[str, Any]:
        schema = tool.input_schema
        return dict.fromkeys(set(schema["properties"]) - set(schema.get("required", [])))

    async with connect() as client:
        nulls = {tool.name: without(tool) for tool in (await client.list_tools()).tools}
        given = nulls["generate_images"] | {"tasks": [{"prompt": "a red car"}]}
        made = await call(client, "generate_images", **given)
        assert made["status"] == "completed"
        assert await call(client, "get_batch", **nulls["get_batch"]) == made
        models = await call(client, "find_models", **nulls["find_models"])
        assert models == await call(client, "find_models")
    assert simulator.account("acme")["created"] == 1


async def test_progress_is_reported_in_order_to_the_end(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds="0.1,0.4,0.7")
    reported: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    async with connect() as client:
        await client.call_tool(
            "generate_images",
            {"tasks": [{"prompt": f"car {n}"} for n in range(3)]},
            progress_callback=on_progress,
        )
    assert [done for done, _, _ in reported] == sorted(done for done, _, _ in reported)
    assert reported[-1][:2] == (3, 3)
    assert "3/3 done" in str(reported[-1][2])


async def test_progress_reports_the_wait_for_a_new_redis(
    connect: Connect, servers: Callable[[str], RunningServer], era: str
) -> None:
    reported: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append(str(message))

    async with connect(REPLICATE_MCP_BACKEND=servers("redis").url(f"new-{era}", lease=3)) as client:
        made = await client.call_tool(
            "generate_images", {"tasks": [{"prompt": "a car"}]}, progress_callback=on_progress
        )
    assert structured(made)["successful_count"] == 1
    assert "Redis is new or was restarted: waiting" in reported[0]
    assert "Redis" not in reported[-1]


async def test_cancel_batch_cancels_at_replicate(connect: Connect, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=30, cancel_seconds=5)
    async with connect(REPLICATE_CONCURRENT_LIMIT="2") as client:
        started = await call(
            client,
            "generate_images",
            tasks=[{"prompt": f"car {n}"} for n in range(5)],
            wait_seconds=0,
        )
        await simulator.reached(account="acme", in_flight=2)
        batch = {"batch_id": started["batch_id"]}
        stopping = await client.call_tool("cancel_batch", batch)
        assert structured(stopping)["total_tasks"] == 5
        # "To come" is what a model would promise.
        assert "0 of 5 made, 5 being stopped" in text(stopping)
        asked = await client.call_tool("get_batch", batch)
        assert text(asked).startswith(f"Batch {batch['batch_id']} is being stopped: 0 of 5 made")
        assert structured(asked)["status"] == "running"
        assert structured(asked)["next_step"].startswith("The batch is being stopped: call get_")
        assert "running" not in text(asked)
        assert "to come" not in text(asked)
        await simulator.reached(account="acme", in_flight=0, within=20)
        ended = await call(client, "get_batch", wait_seconds=20)
        again = text(await client.call_tool("cancel_batch", batch))
    assert again.startswith(f"Nothing runs any more. Batch {started['batch_id']} is canceled:")
    assert (ended["status"], ended["failed_count"]) == ("canceled", 5)
    assert simulator.account("acme")["creations_seen"] == 2


async def test_call_cancelled_by_its_user_cancels_its_batch(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=30)
    async with connect() as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_images", {"tasks": [{"prompt": "x"}]})
            await simulator.reached(account="acme", in_flight=1)
            group.cancel_scope.cancel()
        await simulator.reached(account="acme", in_flight=0, within=20)
        ended = await call(client, "get_batch", wait_seconds=20)
    assert ended["status"] == "canceled"


async def test_cancelled_get_batch_call_cancels_nothing(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=2)
    async with connect() as client:
        await call(client, "generate_images", tasks=[{"prompt": "x"}], wait_seconds=0)
        with anyio.move_on_after(0.3):
            await client.call_tool("get_batch", {"wait_seconds": 30})
        ended = await call(client, "get_batch", wait_seconds=20)
    assert (ended["status"], ended["successful_count"]) == ("completed", 1)


async def test_semaphores_include_that_of_the_account(connect: Connect) -> None:
    async with connect(REPLICATE_CONCURRENT_LIMIT="7") as client:
        answer = await call(client, "list_semaphores")
    (own,) = answer["semaphores"]
    assert answer["count"] == 1
    assert own["name"] == "replicate-global"
    assert (own["limit"], own["in_use"], own["available"]) == (7, 0, 7)
    assert own["scope"] == "machine"


WRONG_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("generate_images", {}, "tasks is missing"),
    ("generate_images", {"tasks": []}, "tasks is empty"),
    ("generate_images", {"tasks": [{"prompt": ""}]}, "task 0: prompt is empty"),
    (
        "generate_images",
        {"tasks": [{"prompt": "x"}], "wait_secs": 3},
        "did you mean 'wait_seconds'?",
    ),
    ("generate_images", {"tasks": [{"prompt": "x"}], "wait_seconds": 99}, "more than 50"),
    ("generate_images", {"tasks": [{"prompt": "x"}], "model": 7}, "model 7 is a number"),
    (
        "generate_images",
        {"tasks": [{"prompt": "x"}], "aspect_ratio": "16:9"},
        "'aspect_ratio' is not an argument of generate_images: it goes into each task, beside its "
        "prompt.",
    ),
    ("cancel_batch", {"batch_id": None}, "batch_id is missing"),
    ("get_batch", {"batch_id": "b_nope"}, "There is no batch 'b_nope'"),
    ("get_batch", {}, "There is no batch yet"),
    ("get_batch", {"after": -1}, "after -1 is less than 0"),
    ("get_batch", {"limit": 5000}, "limit 5000 is more than 1000"),
    ("cancel_batch", {}, "batch_id is missing"),
]


async def test_invalid_call_is_rejected_with_the_correct_usage(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect() as client:
        for tool, arguments, sentence in WRONG_CALLS:
            result = await client.call_tool(tool, arguments)
            assert result.is_error, (tool, arguments)
            assert sentence in text(result)
            # A message for models and programs, without content outside the outputSchema.
            assert result.structured_content is None
            refusal = (result.meta or {})["replicate-mcp/refusal"]
            assert refusal["error"] == text(result)
            assert (refusal["error_code"], refusal["retryable"]) == ("invalid_input", False)
            assert all(problem["error"] for problem in refusal.get("problems", ()))
        with pytest.raises(MCPError, match="There is no tool 'draw': there are ") as refused:
            await client.call_tool("draw", {})
        assert refused.value.error.code == -32602
    assert simulator.account("acme")["creations_seen"] == 0


async def test_tools_are_listed_without_a_token_and_calls_explain_how_to_get_one(
    connect: Connect,
) -> None:
    async with connect(REPLICATE_API_TOKEN="") as client:
        assert (await client.list_tools()).tools
        result = await client.call_tool("generate_images", {"tasks": [{"prompt": "x"}]})
    assert result.is_error
    assert "https://replicate.com/account/api-tokens" in text(result)


async def test_caller_may_pass_its_own_token_in_meta(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect() as client:
        await client.call_tool(
            "generate_images",
            {"tasks": [{"prompt": "x"}]},
            meta=cast(
                RequestParamsMeta,
                {"replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}},
            ),
        )
        result = await client.call_tool("get_batch", {})
    assert simulator.account("other")["created"] == 1
    assert "There is no batch yet" in text(result)


@pytest.mark.parametrize("end", ["stdin", "terminate"])
def test_server_exits_immediately_on_closed_stdin_or_signal(
    simulator: Simulator, tmp_path: Path, end: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment(simulator, tmp_path)},
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(
            '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":'
            '"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}\n'
        )
        server.stdin.flush()
        assert "replicate-mcp" in server.stdout.readline()
        if end == "stdin":
            server.stdin.close()
        else:
            server.terminate()
        assert server.wait(5) == 0
