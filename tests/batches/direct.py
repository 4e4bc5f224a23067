"""Direct tests of the engine: simulator and in-memory backend in one event loop, without sockets.

For tests `@in_virtual_time`. Only the network is replaced: a `Gateway` sends its requests to the
simulator's ASGI application, and a test can script the responses instead.
"""

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Literal, cast

import anyio
import httpx
from anyio.abc import TaskGroup

from batches.virtual_time import Schedule
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.batches.planning import PlannedBatch, PlannedTask
from replicate_mcp.batches.runner import BatchRunner
from replicate_mcp.batches.running_batch import RunningBatch
from replicate_mcp.replicate_api.attempt_matching import CLOCK_SLACK, hash_inputs
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import QueueEntry, SemaphoreState
from replicate_mcp.simulator.api import Api
from replicate_mcp.simulator.engine.clock import LoopClock
from replicate_mcp.simulator.engine.predictions import Creation, Prediction
from replicate_mcp.simulator.model_fixtures import MODELS_BY_ID
from replicate_mcp.simulator.problem_details import Problem, of_status
from replicate_mcp.simulator.route_context import Simulation
from replicate_mcp.simulator.settings import SimulatorSettings
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.result import TaskFailure, TaskResult

URL = "http://127.0.0.1:9"
TOKEN = "r8_acme_1"
OTHER_TOKEN = "r8_acme_2"
ACCOUNT = "acme"
OWN = account_semaphore(ACCOUNT)
MODEL = "black-forest-labs/flux-schnell"

RED_CAR = {"prompt": "a red car"}

Kind = Literal["create", "get", "cancel", "list", "other"]
Forward = Callable[[httpx.Request], Awaitable[httpx.Response]]
Answer = Callable[[httpx.Request, Forward], Awaitable[httpx.Response]]
"""Answers a request, with or without having the simulator carry it out."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it arrived; `at` is in virtual seconds."""

    kind: Kind
    at: float
    token: str
    path: str


class Replicate(httpx.AsyncBaseTransport):
    """The simulator without rates; a test may script responses in place of its own.

    Args:
        settings: the simulator's.
    """

    def __init__(self, *, schedule: Schedule | None = None, **settings: Any) -> None:
        unlimited = dict.fromkeys(("requests_per_minute", "other_requests_per_minute"), 1e6)
        bursts = dict.fromkeys(("burst", "other_burst"), 1_000_000)
        self.simulation = Simulation(
            SimulatorSettings().changed({**unlimited, **bursts, **settings}),
            LoopClock(asyncio.get_running_loop()),
            URL,
        )
        self.world = self.simulation.world
        self.calls: list[Call] = []
        self._app = httpx.ASGITransport(Api(self.simulation))
        self._schedule = schedule
        self._next: defaultdict[Kind, deque[Answer]] = defaultdict(deque)
        self._always: dict[Kind, Answer] = {}

    def gateway(self, token: str = TOKEN) -> Gateway:
        """Return a real gateway whose connections end at this object."""
        gateway = Gateway(token, URL)

        async def connection() -> httpx.AsyncBaseTransport:
            return self

        gateway._transport._connection = connection  # type: ignore[method-assign, assignment]
        return gateway

    def answer(self, kind: Kind, *answers: Answer) -> None:
        """Script the next responses to calls of a kind, one each."""
        self._next[kind].extend(answers)

    def always(self, kind: Kind, answer: Answer | None) -> None:
        """Script all responses to calls of a kind; None restores the simulator's."""
        self._always.pop(kind, None)
        if answer is not None:
            self._always[kind] = answer

    def made(self, inputs: Mapping[str, Any] | str = RED_CAR, *, cancel_after: int = 600) -> str:
        """Create a prediction of inputs, or of a prompt, without a request; return its id."""
        inputs = {"prompt": inputs} if isinstance(inputs, str) else inputs
        asked = Creation(
            self.world.account(ACCOUNT),
            MODELS_BY_ID[MODEL],
            dict(inputs),
            cancel_after=cancel_after,
        )
        return self.world.create(asked).id

    @property
    def predictions(self) -> list[Prediction]:
        """All predictions of the account, oldest first."""
        return self.world.of_account(ACCOUNT)

    def statuses(self) -> dict[str, str]:
        """Return the status of each prediction by its id."""
        return {each.id: each.status.value for each in self.predictions}

    def times(self, kind: Kind) -> list[float]:
        """Return the arrival times of calls of a kind."""
        return [call.at for call in self.calls if call.kind == kind]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Respond to one request."""
        kind = _kind(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        await self._turn(kind)
        at = asyncio.get_running_loop().time()
        self.calls.append(Call(kind, at, token, request.url.path))
        answers = self._next[kind]
        answer = answers.popleft() if answers else self._always.get(kind, forwarded)
        response = await answer(request, self._app.handle_async_request)
        response.headers["date"] = self._date()
        await self._turn(f"{kind} answered")
        return response

    def _date(self) -> str:
        clock, offset = self.world.clock, self.world.settings.clock_offset_seconds
        return formatdate(clock.now() + offset, usegmt=True)

    async def _turn(self, label: str) -> None:
        if self._schedule is not None:
            await self._schedule.turn(label)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


def _kind(request: httpx.Request) -> Kind:
    parts = request.url.path.strip("/").split("/")
    if parts[-1] == "cancel":
        return "cancel"
    if parts[-1] == "predictions":
        return "create" if request.method == "POST" else "list"
    return "get" if parts[:-1] == ["v1", "predictions"] else "other"


async def forwarded(request: httpx.Request, forward: Forward) -> httpx.Response:
    """Return the simulator's response."""
    return await forward(request)


