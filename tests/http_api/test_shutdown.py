"""Shutdown of a server: waiting requests get a response, the others end immediately."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest

from http_api.conftest import Serve
from http_api.test_mcp import WAYS, Way, client_of, structured
from replicate_mcp.simulator import Simulator

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"prompt": "a car"}),
    ("/generate-batch", {"prompts": ["a car"]}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_waiting_request_gets_202_with_batch_location_on_shutdown(
    serve: Serve, simulator: Simulator, path: str, body: dict[str, Any]
) -> None:
    simulator.configure(predict_seconds=3)
    with serve() as first, ThreadPoolExecutor() as pool:
        asked = pool.submit(first.post, path, body)
        simulator.wait_for(account="acme", in_flight=1)
        first.terminate()
        answer = asked.result()
        assert answer.status_code == 202
        assert answer.json()["status"] == "running"
        assert first.process.returncode == 0
    with serve() as second:
        ended = second.get(answer.headers["location"], params={"wait_seconds": 20}).json()
    assert (ended["status"], ended["successful_count"]) == ("completed", 1)
    assert simulator.account("acme")["created"] == 1


@pytest.mark.parametrize("way", WAYS)
async def test_tool_returns_partial_results_on_shutdown(
    serve: Serve, simulator: Simulator, way: Way
) -> None:
    simulator.configure(predict_seconds=3)
    answers: list[dict[str, Any]] = []
    with serve() as first:

        async def ask() -> None:
            with suppress(Exception):  # Closing sends a request to a server that has exited.
                async with client_of(first, way) as client:
                    await client.list_tools()
                    tasks = {"tasks": [{"prompt": "a car"}]}
                    answers.append(structured(await client.call_tool("generate_images", tasks)))

        async with anyio.create_task_group() as asked:
            asked.start_soon(ask)
            await simulator.reached(account="acme", in_flight=1)
            await anyio.to_thread.run_sync(first.terminate)
    assert [answer["status"] for answer in answers] == ["running"]
    assert "get_batch" in answers[0]["next_step"]
