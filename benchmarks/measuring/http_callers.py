"""Those who ask for images: the server's callers over HTTP, and the raw client beside them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from replicate.client import Client

from benchmarks.measuring.cost import seconds_without_core
from benchmarks.measuring.http_server import running_http_server
from replicate_mcp.simulator import Simulator

LIMIT = 60
CALLERS, TASKS_EACH, PREDICT_SECONDS = 200, 5, 0.5
"""All at once."""

SINGLES, SINGLE_PREDICT_SECONDS = 100, 0.2
"""One after another."""

_MODEL = "black-forest-labs/flux-schnell"

Batch = Callable[[int], Awaitable[int]]
"""Asks for so many images at once, and tells how many were made."""


@dataclass(frozen=True, slots=True)
class Asker:
    """One of the two.

    Attributes:
        account: whom the simulator counts its predictions for.
        batches: how many batches it asks for at once, and `batch_tasks` in each.
    """

    name: str
    account: str
    ask: Batch
    batches: int
    batch_tasks: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one asker's images.

    Attributes:
        total_seconds: of all that were asked for at once.
        held_up: how much of that its processes and the simulator waited for a core, together.
        overhead_ms: of each single request: its time without what the simulator took.
        missing: images that were asked for, and not made.
        exceeded: by how many predictions in flight the limit was exceeded.
    """

    name: str
    total_seconds: float
    held_up: float
    overhead_ms: list[float]
    missing: int
    exceeded: int


async def measure(simulator: Simulator) -> list[Asked]:
    """Have both ask for the same, in turn; the single requests even one by one."""
    with running_http_server(simulator.url, account="ours", limit=LIMIT) as server:
        async with _http(server.address) as ours, _raw_client(simulator.url) as raw:
            askers = (raw, ours)
            for asker in askers:  # Imports, schemas and the account count for neither.
                await asker.ask(1)
            simulator.configure(predict_seconds=PREDICT_SECONDS)
            processes = ([None, simulator.pid], [None, simulator.pid, server.pid])
            totals = [
                await _all_at_once(asker, pids)
                for asker, pids in zip(askers, processes, strict=True)
            ]
            simulator.configure(predict_seconds=SINGLE_PREDICT_SECONDS)
            took: dict[str, list[float]] = {asker.account: [] for asker in askers}
            made = dict.fromkeys(took, 0)
            for _ in range(SINGLES):
                for asker in askers:
                    began = time.perf_counter()
                    made[asker.account] += await asker.ask(1)
                    took[asker.account].append(time.perf_counter() - began)
    return [
        _asked(asker, simulator, total, took[asker.account], made[asker.account])
        for asker, total in zip(askers, totals, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Total:
    seconds: float
    held_up: float
    made: int


async def _all_at_once(asker: Asker, pids: Sequence[int | None]) -> _Total:
    waited, began = sum(map(seconds_without_core, pids)), time.perf_counter()
    made = await asyncio.gather(*(asker.ask(asker.batch_tasks) for _ in range(asker.batches)))
    seconds = time.perf_counter() - began
    return _Total(seconds, (sum(map(seconds_without_core, pids)) - waited) / seconds, sum(made))


def _asked(
    asker: Asker, simulator: Simulator, total: _Total, took: list[float], made: int
) -> Asked:
    singles = simulator.predictions(asker.account)[-SINGLES:]
    overhead = [
        (one - (prediction["ended"] - prediction["created"])) * 1_000
        for one, prediction in zip(took, singles, strict=True)
    ]
    return Asked(
        name=asker.name,
        total_seconds=total.seconds,
        held_up=total.held_up,
        overhead_ms=overhead,
        missing=CALLERS * TASKS_EACH + SINGLES - total.made - made,
        exceeded=max(0, simulator.account(asker.account)["max_in_flight"] - LIMIT),
    )


@asynccontextmanager
async def _http(address: str) -> AsyncIterator[Asker]:
    connections = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(base_url=address, timeout=None, limits=connections) as client:

        async def ask(count: int) -> int:
            if count == 1:
                answer = await client.post("/generate", json={"prompt": "a red car"})
                return int(answer.is_success and answer.json()["success"])
            prompts = [f"a red car {number}" for number in range(count)]
            answer = await client.post("/generate-batch", json={"prompts": prompts})
            return int(answer.json()["successful_count"]) if answer.is_success else 0

        yield Asker("serve --http", "ours", ask, CALLERS, TASKS_EACH)


@asynccontextmanager
async def _raw_client(base_url: str) -> AsyncIterator[Asker]:
    connections = httpx.Limits(max_connections=LIMIT + 10)
    transport = httpx.AsyncHTTPTransport(limits=connections)
    client = Client(api_token="r8_raw_1", base_url=base_url, transport=transport)
    room = asyncio.Semaphore(LIMIT)

    async def make_one(number: int) -> int:
        async with room:
            prediction = await client.models.predictions.async_create(
                _MODEL, {"prompt": f"a red car {number}"}, wait=60
            )
            return int(prediction.status == "succeeded")

    async def ask(count: int) -> int:
        return sum(await asyncio.gather(*map(make_one, range(count))))

    yield Asker("raw client", "raw", ask, 1, CALLERS * TASKS_EACH)
    await transport.aclose()
