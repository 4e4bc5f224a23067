"""A real client of a real server over stdio, in both eras of the protocol."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.session import ElicitationFnT
from mcp.client.stdio import stdio_client

from conftest import environment
from replicate_mcp.simulator import Simulator

Connect = Callable[..., AbstractAsyncContextManager[Client]]

ERAS = {"2025-11-25": "legacy", "2026-07-28": "auto"}


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """How the client is told to speak."""
    return ERAS[request.param]


@pytest.fixture
def connect(simulator: Simulator, tmp_path: Path, era: str) -> Connect:
    """Starts a server of its own and connects to it; keywords are settings.

    `ask` is what the client does when the server asks its user; None for a client that cannot.
    """

    @asynccontextmanager
    async def start(ask: ElicitationFnT | None = None, **changes: str) -> AsyncIterator[Client]:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "replicate_mcp"],
            env={**os.environ, **environment(simulator, tmp_path), **changes},
        )
        mode: Any = era
        to_server = stdio_client(server)
        async with Client(to_server, mode=mode, elicitation_callback=ask) as client:
            yield client

    return start
