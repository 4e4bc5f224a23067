"""Fixtures for tests over stdio: a real client of a real server, in both protocol eras."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.extension import ClientExtension
from mcp.client.session import ElicitationFnT
from mcp.client.stdio import stdio_client

from conftest import environment
from replicate_mcp.simulator import Simulator

Connect = Callable[..., AbstractAsyncContextManager[Client]]

ERAS = {"2025-11-25": "legacy", "2026-07-28": "auto"}


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """Return the protocol mode of the client."""
    return ERAS[request.param]


@pytest.fixture
def connect(simulator: Simulator, tmp_path: Path, era: str) -> Connect:
    """Return a function that starts a server and connects to it; keywords are settings.

    `ask` handles the server's elicitation requests; None for a client without elicitation.
    `extensions` are those that the client supports.
    """

    @asynccontextmanager
    async def start(
        ask: ElicitationFnT | None = None,
        extensions: Sequence[ClientExtension] = (),
        **changes: str,
    ) -> AsyncIterator[Client]:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "replicate_mcp"],
            env={**os.environ, **environment(simulator, tmp_path), **changes},
        )
        mode: Any = era
        to_server = stdio_client(server)
        async with Client(
            to_server, mode=mode, elicitation_callback=ask, extensions=extensions
        ) as client:
            yield client

    return start
