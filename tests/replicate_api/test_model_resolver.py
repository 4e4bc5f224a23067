"""Model resolution by any form of name, including concurrent lookups."""

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from batches.playback import SCHEMA, Playback, running_playback
from conftest import AppFactory
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import ModelNotFound
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.model_resolver import (
    MAX_CONCURRENT_LOOKUPS,
    MAX_SCHEMA_BYTES,
    ModelResolver,
)
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.model_name import ModelName


async def test_concurrent_lookups_of_one_model_share_one_call(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(app.model_inputs, app.caller(), "flux-dev")
    assert simulator.stats()["requests"]["GET /v1/models/{owner}/{name}"] == 1


async def test_unknown_models_are_not_cached(app_with: AppFactory) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        before = _locks()
        for number in range(20):
            with pytest.raises(ModelNotFound):
                await app.batches.start(
                    app.caller(), BatchRequest([{"prompt": "x", "model": f"unknown/{number}"}])
                )
        assert _locks() == before


def _locks() -> int:
    gc.collect()
    return sum(isinstance(each, anyio.Lock) for each in gc.get_objects())


class Owned(Playback):
    """A model that Replicate shows only to one token."""

    def __init__(self, *, visibility: str, padding: int = 0) -> None:
        super().__init__()
        self.visibility = visibility
        self._padding = "x" * padding

    def status(self, method: str, path: str, headers: dict[str, str]) -> str:
        """Return 404 for any other token."""
        owned = self.visibility == "private" and headers["authorization"].endswith("r8_alice")
        return "200 OK" if owned or self.visibility == "public" else "404 Not Found"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> str:
        """Return the model."""
        schema = {**SCHEMA, "info": {"description": self._padding}}
        version = {"id": "f" * 64, "openapi_schema": schema}
        return json.dumps({"visibility": self.visibility, "latest_version": version})


NAME = ModelName.parse("alice/secret")


@asynccontextmanager
async def resolver_and_gateways(
    playback: Playback,
) -> AsyncIterator[tuple[ModelResolver, Gateway, Gateway]]:
    """Return a process's model resolver, and the gateways of two accounts."""
    backend = await SqliteBackend.open()
    alice, bob = (Gateway(f"r8_{name}", playback.url) for name in ("alice", "bob"))
    yield ModelResolver(backend), alice, bob
    for gateway in (alice, bob):
        await gateway.aclose()
    await backend.close()


async def test_private_model_is_cached_only_for_its_account() -> None:
    with running_playback(Owned(visibility="private")) as playback:
        async with resolver_and_gateways(playback) as (models, alice, bob):
            found = await models.find(NAME, alice, "alice")
            assert found is not None
            assert found.schema is not None
            assert await models.find(NAME, bob, "bob") is None
            playback.visibility = "gone"  # Its account needs no second response.
            assert await models.find(NAME, alice, "alice") == found


async def test_public_model_is_cached_for_all_accounts() -> None:
    with running_playback(Owned(visibility="public")) as playback:
        async with resolver_and_gateways(playback) as (models, alice, bob):
            found = await models.find(NAME, alice, "alice")
            playback.visibility = "gone"
            assert found is not None
            assert await models.find(NAME, bob, "bob") == found


async def test_schema_over_a_megabyte_is_not_kept_and_validation_is_left_to_replicate() -> None:
    with running_playback(Owned(visibility="public", padding=MAX_SCHEMA_BYTES)) as playback:
        async with resolver_and_gateways(playback) as (models, alice, _):
            found = await models.find(NAME, alice, "alice")
            playback.visibility = "gone"
            assert found is not None
            assert (found.schema, found.target.version) == (None, "f" * 64)
            assert await models.find(NAME, alice, "alice") == found  # The model itself is cached.


async def test_model_lookups_are_limited_to_sixteen_concurrently() -> None:
    with running_playback(Owned(visibility="public")) as playback:
        playback.delay_seconds = 0.2
        async with (
            resolver_and_gateways(playback) as (models, alice, _),
            anyio.create_task_group() as group,
        ):
            for number in range(100):
                name = ModelName.parse(f"alice/m{number}")
                group.start_soon(models.find, name, alice, "alice")
        assert playback.max_concurrent_requests == MAX_CONCURRENT_LOOKUPS
