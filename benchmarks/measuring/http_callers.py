"""Those who ask for images: callers over HTTP of one server and of two, and the raw client."""

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
"""All at once."""

SINGLES, SINGLE_PREDICT_SECONDS = 100, 0.2
"""One after another."""

ASKED_FOR = CALLERS * TASKS_EACH + SINGLES
"""By each asker."""

_MODEL = "black-forest-labs/flux-schnell"

Batch = Callable[[int], Awaitable[int]]
"""Asks for so many images at once, and tells how many were made."""


@dataclass(frozen=True, slots=True)
class Asker:
    """One of them.

    Attributes:
        account: whom the simulator counts its predictions for.
        pids: of the servers that it asks.
        batches: how many batches it asks for at once, and `batch_tasks` in each.
    """

    name: str
    account: str
    ask: Batch
    batches: int
    batch_tasks: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one asker's images.

    Attributes:
        total_seconds: of all that were asked for at once.
        held_up: how much of that its processes and the simulator waited for a core, together.
        overhead_ms: of each single request: its time without what the simulator took.
        made: images, of all that were asked for.
        most_at_once: predictions in flight.
    """

    name: str
    total_seconds: float
    held_up: float
    overhead_ms: list[float]
    made: int
    peak_in_flight: int

    @property
    def is_right(self) -> bool:
        """Whether every image was made, and the limit never exceeded."""
        return self.made == ASKED_FOR and self.peak_in_flight <= LIMIT


async def measure(simulator: Simulator) -> list[Asked]:
    """Have all ask for the same, in turn; the single requests even one by one."""
    async with AsyncExitStack() as stack:
        askers = [await stack.enter_async_context(_raw_client(simulator.url))]
        one = stack.enter_context(running_http_server(simulator.url, account="ours", limit=LIMIT))
        askers.append(await stack.enter_async_context(_http("one server", "ours", one)))
        replicas = await anyio.to_thread.run_sync(stack.enter_context, _fleet(simulator.url))
        askers.append(await stack.enter_async_context(_http("two replicas", "fleet", *replicas)))
        for asker in askers:  # Imports, schemas and the account count for none; of each process.
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
    """Two servers that share a Redis."""
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
    """Callers who ask the servers in turn, as a proxy sends them there."""
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
