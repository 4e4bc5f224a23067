"""A token reaches no log, error, file or repr."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import AppFactory, environment, settings_for
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.simulator import Simulator

SECRET = "r8_acme_ThisIsTheSecret"

PROGRAM = """
import logging, sys, anyio
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from replicate_mcp import generate_images

async def main():
    result = await generate_images(["a red car", "[fail] a blue house"])
    print(result)

anyio.run(main)
"""


def test_neither_output_nor_logs_nor_the_state_file_hold_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.fault_next("reset_after")
    around = {**os.environ, **environment(simulator, tmp_path, token=SECRET)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=around, capture_output=True, check=True, timeout=60
    )
    written = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert b"b_" in done.stdout
    assert len(written) >= 1
    for text in (done.stdout, done.stderr, *written):
        assert SECRET.encode() not in text


async def test_no_repr_shows_it(app_with: AppFactory, simulator: Simulator, tmp_path: Path) -> None:
    settings = settings_for(simulator, tmp_path, REPLICATE_API_TOKEN=SECRET)
    async with app_with(REPLICATE_API_TOKEN=SECRET) as app:
        gateway = await app.gateway(app.caller())
        shown = [repr(settings), repr(app), repr(app.caller()), repr(gateway), str(settings)]
    assert isinstance(gateway, Gateway)
    assert not [text for text in shown if SECRET in text]
