"""The configuration that people paste."""

import json
import os
import sysconfig
from pathlib import Path

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from conftest import environment
from replicate_mcp.simulator import Simulator

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_example_file() -> None:
    example = (ROOT / "claude_desktop_config.example.json").read_text()
    assert example.strip() in (ROOT / "README.md").read_text()


async def test_a_server_started_from_it_answers(simulator: Simulator, tmp_path: Path) -> None:
    example = json.loads((ROOT / "claude_desktop_config.example.json").read_text())
    (server,) = example["mcpServers"].values()
    command = Path(sysconfig.get_path("scripts")) / Path(server["command"]).name
    around = environment(simulator, tmp_path, token=server["env"]["REPLICATE_API_TOKEN"])
    parameters = StdioServerParameters(
        command=str(command),
        args=server.get("args", []),
        env={**os.environ, **around, **server["env"]},
    )
    async with Client(stdio_client(parameters)) as client:
        result = await client.call_tool("generate_images", {"tasks": [{"prompt": "a red car"}]})
    assert result.structured_content is not None
    assert result.structured_content["successful_count"] == 1
