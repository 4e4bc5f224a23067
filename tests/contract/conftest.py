"""Replicate's official OpenAPI document, and a simulator to check against it."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from contract.document import Document
from replicate_mcp.simulator import Simulator, running_simulator

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def document() -> Document:
    """Return the document named by REPLICATE_OPENAPI, else the one beside the repository."""
    path = Path(
        os.environ.get("REPLICATE_OPENAPI") or REPOSITORY / "../shared/replicate-openapi.json"
    )
    if not path.is_file():
        pytest.skip(
            "Replicate's OpenAPI document is not here: it is not ours to keep a copy of. Download "
            "it and name the file in REPLICATE_OPENAPI to run these tests."
        )
    return Document(json.loads(path.read_text("utf-8")))


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
        base_url=f"{simulator.url}/v1", headers={"authorization": "Bearer r8_acme_1"}, timeout=20
    ) as client:
        yield client