def refused(status: int, *, retry_after: float | None = None) -> Answer:
    """Return a problem document like the simulator's, without carrying the request out."""

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        known = status in (500, 502, 503, 504)
        problem = of_status(status) if known else Problem(status, "It is refused.")
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        return httpx.Response(status, json=problem.document, headers=headers)

    return answer


def lost(*, carried_out: bool) -> Answer:
    """Break the connection before the response, with or without carrying the request out."""

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        if carried_out:
            await forward(request)
        raise httpx.ReadError("the connection was reset")

    return answer


async def unsent(request: httpx.Request, forward: Forward) -> httpx.Response:
    """Refuse the connection."""
    raise httpx.ConnectError("connection refused")


def slow(seconds: float, then: Answer = forwarded) -> Answer:
    """Carry the request out after a delay, like a slow upload."""

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        await anyio.sleep(seconds)
        return await then(request, forward)

    return answer


def late(seconds: float) -> Answer:
    """Carry the request out immediately, but respond after a delay."""

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        response = await forward(request)
        await anyio.sleep(seconds)
        return response

    return answer


def changed(change: Callable[[dict[str, Any]], object]) -> Answer:
    """Change the JSON of the simulator's response in place."""

    async def answer(request: httpx.Request, forward: Forward) -> httpx.Response:
        response = await forward(request)
        document = json.loads(await response.aread())
        change(document)
        return httpx.Response(response.status_code, json=document)

    return answer


def task(index: int = 0, prompt: str = "a red car", **inputs: Any) -> PlannedTask:
    """Return a task as planning produces it."""
    return PlannedTask(
        index=index,
        prompt=prompt,
        output_filename=f"{index}.png",
        model=MODEL,
        target=Target(ModelName.parse(MODEL)),
        inputs={"prompt": prompt, **inputs},
        seed=None,
        expected_format="png",
        expected_count=1,
    )


