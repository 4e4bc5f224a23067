"""A stdio server with invalid settings starts, lists its tools, and reports the errors."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from conftest import environment
from fork_server import FORKABLE
from mcp_server.tool_results import text
from network import API, NETWORK_VARIABLES, company
from replicate_mcp.simulator import Simulator

Start = Callable[..., AbstractAsyncContextManager[Client]]

CALLS: dict[str, dict[str, Any]] = {
    "generate_images": {"tasks": [{"prompt": "a red car"}]},
    "get_batch": {},
    "list_semaphores": {},
    "find_models": {},
    "cancel_batch": {"batch_id": "b_none"},
}


@pytest.fixture
def start(simulator: Simulator, tmp_path: Path) -> Start:
    """Start a server as a host does; keywords are its environment variables, None removes one."""

    @asynccontextmanager
    async def started(*words: str, **variables: str | None) -> AsyncIterator[Client]:
        env = environment(simulator, tmp_path) | {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        env = {name: value for name, value in (env | variables).items() if value is not None}
        arguments = ["-c", FORKABLE + WITHOUT_INHERITANCE, *words]
        command = StdioServerParameters(command=sys.executable, args=arguments, env=env)
        with (tmp_path / "stderr").open("w") as log:
            async with Client(stdio_client(command, errlog=log)) as client:
                yield client

    return started


WITHOUT_INHERITANCE = """\
import os, pwd, sys
if "HOME" in os.environ and os.environ["HOME"] == "none":
    del os.environ["HOME"]
    def getpwuid(_):
        raise KeyError
    pwd.getpwuid = getpwuid
from replicate_mcp.cli.main import main
sys.exit(main())
"""
"""The command line, for a user without an entry and a home where HOME is `none`: the client of MCP
gives a server its own HOME where none is given."""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"REPLICATE_CONCURRENT_LIMIT": "many"}, "REPLICATE_CONCURRENT_LIMIT is wrong: must be a"),
        ({"REPLICATE_BASE_URL": "http://evil.example"}, "REPLICATE_BASE_URL is wrong: must be an"),
        ({"REPLICATE_MCP_BACKEND": "mysql://x"}, "REPLICATE_MCP_BACKEND is wrong: must be memory"),
        ({"REPLICATE_MCP_FILES": "pictures"}, "REPLICATE_MCP_FILES is wrong: must be a folder"),
        ({"HOME": "none", "REPLICATE_MCP_BACKEND": None}, "this user has none: set HOME, or this"),
    ],
)
async def test_every_call_reports_the_invalid_settings(
    start: Start, simulator: Simulator, variables: dict[str, str | None], said: str, tmp_path: Path
) -> None:
    async with start(**variables) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == set(CALLS)
        for name, arguments in CALLS.items():
            result = await client.call_tool(name, arguments)
            assert result.is_error, name
            assert said in text(result), name
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert said in (tmp_path / "stderr").read_text()
    assert simulator.stats()["requests"] == {}


async def test_all_invalid_settings_are_reported_together(start: Start) -> None:
    async with start(REPLICATE_CONCURRENT_LIMIT="0", REPLICATE_MCP_WAIT_SECONDS="90") as client:
        error = text(await client.call_tool("list_semaphores", {}))
    assert "REPLICATE_CONCURRENT_LIMIT is wrong: must be at least 1, not 0." in error
    assert "REPLICATE_MCP_WAIT_SECONDS is wrong: must be at most 50, not 90." in error


async def test_unreadable_settings_file_is_reported(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text('$env:REPLICATE_API_TOKEN="r8_secret"\n')
    async with start("serve", "--env-file", str(file)) as client:
        error = text(await client.call_tool("list_semaphores", {}))
    assert f"Line 1 of {file} is not NAME=value: leave out what a shell needs" in error
    assert "r8_secret" not in error


async def test_memory_backend_needs_no_home_directory(start: Start) -> None:
    async with start(HOME="none", REPLICATE_MCP_BACKEND="memory") as client:
        result = await client.call_tool("generate_images", CALLS["generate_images"])
    assert text(result).splitlines()[0].endswith("is completed: 1 of 1 made.")


@pytest.mark.parametrize(
    "token", ["${REPLICATE_API_TOKEN}", '"r8_secret"', "<token>", "undefined", "your-token-here"]
)
async def test_token_placeholder_is_reported_and_never_sent(
    start: Start, simulator: Simulator, token: str
) -> None:
    async with start(REPLICATE_API_TOKEN=token) as client:
        error = text(await client.call_tool("generate_images", CALLS["generate_images"]))
    assert "This is not a Replicate token: it " in error
    assert "r8_secret" not in error
    assert simulator.stats()["requests"] == {}


async def test_stopped_simulator_is_reported_with_its_start_command(start: Start) -> None:
    async with start(REPLICATE_BASE_URL="http://127.0.0.1:1") as client:
        error = text(await client.call_tool("generate_images", CALLS["generate_images"]))
    assert "start it with `replicate-mcp simulate --port 1`" in error


async def test_custom_ca_network_works_and_missing_certificates_are_reported(
    start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    port = int(simulator.url.rpartition(":")[2])
    with company(tmp_path, port) as network:
        async with start(**network.environment) as client:
            result = await client.call_tool("generate_images", CALLS["generate_images"])
        assert text(result).splitlines()[0].endswith("is completed: 1 of 1 made.")
        assert set(network.proxy.asked) == {f"{API}:443"}
        without: dict[str, str | None] = dict.fromkeys(NETWORK_VARIABLES)
        async with start(**without | network.environment | {"SSL_CERT_FILE": None}) as client:
            result = await client.call_tool("generate_images", CALLS["generate_images"])
    assert "set SSL_CERT_FILE to the file of its certificate authority" in text(result)
    assert (result.meta or {})["replicate-mcp/refusal"]["retryable"] is False


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
async def test_variable_that_breaks_tls_is_reported_by_calls(start: Start, variable: str) -> None:
    wrong = {"REPLICATE_BASE_URL": f"https://{API}", variable: "/nowhere/x.pem"}
    async with start(**wrong) as client:
        error = text(await client.call_tool("generate_images", CALLS["generate_images"]))
    assert f"Replicate could not be reached: {variable} is /nowhere/x.pem, which " in error
