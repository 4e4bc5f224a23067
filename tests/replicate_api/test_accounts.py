"""Whose token a token is: asked for once, whoever and however many bring it."""

import gc
from functools import partial
from typing import Any

import anyio
import pytest
from httpx import AsyncHTTPTransport

from conftest import AppFactory
from replicate_mcp import callers_batches
from replicate_mcp.callers_batches import BatchRequest
from replicate_mcp.errors import ReplicateUnavailable, Unauthorized
from replicate_mcp.replicate_api import accounts, transport
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.simulator import Simulator


async def test_many_who_bring_one_refused_token_cost_one_call(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.change_account("acme", revoke=["r8_acme_9"])
    refused = 0

    async with app_with() as app:

        async def ask() -> None:
            nonlocal refused
            with pytest.raises(Unauthorized):
                await app.semaphores.seen_by(app.caller("r8_acme_9"))
            refused += 1

        await app.semaphores.seen_by(app.caller())
        before = sum(simulator.stats()["requests"].values())
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(ask)
        assert refused == 30
        assert sum(simulator.stats()["requests"].values()) == before + 1


async def test_a_token_that_was_refused_is_asked_for_again_by_who_comes_later(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.change_account("acme", revoke=["r8_acme_9"])
    async with app_with() as app:
        caller = app.caller("r8_acme_9")
        with pytest.raises(Unauthorized):
            await app.semaphores.seen_by(caller)
        simulator.change_account("acme", restore=["r8_acme_9"])
        assert len(await app.semaphores.seen_by(caller)) == 1


async def test_a_silent_replicate_refuses_a_request_while_its_host_still_waits(
    app_with: AppFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers_batches, "LOOK_UP_SECONDS", 1.5)
    async with app_with() as app:
        simulator.fault_next("silence", 20, on="get")
        with (
            anyio.fail_after(10),
            pytest.raises(ReplicateUnavailable, match="did not answer within"),
        ):
            await app.batches.start(app.caller(), BatchRequest([{"prompt": "x"}]))
    assert simulator.account("acme")["created"] == 0


def refused_tokens(simulator: Simulator) -> list[str]:
    """Some that Replicate answers 401."""
    tokens = [f"r8_nobody_{number}" for number in range(20)]
    simulator.change_account("nobody", revoke=tokens)
    return tokens


async def test_nothing_is_kept_of_tokens_that_are_made_up(
    app_with: AppFactory, simulator: Simulator
) -> None:
    made_up = refused_tokens(simulator)
    async with app_with() as app:
        await app.semaphores.seen_by(app.caller())
        for token in made_up:
            with pytest.raises(Unauthorized):
                await app.semaphores.seen_by(app.caller(token))
        assert alive(Gateway) == 1


async def test_nothing_is_kept_of_made_up_tokens_that_look_for_models(
    app_with: AppFactory, simulator: Simulator
) -> None:
    made_up = refused_tokens(simulator)
    async with app_with() as app:
        await app.semaphores.seen_by(app.caller())
        for token in made_up:
            caller = partial(app.caller, token)
            with pytest.raises(Unauthorized):
                await app.find_models("zeppelins", caller)
            with pytest.raises(Unauthorized):
                await app.model_inputs(caller(), "somebody/something")
            found = await app.find_models("posters", caller)
            assert found.models
            assert "Replicate refused the token" in found.note
        assert alive(Gateway) == 1


async def test_nothing_is_kept_of_a_token_whose_bringer_went_before_it_was_known(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.seen_by(app.caller())
        simulator.fault_next("silence", 1, on="get")
        async with anyio.create_task_group() as group:
            group.start_soon(app.semaphores.seen_by, app.caller("r8_acme_2"))
            while alive(Gateway) == 1:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        assert alive(Gateway) == 1


async def test_connections_that_nobody_uses_are_closed(
    app_with: AppFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "KEEPALIVE_SECONDS", 0.2)
    monkeypatch.setattr(transport, "KEEPALIVE_SECONDS", 0.2)
    async with app_with() as app:
        await app.semaphores.seen_by(app.caller())
        with anyio.fail_after(10):
            while alive(AsyncHTTPTransport):
                await anyio.sleep(0.05)


def alive(kind: type[Any]) -> int:
    """How many of a kind this process has."""
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())
