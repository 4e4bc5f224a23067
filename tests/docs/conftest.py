"""A sandbox for each page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.servers import running_server
from docs.blocks import PAGES, ROOT
from docs.sandbox import REDIS, Sandbox, require_the_programs
from http_api.conftest import serve, server  # noqa: F401 - fixtures
from replicate_mcp.simulator import Simulator


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Start a Valkey server with the documented settings."""
    with running_server("valkey", "--appendonly", "yes") as running:
        yield running.url("docs")


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Parametrize over all pages, including the README."""
    found: Path = request.param
    return found


@pytest.fixture
def sandbox(
    request: pytest.FixtureRequest, page: Path, tmp_path: Path, simulator: Simulator
) -> Iterator[Sandbox]:
    """Create a home directory for the page."""
    require_the_programs()
    elsewhere = {}
    if REDIS in page.read_text("utf-8"):
        elsewhere[REDIS] = request.getfixturevalue("redis_url")
    made = Sandbox(tmp_path, simulator, elsewhere)
    yield made
    made.close()
