"""Looking models up, by whatever name and however many at once."""

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from batches.playback import SCHEMA, Playback, running_playback
from conftest import AppFactory
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.callers_batches import BatchRequest
from replicate_mcp.errors import ModelNotFound
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.models import (
    MAX_CONCURRENT_LOOKUPS,
    MAX_SCHEMA_BYTES,
    ModelResolver,
)
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.models import ModelName


async def test_many_who_ask_for_one_model_at_once_cost_one_call(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(app.model_inputs, app.caller(), "flux-dev")
    assert simulator.stats()["requests"]["GET /v1/models/{owner}/{name}"] == 1


async def test_nothing_is_kept_of_models_that_are_made_up(app_with: AppFactory) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        before = _locks()
        for number in range(20):
            with pytest.raises(ModelNotFound):
                await app.batches.start(
                    app.caller(), BatchRequest([{"prompt": "x", "model": f"nobody/{number}"}])
                )
        assert _locks() == before


def _locks() -> int:
    gc.collect()
    return sum(isinstance(each, anyio.Lock) for each in gc.get_objects())


class Owned(Playback):
    """A model that Replicate shows to one token alone."""

    def __init__(self, *, visibility: str, padding: int = 0) -> None:
        super().__init__()
        self.visibility = visibility
        self._padding = "x" * padding

    def status(self, method: str, path: str, headers: dict[str, str]) -> str:
        """404 for everybody else."""
        owned = self.visibility == "private" and headers["authorization"].endswith("r8_alice")
        return "200 OK" if owned or self.visibility == "public" else "404 Not Found"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> str:
        """The model."""
        schema = {**SCHEMA, "info": {"description": self._padding}}
        version = {"id": "f" * 64, "openapi_schema": schema}
        return json.dumps({"visibility": self.visibility, "latest_version": version})


NAME = ModelName.parse("alice/secret")


@asynccontextmanager
async def looking_up(playback: Playback) -> AsyncIterator[tuple[ModelResolver, Gateway, Gateway]]:
    """What a process knows of models, and the gateways of two accounts."""
    backend = await SqliteBackend.open()
    alice, bob = (Gateway(f"r8_{name}", playback.url) for name in ("alice", "bob"))
    yield ModelResolver(backend), alice, bob
    for gateway in (alice, bob):
        await gateway.aclose()
    await backend.close()


async def test_what_is_known_of_a_private_model_is_known_to_its_account_alone() -> None:
    with running_playback(Owned(visibility="private")) as playback:
        async with looking_up(playback) as (models, alice, bob):
            found = await models.find(NAME, alice, "alice")
            assert found is not None
            assert found.schema is not None
            assert await models.find(NAME, bob, "bob") is None
            playback.visibility = "gone"  # Its account needs no second answer.
            assert await models.find(NAME, alice, "alice") == found


async def test_a_public_model_is_looked_up_once_for_all() -> None:
    with running_playback(Owned(visibility="public")) as playback:
        async with looking_up(playback) as (models, alice, bob):
            found = await models.find(NAME, alice, "alice")
            playback.visibility = "gone"
            assert found is not None
            assert await models.find(NAME, bob, "bob") == found


async def test_a_schema_over_a_megabyte_is_not_kept_and_replicate_judges() -> None:
    with running_playback(Owned(visibility="public", padding=MAX_SCHEMA_BYTES)) as playback:
        async with looking_up(playback) as (models, alice, _):
            found = await models.find(NAME, alice, "alice")
            playback.visibility = "gone"
            assert found is not None
            assert (found.schema, found.target.version) == (None, "f" * 64)
            assert await models.find(NAME, alice, "alice") == found  # That much is kept.


async def test_a_batch_of_many_models_asks_for_sixteen_at_once() -> None:
    with running_playback(Owned(visibility="public")) as playback:
        playback.delay_seconds = 0.2
        async with looking_up(playback) as (models, alice, _), anyio.create_task_group() as group:
            for number in range(100):
                name = ModelName.parse(f"alice/m{number}")
                group.start_soon(models.find, name, alice, "alice")
        assert playback.most_at_once == MAX_CONCURRENT_LOOKUPS
