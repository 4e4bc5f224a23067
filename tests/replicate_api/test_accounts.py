"""The account of a token is requested once for all callers that send it."""

import gc
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import anyio
import pytest
from httpx import AsyncHTTPTransport

from conftest import AppFactory
from replicate_mcp.app import preparation
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.auth import Caller, HttpRequest
from replicate_mcp.errors import (
    ReplicateMcpError,
    ReplicateUnavailable,
    TooManyAttempts,
    Unauthorized,
)
from replicate_mcp.refused_credentials import MAX_REFUSED
from replicate_mcp.replicate_api import accounts, transport
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.simulator import Simulator

T = TypeVar("T")


async def test_concurrent_requests_with_one_rejected_token_cost_one_call(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.change_account("acme", revoke=["r8_acme_9"])
    refused = 0

    async with app_with() as app:

        async def ask() -> None:
            nonlocal refused
            with pytest.raises(Unauthorized):
                await app.semaphores.list_for(app.caller("r8_acme_9"))
            refused += 1

        await app.semaphores.list_for(app.caller())
        before = sum(simulator.stats()["requests"].values())
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(ask)
        assert refused == 30
        assert sum(simulator.stats()["requests"].values()) == before + 1


async def test_rejected_token_is_checked_again_by_later_requests(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.change_account("acme", revoke=["r8_acme_9"])
    async with app_with() as app:
        caller = app.caller("r8_acme_9")
        with pytest.raises(Unauthorized):
            await app.semaphores.list_for(caller)
        simulator.change_account("acme", restore=["r8_acme_9"])
        assert len(await app.semaphores.list_for(caller)) == 1


def over_http(app: App, token: str, source: str = "192.0.2.1") -> Caller:
    """Return the request context of a token sent from an address."""
    return app.access.authenticate(HttpRequest({"x-replicate-api-key": token}, source=source))


def asked(simulator: Simulator) -> int:
    """Return how often Replicate was asked for the account."""
    found: int = simulator.stats()["requests"].get("GET /v1/account", 0)
    return found


async def test_rejected_http_token_is_not_resent_for_a_while(
    app_with: AppFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.change_account("acme", revoke=["r8_acme_9"])
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        before = asked(simulator)
        for source in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            with pytest.raises(Unauthorized, match="Replicate refused the token"):
                await app.semaphores.list_for(over_http(app, "r8_acme_9", source))
        assert asked(simulator) == before + 1
        simulator.change_account("acme", restore=["r8_acme_9"])
        monkeypatch.setattr(accounts, "REFUSED_SECONDS", 0)
        assert len(await app.semaphores.list_for(over_http(app, "r8_acme_9"))) == 1


@pytest.mark.parametrize("concurrently", [False, True])
async def test_rejected_tokens_are_limited_per_address(
    app_with: AppFactory, simulator: Simulator, concurrently: bool
) -> None:
    made_up = refused_tokens(simulator, MAX_REFUSED * 3)
    outcomes: Counter[type[Exception]] = Counter()
    async with app_with() as app:
        await app.semaphores.list_for(over_http(app, "r8_known_1"))
        before = asked(simulator)

        async def ask(token: str) -> None:
            try:
                await app.semaphores.list_for(over_http(app, token))
            except ReplicateMcpError as error:
                outcomes[type(error)] += 1

        async with anyio.create_task_group() as group:
            for token in made_up:
                group.start_soon(ask, token) if concurrently else await ask(token)
        assert asked(simulator) - before == MAX_REFUSED
        assert outcomes == {Unauthorized: MAX_REFUSED, TooManyAttempts: 2 * MAX_REFUSED}
        with pytest.raises(TooManyAttempts, match=r"send it again in [1-9]"):
            await app.semaphores.list_for(over_http(app, "r8_another_1"))
        # Known tokens still work, and so do other addresses and this machine's user.
        await app.semaphores.list_for(over_http(app, "r8_known_1"))
        await app.semaphores.list_for(over_http(app, "r8_another_1", "192.0.2.2"))
        await app.semaphores.list_for(app.caller())
        await app.semaphores.list_for(app.caller("r8_third_1"))


async def test_many_valid_tokens_from_one_address_are_all_accepted(
    app_with: AppFactory, simulator: Simulator
) -> None:
    known = 0

    async with app_with() as app:

        async def ask(token: str) -> None:
            nonlocal known
            await app.semaphores.list_for(over_http(app, token))
            known += 1

        async with anyio.create_task_group() as group:
            for number in range(MAX_REFUSED * 3):
                group.start_soon(ask, f"r8_team{number}_1")
    assert known == MAX_REFUSED * 3


async def test_silent_replicate_rejects_a_request_before_its_client_times_out(
    app_with: AppFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "PREPARE_TIMEOUT_SECONDS", 1.5)
    async with app_with() as app:
        simulator.fault_next("silence", 20, on="get")
        with (
            anyio.fail_after(10),
            pytest.raises(ReplicateUnavailable, match="did not answer within"),
        ):
            await app.batches.start(app.caller(), BatchRequest([{"prompt": "x"}]))
    assert simulator.account("acme")["created"] == 0


def refused_tokens(simulator: Simulator, count: int = 20) -> list[str]:
    """Return tokens to which Replicate responds with 401."""
    tokens = [f"r8_unknown_{number}" for number in range(count)]
    simulator.change_account("unknown", revoke=tokens)
    return tokens


async def test_invalid_tokens_leave_no_gateways(app_with: AppFactory, simulator: Simulator) -> None:
    made_up = refused_tokens(simulator)
    before = new_objects(Gateway)
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        for token in made_up:
            with pytest.raises(Unauthorized):
                await app.semaphores.list_for(app.caller(token))
        assert len(new_objects(Gateway, before)) == 1


async def test_model_search_with_invalid_tokens_leaves_no_gateways(
    app_with: AppFactory, simulator: Simulator
) -> None:
    made_up = refused_tokens(simulator)
    before = new_objects(Gateway)
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        for token in made_up:
            caller = partial(app.caller, token)
            with pytest.raises(Unauthorized):
                await app.find_models("zeppelins", caller)
            with pytest.raises(Unauthorized):
                await app.model_inputs(caller(), "somebody/something")
            found = await app.find_models("posters", caller)
            assert found.models
            assert "Replicate refused the token" in found.note
        assert len(new_objects(Gateway, before)) == 1


async def test_cancelled_request_with_an_unknown_token_leaves_no_gateway(
    app_with: AppFactory, simulator: Simulator
) -> None:
    before = new_objects(Gateway)
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        simulator.fault_next("silence", 1, on="get")
        async with anyio.create_task_group() as group:
            group.start_soon(app.semaphores.list_for, app.caller("r8_acme_2"))
            while len(new_objects(Gateway, before)) == 1:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        assert len(new_objects(Gateway, before)) == 1


async def test_idle_connections_are_closed(
    app_with: AppFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = new_objects(AsyncHTTPTransport)
    monkeypatch.setattr(accounts, "KEEPALIVE_SECONDS", 0.2)
    monkeypatch.setattr(transport, "KEEPALIVE_SECONDS", 0.2)
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        with anyio.fail_after(10):
            while new_objects(AsyncHTTPTransport, before):
                await anyio.sleep(0.05)


def new_objects(kind: type[T], before: Sequence[object] = ()) -> list[T]:
    """Return this process's objects of a class, except those in `before`."""
    gc.collect()
    known = {id(each) for each in before}
    return [each for each in gc.get_objects() if isinstance(each, kind) and id(each) not in known]
