"""Random server and process faults on Redis for a while: no limit is exceeded, no result lost.

Replicate is only counted: a prediction runs from the moment when its attempt is recorded until its
duration has passed, whichever process follows it.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import anyio
import pytest
from anyio.abc import TaskGroup

from backends.servers import KINDS, RunningServer, running_server
from backends.steps import OWN, attempt, failed
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.attempt_store import AttemptRecord, RunningPrediction
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry

T = TypeVar("T")

pytestmark = pytest.mark.soak

LIMIT = 4
LEASE = 0.4
SECONDS = 20.0

POLL_SECONDS = 0.1


@dataclass
class Replicate:
    """The running and all created predictions, by the permit of their attempt."""

    random: random.Random
    ends_at: dict[int, float] = field(default_factory=dict)
    most: int = 0

    def create(self, permit: int) -> None:
        assert permit not in self.ends_at, "made twice"
        self.ends_at[permit] = time.monotonic() + self.random.uniform(0.05, 1.2)
        self.most = max(self.most, len(self.running()))

    def running(self) -> list[int]:
        now = time.monotonic()
        return [permit for permit, ends_at in self.ends_at.items() if ends_at > now]

    async def ended(self, permit: int) -> bool:
        """Wait until a prediction has ended; return False if it was never created."""
        if permit not in self.ends_at:
            return False
        while self.ends_at[permit] > time.monotonic():
            await anyio.sleep(0.02)
        return True


@asynccontextmanager
async def _silent_at_the_end(backend: RedisBackend) -> AsyncIterator[None]:
    """Make closing behave like a killed process: connections are closed without a last call."""
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await backend._server.close()


def id_of(permit: int) -> str:
    return f"p{permit}"


@dataclass
class Process:
    """A process that makes batch after batch until it is stopped or killed."""

    name: str
    url: str
    replicate: Replicate
    random: random.Random
    more: anyio.Event = field(default_factory=anyio.Event)
    alive: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    pending: dict[str, list[int]] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    newest: int = 0

    async def run(self) -> None:
        with self.alive:
            self.backend = await self._open()
            async with _silent_at_the_end(self.backend):
                await self._declare()
                await self._live()

    async def _live(self) -> None:
        async with anyio.create_task_group() as self.group:
            self.group.start_soon(self.backend.run)
            self.group.start_soon(self._poll)
            self.group.start_soon(self._recover)
            while not self.more.is_set():
                await self._begin_a_batch()
                with anyio.move_on_after(self.random.uniform(0.5, 3)):
                    await self.more.wait()
            await anyio.sleep_forever()

    async def _open(self) -> RedisBackend:
        while True:
            try:
                return await RedisBackend.open(self.url)
            except BackendUnavailable:
                await anyio.sleep(POLL_SECONDS)

    async def _declare(self) -> None:
        await self._retry_until_available(
            lambda: self.backend.declare_limit(OWN, LIMIT, per_minute=60_000)
        )

    async def _begin_a_batch(self) -> None:
        batch, tasks = f"{self.name}-{len(self.begun)}", self.random.randint(1, 6)
        journal = tuple(JournalTask(f"{n}", f"{n}.png", "o/m") for n in range(tasks))
        self.pending[batch] = list(range(tasks))
        try:
            admission = await self.backend.open_batch(
                NewBatch(batch, "server", "acme", "replicate-global", journal),
                QueueEntry(batch, (OWN,), "acme", tasks),
            )
        except BackendUnavailable:
            self.pending.pop(batch)
            self.begun.append("")
            return
        self.begun.append(batch)
        self._accept(admission)

    async def _poll(self) -> None:
        while True:
            with anyio.move_on_after(POLL_SECONDS):
                await self.backend.wait_for_wakeup()
            try:
                self._accept(await self.backend.admit())
                for batch in await self.backend.interrupted_batches():
                    await self._drop(batch, self.pending.pop(batch, []))
            except BackendUnavailable:
                await anyio.sleep(POLL_SECONDS)

    def _accept(self, admission: AdmissionResult) -> None:
        for offer in admission.offers:
            tasks = self.pending.get(offer.entry)
            if offer.permit > self.newest and tasks:
                self.group.start_soon(self._make, offer.permit, offer.entry, tasks.pop())
        self.newest = max(self.newest, *(offer.permit for offer in admission.offers), 0)

    async def _make(self, permit: int, batch: str, task: int) -> None:
        recorded = await self._retry_until_available(
            lambda: self.backend.record_attempts({permit: attempt(batch, task)})
        )
        if permit not in recorded.cancel_after:
            if batch in self.pending:
                self.pending[batch].append(task)
            else:
                await self._drop(batch, [task])
            return
        self.replicate.create(permit)
        if self.random.random() < 0.5:
            await self._retry_until_available(
                lambda: self.backend.claim_prediction(permit, batch, id_of(permit))
            )
        await self.replicate.ended(permit)
        result = failed(task, id_of(permit))
        admission = await self._retry_until_available(
            lambda: self.backend.finish(permit, batch, result)
        )
        assert admission is not None
        self._accept(admission)

    async def _drop(self, batch: str, tasks: list[int]) -> None:
        """Record tasks that are no longer created: nothing else does after a loss of state."""
        results = [failed(task) for task in tasks]
        self._accept(
            await self._retry_until_available(lambda: self.backend.record_results(batch, results))
        )

    async def _recover(self) -> None:
        while True:
            try:
                if await self.backend.has_lost_state("acme"):
                    listed = self.replicate.running()
                    known = await self.backend.list_prediction_ids("acme")
                    recorded = {each.permit for each in await self.backend.open_attempts("acme")}
                    running = [
                        RunningPrediction(id_of(permit), "o/m", 60)
                        for permit in listed
                        if permit not in recorded and id_of(permit) not in known
                    ]
                    self._accept(await self.backend.import_running("acme", running))
                for orphan in await self.backend.orphans("acme"):
                    if await self.backend.adopt(orphan.permit):
                        self.group.start_soon(self._finish_orphan, orphan)
            except BackendUnavailable:
                pass
            await anyio.sleep(POLL_SECONDS)

    async def _finish_orphan(self, orphan: AttemptRecord) -> None:
        made = int(orphan.prediction_id[1:]) if orphan.prediction_id else orphan.permit
        was_made = await self.replicate.ended(made)
        if not orphan.batch:
            self._accept(
                await self._retry_until_available(lambda: self.backend.release(orphan.permit))
            )
            return
        result = failed(orphan.task, id_of(made) if was_made else None)
        admission = await self._retry_until_available(
            lambda: self.backend.finish(orphan.permit, orphan.batch, result)
        )
        assert admission is not None
        self._accept(admission)

    async def _retry_until_available(self, step: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await step()
            except BackendUnavailable:
                await anyio.sleep(POLL_SECONDS)


class Chaos:
    """Breaks the server and kills processes at random."""

    def __init__(self, server: RunningServer, replicate: Replicate, seed: int) -> None:
        self._server = server
        self._replicate = replicate
        self._random = random.Random(seed)
        self._names = count()
        self.processes: list[Process] = []
        self.done: list[str] = []

    def start_process(self, group: TaskGroup) -> None:
        process = Process(
            f"b{next(self._names)}",
            self._server.url(lease=LEASE),
            self._replicate,
            random.Random(self._random.random()),
        )
        self.processes.append(process)
        group.start_soon(process.run)

    async def rage(self, group: TaskGroup) -> None:
        ends_at = time.monotonic() + SECONDS
        while time.monotonic() < ends_at:
            await anyio.sleep(self._random.uniform(0.2, 1.2))
            what = self._random.choice(
                [self.lose_a_key, self.lose_a_key, self.lose_permits, self.lose_everything,
                 self.restart, self.restart, self.save, self.pause, self.fill]
            )  # fmt: skip
            self.done.append(what.__name__)
            if self._random.random() < 0.4:
                self.done.append("kill")
                victim = self.processes.pop(self._random.randrange(len(self.processes)))
                victim.alive.cancel()
                self.start_process(group)
            await what()

    async def lose_a_key(self) -> None:
        with self._server.client as client:
            keys = client.keys()
            if keys:
                client.delete(self._random.choice(keys))

    async def lose_permits(self) -> None:
        with self._server.client as client:
            client.delete("{replicate-mcp}:permits")

    async def lose_everything(self) -> None:
        with self._server.client as client:
            client.flushall()

    async def restart(self) -> None:
        self._server.restart()

    async def save(self) -> None:
        self._server.save()

    async def pause(self) -> None:
        self._server.pause()
        await anyio.sleep(2 * LEASE)
        self._server.go_on()

    async def fill(self) -> None:
        self._server.configure(maxmemory_policy="noeviction", maxmemory=1)
        await anyio.sleep(2 * LEASE)
        self._server.configure(maxmemory=0)


async def is_done(process: Process) -> bool:
    """Return whether everything that a process started has ended."""
    try:
        states = [await process.backend.get_batch(batch) for batch in process.begun if batch]
        in_use = [each.in_use for each in await process.backend.semaphores()]
    except BackendUnavailable:
        return False
    return all(state is None or state.status == "completed" for state in states) and in_use == [0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
async def test_limits_hold_and_living_holders_progress_under_chaos(kind: str, seed: int) -> None:
    replicate = Replicate(random.Random(seed))
    with running_server(kind) as server:
        chaos = Chaos(server, replicate, seed)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                chaos.start_process(group)
            await chaos.rage(group)
            for process in chaos.processes:
                process.more.set()
            with anyio.fail_after(60):
                for process in chaos.processes:
                    while not await is_done(process):
                        await anyio.sleep(POLL_SECONDS)
            assert replicate.most <= LIMIT, chaos.done
            for process in chaos.processes:
                process.alive.cancel()
    assert len(replicate.ends_at) > SECONDS, "hardly anything was made"
