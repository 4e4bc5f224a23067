"""MCP Inspector's command line lists and calls the tools."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import environment
from npm import installed
from replicate_mcp.simulator import Simulator

pytestmark = pytest.mark.soak

HERE = Path(__file__).parent / "inspector"


@pytest.fixture(scope="module")
def inspector() -> Path:
    """Return the Inspector's command line."""
    return installed(HERE) / ".bin" / "mcp-inspector"


def ask(inspector: Path, simulator: Simulator, folder: Path, *words: str) -> dict[str, Any]:
    """Return the Inspector's output for a method."""
    settings: list[str] = []
    for name, value in environment(simulator, folder).items():
        settings += ["-e", f"{name}={value}"]
    server = [sys.executable, "-m", "replicate_mcp"]
    done = subprocess.run(
        [str(inspector), "--cli", *server, *settings, *words],
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_inspector_lists_the_tools(inspector: Path, simulator: Simulator, tmp_path: Path) -> None:
    listed = ask(inspector, simulator, tmp_path, "--method", "tools/list")
    assert "generate_images" in {tool["name"] for tool in listed["tools"]}


def test_inspector_calls_generate_images(
    inspector: Path, simulator: Simulator, tmp_path: Path
) -> None:
    answer = ask(
        inspector, simulator, tmp_path, "--method", "tools/call", "--tool-name", "generate_images",
        "--tool-arg", 'tasks=[{"prompt": "a red car", "output_filename": "red_car.jpg"}]',
    )  # fmt: skip
    assert answer["structuredContent"]["successful_count"] == 1
    assert "red_car.jpg http" in answer["content"][0]["text"]
