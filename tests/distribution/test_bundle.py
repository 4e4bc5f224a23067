"""The bundle for Claude Desktop: valid by the official tool, and started as a host starts it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from packaging.specifiers import SpecifierSet

from conftest import environment
from distribution.conftest import PYTHONS
from replicate_mcp.mcp_server.tools import TOOLS
from replicate_mcp.settings import SETTING_NAMES
from replicate_mcp.simulator import Simulator

TOKEN = "r8_secret_of_mine"


def started(folder: Path, **user_config: Any) -> dict[str, Any] | None:
    """Return the command that a host starts, given the user's values."""
    completed = subprocess.run(
        ["node", str(Path(__file__).with_name("started_by_a_host.mjs")), str(folder),
         json.dumps(user_config)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    config: dict[str, Any] | None = json.loads(completed.stdout.splitlines()[-1])
    return config


@pytest.mark.soak
def test_bundle_contains_its_files_and_nothing_compiled(unpacked: Path) -> None:
    manifest = json.loads((unpacked / "manifest.json").read_text())
    wheel = f"replicate_mcp-{manifest['version']}-py3-none-any.whl"
    assert {file.name for file in unpacked.iterdir()} == {
        "LICENSE", "icon.png", "main.py", "manifest.json", "pyproject.toml", wheel
    }  # fmt: skip
    assert [tool["name"] for tool in manifest["tools"]] == list(TOOLS)


def test_bundle_token_is_a_required_secret(unpacked: Path) -> None:
    manifest = json.loads((unpacked / "manifest.json").read_text())
    assert manifest["user_config"]["api_token"]["sensitive"] is True
    assert started(unpacked) is None
    config = started(unpacked, api_token=TOKEN)
    assert config is not None
    assert {name: value for name, value in config["env"].items() if "$" not in value} == {
        "REPLICATE_API_TOKEN": TOKEN,
        "REPLICATE_CONCURRENT_LIMIT": "60",
        "REPLICATE_MCP_DEFAULT_MODEL": "black-forest-labs/flux-schnell",
    }


def test_bundle_user_config_maps_to_settings(unpacked: Path) -> None:
    manifest = json.loads((unpacked / "manifest.json").read_text())
    variables = manifest["server"]["mcp_config"]["env"]
    assert set(variables) <= set(SETTING_NAMES)
    assert set(variables.values()) == {
        f"${{user_config.{each}}}" for each in manifest["user_config"]
    }


def test_bundle_accepts_exactly_the_supported_python_versions(unpacked: Path) -> None:
    project = tomllib.loads((unpacked / "pyproject.toml").read_text("utf-8"))["project"]
    taken = SpecifierSet(project["requires-python"])
    newest = max(int(python.partition(".")[2]) for python in PYTHONS)
    assert [f"3.{minor}" for minor in range(newest + 2) if f"3.{minor}" in taken] == [
        f"3.{minor}" for minor in range(11, newest + 1)
    ]


async def make_an_image(server: StdioServerParameters) -> dict[str, Any]:
    async with Client(stdio_client(server)) as client:
        made = await client.call_tool("generate_images", {"tasks": [{"prompt": "a red car"}]})
    assert made.structured_content is not None
    return dict(made.structured_content)


async def test_bundle_entry_point_makes_images_and_ignores_empty_options(
    unpacked: Path, simulator: Simulator, tmp_path: Path
) -> None:
    config = started(unpacked, api_token=TOKEN, concurrent_limit=3)
    assert config is not None
    server = StdioServerParameters(
        command=sys.executable,
        args=[str(unpacked / "main.py")],
        env={**environment(simulator, tmp_path), **config["env"], "HOME": str(tmp_path)},
    )
    assert (await make_an_image(server))["successful_count"] == 1


@pytest.mark.soak
async def test_host_with_uv_starts_the_bundle_unchanged(
    unpacked: Path, simulator: Simulator, tmp_path: Path
) -> None:
    config = started(unpacked, api_token=TOKEN)
    assert config is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = StdioServerParameters(
        command=config["command"],
        args=config["args"],
        env={
            **os.environ,
            "PATH": path,
            "UV_NO_BUILD": "1",
            **environment(simulator, tmp_path),
            **config["env"],
        },
    )
    assert (await make_an_image(server))["successful_count"] == 1
