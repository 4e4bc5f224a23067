"""The two contestants, each of which provides a function that makes a batch of images."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from replicate.client import Client

from benchmarks.measuring.scenario import RATE
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.settings import Settings

_MODEL = "black-forest-labs/flux-schnell"

Contestant = Literal["engine", "raw client"]

MakeBatch = Callable[[int], Coroutine[Any, Any, None]]
"""Makes the given number of images, and returns when all are finished."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that are the same for both contestants.

    Attributes:
        base_url: URL of the API.
        account: account at the simulator.
        limit: maximum number of concurrent predictions.
        backend: backend setting of the engine.
    """

    base_url: str
    account: str
    limit: int
    backend: str

    @property
    def token(self) -> str:
        """Token of the account, from which the simulator takes the account's name."""
        return f"r8_{self.account}_1"


def contestant(name: Contestant, conditions: Conditions) -> AbstractAsyncContextManager[MakeBatch]:
    """Set up a contestant that makes batches until the end of the block."""
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
    # Written the obvious way. From about 200 connections on, most of its time is spent in httpx's
    # pool, which iterates over all connections several times for every request and response.
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
