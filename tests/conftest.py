"""Shared fixtures: a simulator, and an app that uses it."""

import gc
import os
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import fork_server
from backends.servers import RunningServer, running_server
from replicate_mcp.app.app import App
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator, running_simulator
from short_intervals import shorten

TOKEN = "r8_acme_1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers for `-n auto`: tests wait for servers half of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 2 * (cores or 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="start programs as users do, without a fork server, and try more random examples",
    )


def pytest_configure(config: pytest.Config) -> None:
    is_thorough = config.getoption("--thorough")
    hypothesis.settings.register_profile("chosen", max_examples=300 if is_thorough else 50)
    hypothesis.settings.load_profile("chosen")
    if not is_thorough:
        fork_server.install()

    gc.disable()  # Of what collection makes, nearly everything stays.


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # Thousands of tests, and their modules, stay to the end.
    gc.enable()


ALTERNATIVES = ("redis", "valkey")
"""Values of a parameter: servers that hardly differ.

`make test` tries one of them for each test function, not always the same, and `make soak` the
other.
"""


def is_left_out(item: pytest.Item, collected: Collection[str]) -> bool:
    """Return whether `make test` tries the same test with the alternative only."""
    function, _, parameters = item.nodeid.partition("[")
    tried = ALTERNATIVES[zlib.crc32(function.encode()) % len(ALTERNATIVES)]
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(
        f"{function}[{parameters.replace(value, tried)}" in collected
        for value in values
        if value in ALTERNATIVES and value != tried
    )


SERVER_FIXTURES = {"playback", "server", "servers", "shared_server", "simulator"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    collected = {item.nodeid for item in items}
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if is_left_out(item, collected):
            item.add_marker("alternative")
    # One worker begins with them, and the others take over the rest of its share.
    items.sort(key=lambda item: item.get_closest_marker("long_wait") is None)


def pytest_unconfigure() -> None:
    fork_server.uninstall()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Return Replicate's stand-in, with immediate predictions and no effective rate limit."""
    with simulator_without_a_rate() as running:
        yield running


def simulator_without_a_rate() -> AbstractContextManager[Simulator]:
    """Run a simulator without an effective rate limit while the block runs."""
    return running_simulator(
        requests_per_minute=60_000,
        burst=60_000,
        other_requests_per_minute=60_000,
        other_burst=60_000,
    )


@pytest.fixture
def settings(simulator: Simulator, tmp_path: Path) -> Settings:
    """Return the settings of a server that uses the simulator and its own state file."""
    return settings_for(simulator, tmp_path)


def settings_for(simulator: Simulator, folder: Path, **changes: Any) -> Settings:
    """Return settings by their environment names."""
    return Settings.model_validate(environment(simulator, folder) | changes)


def environment(simulator: Simulator, folder: Path, token: str = TOKEN) -> dict[str, str]:
    """Return the environment variables of a server that uses the simulator."""
    return {
        "REPLICATE_API_TOKEN": token,
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_MCP_BACKEND": f"sqlite:///{folder / 'state.db'}",
        "REPLICATE_REQUESTS_PER_MINUTE": "60000",
    }


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals of polls, retries and the grace period of the list of predictions."""
    shorten(monkeypatch)


AppFactory = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def app_with(simulator: Simulator, tmp_path: Path) -> AppFactory:
    """Return a function that opens apps over one state file, like separate processes."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[App]:
        async with App.running(settings_for(simulator, tmp_path, **changes)) as app:
            yield app

    return make


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], RunningServer]]:
    """Return a real server of each kind, Redis and Valkey, started at its first use."""
    running: dict[str, RunningServer] = {}
    with ExitStack() as stack:

        def server(kind: str) -> RunningServer:
            if kind not in running:
                running[kind] = stack.enter_context(running_server(kind))
            return running[kind]

        yield server
