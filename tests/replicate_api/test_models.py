"""Looking models up, by whatever name and however many at once."""

import gc

import anyio
import pytest

from conftest import AppFactory
from replicate_mcp.callers_batches import BatchRequest
from replicate_mcp.errors import ModelNotFound
from replicate_mcp.simulator import Simulator


async def test_many_who_ask_for_one_model_at_once_cost_one_call(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.seen_by(app.caller())
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(app.model_inputs, app.caller(), "flux-dev")
    assert simulator.stats()["requests"]["GET /v1/models/{owner}/{name}"] == 1


async def test_nothing_is_kept_of_models_that_are_made_up(app_with: AppFactory) -> None:
    async with app_with() as app:
        await app.semaphores.seen_by(app.caller())
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
