"""What tests of several rooms need: a simulator, and an app that works against it."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from pathlib import Path
from typing import Any

import pytest

from backends.servers import RunningServer, running_server
from replicate_mcp.app.app import App
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator, running_simulator

TOKEN = "r8_acme_1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many workers `-n auto` starts: tests wait for servers a third of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(2, (cores or 1) * 3 // 2)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Replicate's stand-in, with predictions that take no time and a rate out of the way."""
    with simulator_without_a_rate() as running:
        yield running


def simulator_without_a_rate() -> AbstractContextManager[Simulator]:
    """One whose rate is out of the way, for as long as the block lasts."""
    return running_simulator(
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
    )


@pytest.fixture
def settings(simulator: Simulator, tmp_path: Path) -> Settings:
    """The settings of a server that uses the simulator, and a state file of its own."""
    return settings_for(simulator, tmp_path)


def settings_for(simulator: Simulator, folder: Path, **changes: Any) -> Settings:
    """Settings by their environment names."""
    return Settings.model_validate(environment(simulator, folder) | changes)


def environment(simulator: Simulator, folder: Path, token: str = TOKEN) -> dict[str, str]:
    """The variables of a server that uses the simulator."""
    return {
        "REPLICATE_API_TOKEN": token,
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_MCP_BACKEND": f"sqlite:///{folder / 'state.db'}",
        "REPLICATE_REQUESTS_PER_MINUTE": "60000",
    }


AppFactory = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def app_with(simulator: Simulator, tmp_path: Path) -> AppFactory:
    """Makes apps as separate processes would have them, over one state file."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[App]:
        async with App.running(settings_for(simulator, tmp_path, **changes)) as app:
            yield app

    return make


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], RunningServer]]:
    """A real server of each kind, Redis and Valkey, started when the first test needs it."""
    running: dict[str, RunningServer] = {}
    with ExitStack() as stack:

        def server(kind: str) -> RunningServer:
            if kind not in running:
                running[kind] = stack.enter_context(running_server(kind))
            return running[kind]

        yield server
