"""Tokens do not appear in any log, error, file or repr."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from backends.servers import KINDS, RunningServer
from conftest import AppFactory, environment, settings_for
from fork_server import FORKABLE
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


def test_token_is_absent_from_output_logs_and_state_file(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.fault_next("reset_after")
    around = {**os.environ, **environment(simulator, tmp_path, token=SECRET)}
    done = subprocess.run(
        [sys.executable, "-c", FORKABLE + PROGRAM],
        env=around,
        capture_output=True,
        check=True,
        timeout=60,
    )
    written = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert b"b_" in done.stdout
    assert len(written) >= 1
    for text in (done.stdout, done.stderr, *written):
        assert SECRET.encode() not in text


def test_token_is_absent_from_the_state_file_of_a_running_process(
    simulator: Simulator, tmp_path: Path
) -> None:
    around = {**os.environ, **environment(simulator, tmp_path, token=SECRET)}
    path = tmp_path / "state.db"
    subprocess.run(
        [sys.executable, "-c", FORKABLE + PROGRAM], env=around, capture_output=True, check=True
    )
    # Our open connection keeps the write-ahead log from being removed at the end.
    with closing(sqlite3.connect(path)) as reading:
        assert reading.execute("SELECT count(*) FROM batch").fetchone() == (1,)
        subprocess.run(
            [sys.executable, "-c", FORKABLE + PROGRAM], env=around, capture_output=True, check=True
        )
        written = {each.name: each.read_bytes() for each in tmp_path.glob("state.db*")}
    assert written["state.db-wal"]
    for content in written.values():
        assert SECRET.encode() not in content


@pytest.mark.parametrize("kind", KINDS)
def test_token_is_absent_from_redis_keys_and_values(
    kind: str,
    servers: Callable[[str], RunningServer],
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    server, prefix = servers(kind), token_hex(4)
    around: dict[str, str] = {
        **os.environ,
        **environment(simulator, tmp_path, token=SECRET),
        "REPLICATE_MCP_BACKEND": server.url(prefix, lease=0.5),
    }
    subprocess.run(
        [sys.executable, "-c", FORKABLE + PROGRAM], env=around, capture_output=True, check=True
    )
    with server.client as client:
        keys = client.keys(f"{{{prefix}}}:*")
        assert any("batch:" in key for key in keys)
        kept = {key: _content(client, key) for key in keys}
    assert "a red car" in str(kept)
    assert SECRET not in str(kept)


def _content(client: Any, key: str) -> object:
    """Return the content of a key of any type; packed records stay packed."""
    match client.type(key):
        case "string":
            return client.get(key)
        case "list":
            return client.lrange(key, 0, -1)
        case "zset":
            return client.zrange(key, 0, -1)
        case "set":
            return client.smembers(key)
        case _:
            fields = client.execute_command("HGETALL", key, NEVER_DECODE=True)
            return [*fields, *fields.values()] if isinstance(fields, dict) else fields


async def test_token_is_absent_from_every_repr(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    settings = settings_for(simulator, tmp_path, REPLICATE_API_TOKEN=SECRET)
    async with app_with(REPLICATE_API_TOKEN=SECRET) as app:
        gateway = await app.gateway(app.caller())
        shown = [repr(settings), repr(app), repr(app.caller()), repr(gateway), str(settings)]
    assert isinstance(gateway, Gateway)
    assert not [text for text in shown if SECRET in text]
