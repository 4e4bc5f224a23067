"""Two replicas with a Valkey behind the proxy, as in `docker-compose.yml`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from backends.servers import RunningServer, open_for_admission
from conftest import environment, simulator_without_a_rate
from deploy.proxy import LOG, running_proxy
from http_api.conftest import Server, running_server
from replicate_mcp.simulator import Simulator

LIMIT = 4

CONFIRM_ABOVE = 10

LEASE_SECONDS = 2.0

ACCOUNTS = [f"team{number}" for number in range(24)]
"""One for each test: they share a simulator, and most of them a fleet."""


class Fleet:
    """Both replicas behind their proxy, and a caller with its own token.

    Attributes:
        client: the caller's client at the proxy.
        replicas: the caller's client at each replica.
        log: the proxy's.
    """

    def __init__(
        self, url: str, servers: tuple[Server, Server], account: str, folder: Path
    ) -> None:
        self.url = url
        self.log = folder / LOG
        self.servers = servers
        self.account = account
        self.credentials = {"authorization": f"Bearer r8_{account}_1"}
        self.client, *self.replicas = (
            httpx.Client(base_url=place, headers=self.credentials, timeout=60)
            for place in (url, *(server.url for server in servers))
        )

    def close(self) -> None:
        for client in (self.client, *self.replicas):
            client.close()

    def ended(self, batch_id: str) -> Any:
        return self.client.get(f"/batches/{batch_id}", params={"wait_seconds": 30}).json()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Return a simulator for all tests of a module."""
    with simulator_without_a_rate() as running:
        yield running


@pytest.fixture(scope="module")
def accounts() -> Iterator[str]:
    """Return the numbers of accounts that no test has used."""
    return iter(ACCOUNTS)


@contextmanager
def running_fleet(
    simulator: Simulator, valkey: RunningServer, folder: Path
) -> Iterator[tuple[str, tuple[Server, Server]]]:
    """Run a proxy and the two replicas behind it; yield their addresses."""
    anyio.run(open_for_admission, valkey, folder.name, *ACCOUNTS)
    variables = environment(simulator, folder) | {
        "REPLICATE_MCP_BACKEND": valkey.url(folder.name, lease=LEASE_SECONDS),
        "REPLICATE_CONCURRENT_LIMIT": str(LIMIT),
        "REPLICATE_MCP_CONFIRM_ABOVE": str(CONFIRM_ABOVE),
    }
    with (
        running_server(variables) as first,
        running_server(variables) as second,
    ):
        places = [replica.url.removeprefix("http://") for replica in (first, second)]
        with running_proxy(folder, *places) as url:
            yield url, (first, second)


@pytest.fixture(scope="module")
def whole_fleet(
    simulator: Simulator,
    servers: Callable[[str], RunningServer],
    accounts: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Fleet]]:
    """Return a fleet shared by all tests that do not break it."""
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(simulator, servers("valkey"), folder) as (url, running):
        yield lambda: Fleet(url, running, next(accounts), folder)


@pytest.fixture
def fleet(whole_fleet: Callable[[], Fleet], simulator: Simulator) -> Iterator[Fleet]:
    """Return the shared fleet, which the test must not break."""
    simulator.configure(predict_seconds=0)
    found = whole_fleet()
    yield found
    found.close()


@pytest.fixture
def breakable_fleet(
    simulator: Simulator,
    servers: Callable[[str], RunningServer],
    accounts: Iterator[str],
    tmp_path: Path,
) -> Iterator[Fleet]:
    """Return a fleet for one test, which may break it."""
    simulator.configure(predict_seconds=0)
    with running_fleet(simulator, servers("valkey"), tmp_path) as (url, running):
        found = Fleet(url, running, next(accounts), tmp_path)
        yield found
        found.close()
