"""Client libraries of hosts, each against the server over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from http_api.conftest import Server
from npm import installed
from replicate_mcp.simulator import Simulator

pytestmark = pytest.mark.soak

FOLDER = Path(__file__).parent / "clients"
INSPECTOR = Path(__file__).parents[1] / "mcp_server" / "inspector"

REFUSAL = (
    "task 0: aspect_ratio '16x9' is not one of 1:1, 16:9, 21:9, 3:2, 2:3, 4:5, 5:4, 3:4, 4:3, "
    "9:16, 9:21: did you mean '16:9'?"
)

TYPESCRIPT = [
    ("v1.mjs", "streamable", "/mcp"),
    ("v1.mjs", "sse", "/sse"),
    ("v2.mjs", "legacy", "/mcp"),
    ("v2.mjs", "auto", "/mcp"),
]


def run_client(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """Return the output of a client's script."""
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def check_output(outcome: dict[str, Any]) -> None:
    """Check the output: two images with progress, a readable rejection, and a batch found again."""
    assert outcome["tools"][0] == "generate_images"
    made, again, refused = outcome["made"], outcome["again"], outcome["refused"]
    assert outcome["reported"], "no progress"
    assert outcome["reported"] == sorted(outcome["reported"])
    # Some clients drop a progress report that arrives together with the response.
    assert outcome["reported"][-1] in (1, 2)
    lines = made["content"][0]["text"].splitlines()
    assert lines[0].endswith("is completed: 2 of 2 made.")
    assert lines[1].startswith("red_car.jpg http")
    assert lines[2].startswith("blue_house.png http")
    assert again["structuredContent"] == made["structuredContent"]
    assert (refused["isError"], refused["content"][0]["text"]) == (True, REFUSAL)
    assert refused["_meta"]["replicate-mcp/refusal"]["error_code"] == "invalid_input"
    assert outcome["unknown"]["code"] == -32602
    assert "There is no tool 'draw'" in outcome["unknown"]["message"]


@pytest.fixture
def slowly(simulator: Simulator) -> None:
    """Make predictions slow enough for progress reports."""
    simulator.configure(predict_seconds="0.2,0.6")


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize(("script", "way", "path"), TYPESCRIPT)
def test_typescript_sdk_makes_a_batch(server: Server, script: str, way: str, path: str) -> None:
    installed(FOLDER)
    check_output(run_client(["node", script, way, f"{server.url}{path}"]))


@cache
def inspector() -> str:
    """Return the Inspector's command line."""
    return str(installed(INSPECTOR) / ".bin" / "mcp-inspector")


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/mcp", ["--protocol-era", "modern"]),
        ("/mcp", ["--protocol-era", "legacy"]),
        ("/sse", []),
    ],
)
def test_inspector_lists_calls_and_receives_an_error(
    server: Server, tmp_path: Path, path: str, options: list[str]
) -> None:
    def ask(*words: str, tasks: object = None) -> subprocess.CompletedProcess[str]:
        given = ["--tool-args-json", json.dumps({"tasks": tasks})] if tasks else []
        return subprocess.run(
            [inspector(), "--cli", f"{server.url}{path}", *options, "--method", *words, *given],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    call = ("tools/call", "--tool-name", "generate_images")
    listed = ask("tools/list", "--strict")
    assert (listed.returncode, "0 errors" in listed.stderr) == (0, True), listed.stderr
    made = ask(*call, tasks=[{"prompt": "a red car"}, {"prompt": "a blue house"}])
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["structuredContent"]["successful_count"] == 2
    refused = ask(*call, tasks=[{"prompt": "a red car", "aspect_ratio": "16x9"}])
    assert json.loads(refused.stdout)["content"][0]["text"] == REFUSAL
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["code"] == "tool_is_error"


@pytest.fixture(scope="module")
def first_python_sdk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with the Python SDK 1.x, for use in another process."""
    folder = str(tmp_path_factory.mktemp("python_1x"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wanted = ["--require-hashes", "--no-deps", "-r", str(FOLDER / "python_1x.txt")]
    subprocess.run([*pip, "--target", folder, *wanted], check=True, timeout=120)
    return folder


@pytest.mark.usefixtures("slowly")
def test_first_python_sdk_makes_a_batch(server: Server, first_python_sdk: str) -> None:
    for way, path in (("streamable", "/mcp"), ("sse", "/sse")):
        command = [sys.executable, "python_1x.py", way, f"{server.url}{path}"]
        check_output(run_client(command, PYTHONPATH=first_python_sdk))
