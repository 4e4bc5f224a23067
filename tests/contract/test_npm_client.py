"""The official JavaScript client works with the simulator as it does with Replicate."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from npm import installed
from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.model_fixtures import MODELS

pytestmark = pytest.mark.soak

FOLDER = Path(__file__).with_name("npm")


@pytest.fixture(scope="module")
def client() -> str:
    """Return the script that uses the client, with the client installed beside it."""
    installed(FOLDER)
    return "client.mjs"


async def test_npm_client_creates_runs_cancels_lists_and_reads(
    simulator: Simulator, client: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        "node",
        client,
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
        "found": ["nano-banana", "nano-banana-pro"],
        "collection": "text-to-image",
        "account": "acme",
        "secret": "whsec",
        "file": 3,
        "refused": 422,
    }
