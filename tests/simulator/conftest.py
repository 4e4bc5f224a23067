"""One simulator for all tests of a worker, reset for each of them."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from replicate_mcp.simulator import Simulator, running_simulator


@pytest.fixture(scope="session")
def _shared_simulator() -> Iterator[Simulator]:
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(_shared_simulator: Simulator) -> Simulator:
    _shared_simulator.reset()
    return _shared_simulator


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=simulator.url, headers={"authorization": "Bearer r8_acme_1"}, timeout=20
    ) as client:
        yield client
