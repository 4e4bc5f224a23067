"""The example configuration for hosts."""

import json
import os
import sysconfig
from pathlib import Path

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult

from conftest import environment
from mcp_server.tool_results import text
from replicate_mcp.simulator import Simulator

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_example_file() -> None:
    example = (ROOT / "claude_desktop_config.example.json").read_text()
    assert example.strip() in (ROOT / "README.md").read_text()


async def test_server_started_from_the_example_responds(
    simulator: Simulator, tmp_path: Path
) -> None:
    result = await answer_with(simulator, tmp_path)
    assert "This is not a Replicate token" in text(result)
    made = await answer_with(simulator, tmp_path, REPLICATE_API_TOKEN="r8_acme_1")
    assert made.structured_content is not None
    assert made.structured_content["successful_count"] == 1


async def answer_with(simulator: Simulator, tmp_path: Path, **changes: str) -> CallToolResult:
    """Return a call's response from a server started by the changed file."""
    example = json.loads((ROOT / "claude_desktop_config.example.json").read_text())
    (server,) = example["mcpServers"].values()
    command = Path(sysconfig.get_path("scripts")) / Path(server["command"]).name
    around = environment(simulator, tmp_path)
    parameters = StdioServerParameters(
        command=str(command),
        args=server.get("args", []),
        env={**os.environ, **around, **server["env"], **changes},
    )
    async with Client(stdio_client(parameters)) as client:
        return await client.call_tool("generate_images", {"tasks": [{"prompt": "a red car"}]})
