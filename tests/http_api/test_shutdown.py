"""Shutdown of a server: waiting requests get a response, the others end immediately."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fork_server import FORKABLE
from http_api.conftest import PROGRAM, Serve
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


LATE = """
import asyncio, sys
from replicate_mcp.http_api import server
from replicate_mcp.mcp_server.server import ReplicateMcpServer
place = sys.argv.pop()
shutdown, call_tool = server._Server.shutdown, ReplicateMcpServer.call_tool
async def late_shutdown(*given, **named):
    if place == "shutdown":
        await asyncio.sleep(1)
    await shutdown(*given, **named)
async def late_answer(*given, **named):
    answer = await call_tool(*given, **named)
    if place == "answer":
        await asyncio.sleep(1)
    return answer
server._Server.shutdown, ReplicateMcpServer.call_tool = late_shutdown, late_answer
from replicate_mcp.cli.main import main
sys.exit(main())
"""
"""The server as it is, but on a slow machine: a second is longer than libraries' polls take."""


@pytest.mark.parametrize("way", WAYS)
async def test_tool_returns_partial_results_on_shutdown(
    serve: Serve, simulator: Simulator, way: Way
) -> None:
    await answer_on_shutdown(serve, simulator, way)


@pytest.mark.parametrize("late", ["shutdown", "answer"])
@pytest.mark.parametrize("way", ["sessions", "sse"])
async def test_streams_stay_open_until_calls_are_answered(
    serve: Serve, simulator: Simulator, way: Way, late: str
) -> None:
    program = (sys.executable, "-c", FORKABLE + LATE)
    await answer_on_shutdown(serve, simulator, way, late, program=program)


async def answer_on_shutdown(
    serve: Serve, simulator: Simulator, way: Way, *words: str, program: Sequence[str] = PROGRAM
) -> None:
    """Check what a call returns whose server is stopped while it waits."""
    simulator.configure(predict_seconds=3)
    answers: list[dict[str, Any]] = []
    with serve(*words, program=program) as first:

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
