"""The two contestants. Each gives a function that makes a batch of so many images."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from replicate.client import Client

from benchmarks.measuring.scenario import RATE
from replicate_mcp.app.app import App
from replicate_mcp.app.batches import BatchRequest
from replicate_mcp.settings import Settings

_MODEL = "black-forest-labs/flux-schnell"

Contestant = Literal["engine", "raw client"]

MakeBatch = Callable[[int], Coroutine[Any, Any, None]]
"""Makes so many images, and returns when all are there."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What both are given.

    Attributes:
        base_url: where the API is.
        account: whom the simulator counts for.
        limit: predictions in flight at once.
        backend: the engine's.
    """

    base_url: str
    account: str
    limit: int
    backend: str

    @property
    def token(self) -> str:
        """One of the account's: the simulator reads its name from it."""
        return f"r8_{self.account}_1"


def contestant(name: Contestant, conditions: Conditions) -> AbstractAsyncContextManager[MakeBatch]:
    """Set a contestant up; it makes batches until the end of the block."""
    return _engine(conditions) if name == "engine" else _raw_client(conditions)


@asynccontextmanager
async def _engine(conditions: Conditions) -> AsyncIterator[MakeBatch]:
    settings = Settings.model_validate(
        {
            "REPLICATE_API_TOKEN": conditions.token,
            "REPLICATE_BASE_URL": conditions.base_url,
            "REPLICATE_MCP_BACKEND": conditions.backend,
            "REPLICATE_CONCURRENT_LIMIT": conditions.limit,
            "REPLICATE_REQUESTS_PER_MINUTE": RATE,
        }
    )
    async with App.running(settings) as app:
        caller = app.caller()

        async def make_batch(count: int) -> None:
            batch_id = await app.batches.start(
                caller,
                BatchRequest(
                    [{"prompt": _prompt(number)} for number in range(count)], model=_MODEL
                ),
            )
            await app.batches.wait(caller, batch_id, seconds=None)
            result = await app.batches.result(caller, batch_id)
            assert result.successful_count == count, result.failed_results

        yield make_batch


@asynccontextmanager
async def _raw_client(conditions: Conditions) -> AsyncIterator[MakeBatch]:
    # As anyone would write it. From some 200 connections on, most of its time goes to httpx's pool,
    # which goes through all of them, many times over, for every request and every answer.
    connections = httpx.Limits(max_connections=conditions.limit + 10)
    transport = httpx.AsyncHTTPTransport(limits=connections)
    client = Client(api_token=conditions.token, base_url=conditions.base_url, transport=transport)
    room = asyncio.Semaphore(conditions.limit)

    async def make_one(number: int) -> None:
        async with room:
            prediction = await client.models.predictions.async_create(
                _MODEL, {"prompt": _prompt(number)}, wait=60
            )
            assert prediction.status == "succeeded", prediction.error

    async def make_batch(count: int) -> None:
        await asyncio.gather(*(make_one(number) for number in range(count)))

    try:
        yield make_batch
    finally:
        await transport.aclose()


def _prompt(number: int) -> str:
    return f"a red car {number}"
