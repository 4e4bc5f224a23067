"""Every example of the README and the documentation works as printed."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import anyio
import httpx2
import pytest
import yaml
from dotenv import dotenv_values
from jsonschema import validate
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from docs.blocks import Block, blocks_of
from docs.powershell import in_bash
from docs.sandbox import Sandbox
from replicate_mcp.auth import Access, HttpRequest
from replicate_mcp.cli.install.hosts import HOSTS
from replicate_mcp.http_api.responses import ErrorBody
from replicate_mcp.mcp_server.auth import token_in
from replicate_mcp.mcp_server.tools import TOOLS
from replicate_mcp.platform.paths import Machine
from replicate_mcp.settings import SETTING_NAMES, load_settings
from replicate_mcp.tasks.result import BatchResult

HOST_OF = {"vs-code": "vscode", "cursor": "cursor"}
"""The host whose configuration a page shows; all other pages show Claude Desktop's."""


@pytest.mark.soak
def test_every_example_works_as_printed(page: Path, sandbox: Sandbox) -> None:
    for block in blocks_of(page):
        assert block.language in TRIED, f"no way to test {block}"
        try:
            TRIED[block.language](block, sandbox)
        except Exception as error:
            error.add_note(f"in {block}")
            raise


def shell(block: Block, sandbox: Sandbox) -> None:
    sandbox.shell(block)


def power_shell(block: Block, sandbox: Sandbox) -> None:
    """Run the same commands in bash, with this machine's paths."""
    sandbox.shell(replace(block, text=in_bash(block.text)))


def python(block: Block, sandbox: Sandbox) -> None:
    sandbox.run("python3", "-W", "error", "-c", block.text)


def environment_file(block: Block, sandbox: Sandbox) -> None:
    named = dotenv_values(stream=StringIO(block.text))
    assert set(named) <= set(SETTING_NAMES)
    file = sandbox.work / "block.env"
    file.write_text(block.text)
    load_settings({}, file)


def prometheus(block: Block, _: Sandbox) -> None:
    assert yaml.safe_load(block.text)["scrape_configs"]


def document(block: Block, sandbox: Sandbox) -> None:
    """Check a JSON document by its kind."""
    shown = json.loads(sandbox.here(block.text))
    for key, check in DOCUMENTS.items():
        if key in shown:
            return check(shown, block, sandbox)
    raise AssertionError(f"unknown kind of document: {block}")


def tasks(shown: dict[str, Any], block: Block, sandbox: Sandbox) -> None:
    # Use the filename that the page's commands use.
    (sandbox.work / "tasks.json").write_text(block.text)
    made = json.loads(sandbox.run("replicate-mcp", "generate", "--file", "tasks.json", "--json"))
    assert made["successful_count"] == len(shown["tasks"])


def result(shown: dict[str, Any], block: Block, sandbox: Sandbox) -> None:
    batch = BatchResult.model_validate(shown)
    finished = len(batch.successful_results) + len(batch.failed_results)
    assert finished == batch.cursor == batch.total_tasks - batch.pending_count
    validate(shown, TOOLS["get_batch"].tool.output_schema or {})


def arguments(shown: dict[str, Any], block: Block, sandbox: Sandbox) -> None:
    validate(shown, TOOLS["get_batch"].tool.input_schema)


def refusal(shown: dict[str, Any], block: Block, sandbox: Sandbox) -> None:
    ErrorBody.model_validate(shown)


def credentials(shown: dict[str, Any], block: Block, sandbox: Sandbox) -> None:
    caller = Access().authenticate(HttpRequest({}), token_in(shown["_meta"]))
    assert caller.has_own_token


def configuration(shown: dict[str, Any], block: Block, sandbox: Sandbox) -> None:
    """Check a host's configuration: a running server's URL, or the entry that `install` writes."""
    (servers,) = (shown[key] for key in ("mcpServers", "servers") if key in shown)
    entry = servers["replicate"]
    if "url" in entry:
        assert "generate_images" in anyio.run(_tools_at, entry["url"], entry.get("headers"))
        return
    host = HOSTS[name := HOST_OF.get(block.page.stem, "claude")]
    home = sandbox.home.with_name("another-home")
    # Unset the simulator's URL, with which no host asks for the token.
    sandbox.run("replicate-mcp", "install", name, HOME=str(home), REPLICATE_BASE_URL="")
    written = json.loads(host.file(Machine("linux", home, {})).read_text())
    installed = written[host.servers]["replicate"]
    path = PureWindowsPath if block.tab == "Windows" else PurePosixPath
    assert path(entry["command"]).stem == Path(installed["command"]).name
    assert path(entry["command"]).is_absolute()
    entry["command"] = installed["command"]
    assert shown == written


async def _tools_at(url: str, headers: dict[str, str] | None) -> list[str]:
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        return [tool.name for tool in (await client.list_tools()).tools]


TRIED: dict[str, Callable[[Block, Sandbox], None]] = {
    "sh": shell,
    "powershell": power_shell,
    "python": python,
    "json": document,
    "env": environment_file,
    "yaml": prometheus,
    "text": lambda block, sandbox: None,  # Program output.
}

DOCUMENTS: dict[str, Callable[[dict[str, Any], Block, Sandbox], None]] = {
    "tasks": tasks,
    "total_tasks": result,
    "after": arguments,
    "error_code": refusal,
    "_meta": credentials,
    "mcpServers": configuration,
    "servers": configuration,
}