class Process:
    """A process's engine, composed like in `App`, over the one in-memory backend.

    Attributes:
        backend: the backend as the engine sees it; a `Schedule` may hold its calls.
    """

    def __init__(
        self, backend: SqliteBackend, engine_backend: Backend, group: TaskGroup, **options: Any
    ) -> None:
        self.store = backend
        self.backend = engine_backend
        self.group = group
        self.dispatcher = OfferDispatcher(engine_backend)
        self.runner = BatchRunner(
            engine_backend,
            self.dispatcher,
            group,
            **{"prediction_seconds": 600, "batch_seconds": 3600, **options},
        )

    async def start(
        self, gateway: Gateway, *tasks: PlannedTask, caller: str = "server"
    ) -> RunningBatch:
        """Start a batch of these tasks."""
        return await self.runner.start(
            PlannedBatch(
                tasks=tasks or [task()],
                gateway=gateway,
                account=ACCOUNT,
                caller=caller,
                shown_semaphore="replicate-global",
                semaphores=(OWN,),
            )
        )

    async def rows(self, batch: RunningBatch) -> dict[int, TaskResult]:
        """Wait until a batch has ended; return its rows by task."""
        await batch.ended.wait()
        return {row.task_index: row for row in await self.store.results(batch.id)}

    async def own(self) -> SemaphoreState:
        """Return the state of the account's semaphore."""
        return next(each for each in await self.store.semaphores() if each.name == OWN)

    async def in_use(self) -> int:
        """Return how many permits of the account are held."""
        return (await self.own()).in_use


@asynccontextmanager
async def running_process(
    *, limit: int = 10, wrap: Callable[[Backend], Backend] = lambda each: each, **options: Any
) -> AsyncIterator[Process]:
    """Run an engine; its state when the block ends is orphaned.

    Args:
        limit: of the account's semaphore.
        wrap: returns the backend that the engine gets, such as `Schedule.hold` of it.
        options: the `BatchRunner`'s.
    """
    backend = await SqliteBackend.open(clock=time.time)
    try:
        await backend.declare_limit(OWN, limit, per_minute=60_000)
        async with anyio.create_task_group() as group:
            process = Process(backend, wrap(backend), group, **options)
            group.start_soon(process.dispatcher.run)
            group.start_soon(process.runner.watch_cancellations)
            try:
                yield process
            finally:
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()


def wrapped(**methods: Callable[..., Awaitable[Any]]) -> Callable[[Backend], Backend]:
    """Return a function that wraps a backend so that each of `methods` makes that method's calls.

    A replacement receives the method, then its arguments.
    """
    unknown = [name for name in methods if not hasattr(Backend, name)]
    assert not unknown, f"a backend has no {unknown}"

    class Wrapped:
        def __init__(self, backend: Backend) -> None:
            self._backend = backend

        def __getattr__(self, name: str) -> Any:
            whole = getattr(self._backend, name)
            if name not in methods:
                return whole

            async def call(*args: Any, **kwargs: Any) -> Any:
                return await methods[name](whole, *args, **kwargs)

            return call

    return lambda backend: cast(Backend, Wrapped(backend))


async def recorded(
    backend: Backend,
    gateway: Gateway,
    *inputs: Mapping[str, Any],
    batch: str = "b_1",
    cancel_after: int = 600,
) -> dict[int, int]:
    """Record an attempt for each of these inputs, as a batch does before it sends them.

    Returns:
        The `Cancel-After` of each, by permit, in the order of `inputs`.
    """
    journal = tuple(JournalTask("p", f"{n}.png", MODEL) for n in range(len(inputs)))
    admission = await backend.open_batch(
        NewBatch(batch, "server", ACCOUNT, "replicate-global", journal),
        QueueEntry(batch, (OWN,), ACCOUNT, len(inputs)),
    )
    attempts = {
        offer.permit: Attempt(
            batch=batch,
            task=index,
            model=MODEL,
            inputs=hash_inputs(inputs[index]),
            cancel_after=cancel_after,
            sent_at=gateway.now() - CLOCK_SLACK,
            max_seconds=cancel_after + 120,
        )
        for index, offer in enumerate(each for each in admission.offers if each.entry == batch)
    }
    return dict(sorted((await backend.record_attempts(attempts)).cancel_after.items()))


def finished(task: int = 0, prediction: str | None = None) -> TaskFailure:
    """Return a row that ends a task, whatever its prediction's outcome."""
    return TaskFailure(
        task_index=task,
        prompt="p",
        output_filename=f"{task}.png",
        error="It failed.",
        error_code="prediction_failed",
        prediction_id=prediction,
        retryable=True,
    )
