"""The official JavaScript client works against the simulator as it does against Replicate."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.catalogue import MODELS

FOLDER = Path(__file__).with_name("npm")
_INSTALL_SECONDS = 300


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the client installed beside the script."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        reason = "Node.js with npm is needed to try Replicate's JavaScript client."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with FileLock(Path(tempfile.gettempdir()) / "replicate-npm-client.lock"):
        if not (FOLDER / "node_modules" / "replicate").is_dir():
            command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(
                command, cwd=FOLDER, check=True, capture_output=True, timeout=_INSTALL_SECONDS
            )
    return node


async def test_it_creates_runs_cancels_lists_and_reads(simulator: Simulator, node: str) -> None:
    process = await asyncio.create_subprocess_exec(
        node,
        "client.mjs",
        cwd=FOLDER,
        env={**os.environ, "BASE_URL": simulator.url, "REPLICATE_API_TOKEN": "r8_acme_1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    got = json.loads(stdout)
    assert got.pop("cancelled") == got.pop("again")
    assert got == {
        "held": {"status": "succeeded", "outputs": 2},
        "image": {"status": 200, "type": "image/webp"},
        "layers": ["background", "foreground"],
        "deployed": {"status": "succeeded", "deployment": "acme/fast-flux"},
        "listed": 5,
        "models": len(MODELS),
        "found": ["nano-banana"],
        "collection": "text-to-image",
        "account": "acme",
        "secret": "whsec",
        "file": 3,
        "refused": 422,
    }
