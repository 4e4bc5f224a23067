"""Load from HTTP callers of one server and of two replicas, compared with the raw client."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count

import anyio
import httpx
from replicate.client import Client

from benchmarks.measuring.cost import seconds_without_core
from benchmarks.measuring.http_server import HttpServer, running_http_server
from benchmarks.measuring.places import places
from replicate_mcp.simulator import Simulator

LIMIT = 60
CALLERS, TASKS_EACH, PREDICT_SECONDS = 200, 5, 0.5
"""Load of the concurrent requests."""

SINGLES, SINGLE_PREDICT_SECONDS = 100, 0.2
"""Load of the sequential requests."""

ASKED_FOR = CALLERS * TASKS_EACH + SINGLES
"""Number of images requested in each setup."""

_MODEL = "black-forest-labs/flux-schnell"

Batch = Callable[[int], Awaitable[int]]
"""Requests the given number of images at once, and returns how many were made."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Setup that requests images.

    Attributes:
        name: name in the table.
        account: account at the simulator.
        ask: requests a batch.
        batches: number of concurrent batches.
        batch_tasks: number of tasks in each.
        pids: process ids of its servers.
    """

    name: str
    account: str
    ask: Batch
    batches: int
    batch_tasks: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """Results of one setup.

    Attributes:
        name: name in the table.
        total_seconds: duration of the concurrent requests.
        held_up: share of that for which its processes and the simulator waited for a core, summed.
        overhead_ms: duration of each sequential request minus that of its prediction.
        made: number of images made.
        peak_in_flight: maximum number of concurrent predictions.
    """

    name: str
    total_seconds: float
    held_up: float
    overhead_ms: list[float]
    made: int
    peak_in_flight: int

    @property
    def is_right(self) -> bool:
        """Whether every image was made and the limit was never exceeded."""
        return self.made == ASKED_FOR and self.peak_in_flight <= LIMIT


async def measure(simulator: Simulator) -> list[Asked]:
    """Send the same load in each setup in turn, and the sequential requests alternately."""
    async with AsyncExitStack() as stack:
        askers = [await stack.enter_async_context(_raw_client(simulator.url))]
        one = stack.enter_context(running_http_server(simulator.url, account="ours", limit=LIMIT))
        askers.append(await stack.enter_async_context(_http("one server", "ours", one)))
        replicas = await anyio.to_thread.run_sync(stack.enter_context, _fleet(simulator.url))
        askers.append(await stack.enter_async_context(_http("two replicas", "fleet", *replicas)))
        for asker in askers:  # Not measured: imports, schemas and the account.
            await asyncio.gather(*(asker.ask(1) for _ in range(2)))
        simulator.configure(predict_seconds=PREDICT_SECONDS)
        totals = [
            await _run_concurrently(asker, [None, simulator.pid, *asker.pids]) for asker in askers
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


@contextmanager
def _fleet(base_url: str) -> Iterator[list[HttpServer]]:
    """Run two servers that share a Redis."""
    with places("redis") as new_place, ExitStack() as stack:
        place = new_place("fleet")
        yield [
            stack.enter_context(
                running_http_server(base_url, account="fleet", limit=LIMIT, backend=place)
            )
            for _ in range(2)
        ]


@dataclass(frozen=True, slots=True)
class _Total:
    seconds: float
    held_up: float
    made: int


async def _run_concurrently(asker: Asker, pids: Sequence[int | None]) -> _Total:
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
        made=total.made + made,
        peak_in_flight=simulator.account(asker.account)["max_in_flight"],
    )


@asynccontextmanager
async def _http(name: str, account: str, *servers: HttpServer) -> AsyncIterator[Asker]:
    """Provide callers that use the servers in turn, as behind a load balancer."""
    connections, turn = httpx.Limits(max_connections=CALLERS), count()
    async with httpx.AsyncClient(timeout=None, limits=connections) as client:

        async def post(path: str, body: dict[str, object]) -> dict[str, object]:
            server = servers[next(turn) % len(servers)]
            answer = await client.post(f"{server.address}{path}", json=body)
            found: dict[str, object] = answer.json() if answer.is_success else {}
            return found

        async def ask(images: int) -> int:
            if images == 1:
                return int(bool((await post("/generate", {"prompt": "a red car"})).get("success")))
            prompts = [f"a red car {number}" for number in range(images)]
            answer = await post("/generate-batch", {"prompts": prompts})
            return int(str(answer.get("successful_count", 0)))

        pids = tuple(server.pid for server in servers)
        yield Asker(name, account, ask, CALLERS, TASKS_EACH, pids)


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
