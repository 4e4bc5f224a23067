"""Units of named semaphores for the contexts of one process, over a backend in memory.

The dispatcher's loop runs only in tests that start it: units have to arrive with the responses of
the calls.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import TaskGroup

from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import BackendUnavailable, UnknownSemaphore
from replicate_mcp.semaphores import offer_dispatcher as holder_module
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.context_permits import ContextPermit, ContextQueue
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import AcceptedOffers, AdmissionResult, QueueEntry


class Recorded(SqliteBackend):
    """A backend in memory that records its calls.

    Attributes:
        steps: name and argument of each call.
        gates: events that a call of that name awaits before it is made.
        failures: errors that the next calls of a name raise.
    """

    def begin(self) -> None:
        self.now = 1_000_000.0
        self._clock = lambda: self.now
        self.steps: list[tuple[str, object]] = []
        self.gates: dict[str, anyio.Event] = {}
        self.failures: dict[str, list[Exception]] = {}

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        await self._record("enqueue", entry.waiting)
        return await super().enqueue(entry)

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        await self._record("dequeue", count)
        return await super().dequeue(entry, count)

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        await self._record("accept_offers", len(permits))
        return await super().accept_offers(permits)

    async def release(self, permit: int) -> AdmissionResult:
        await self._record("release", permit)
        return await super().release(permit)

    async def admit(self) -> AdmissionResult:
        await self._record("admit", None)
        return await super().admit()

    async def _record(self, name: str, argument: object) -> None:
        self.steps.append((name, argument))
        if name in self.gates:
            await self.gates[name].wait()
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    async def state(self, name: str = "team") -> tuple[int, int]:
        """Return the units in use and the waiting starts, once all tasks are idle."""
        await anyio.wait_all_tasks_blocked()
        found = next(each for each in await self.semaphores() if each.name == name)
        return found.in_use, found.waiting


class Process:
    """One process with contexts."""

    def __init__(self, backend: Recorded, group: TaskGroup) -> None:
        self.backend = backend
        self.group = group
        self.holder = OfferDispatcher(backend)
        self.queue = ContextQueue(backend, BackendCalls(self.holder, group))

    async def hold(self, name: str = "team") -> ContextPermit:
        """Enter a context."""
        lease = ContextPermit(name)
        await self.queue.acquire(lease)
        assert lease.permit is not None
        return lease

    async def wait(self, name: str = "team") -> ContextPermit:
        """Enter a context that finds no unit, and return while it waits."""
        lease = ContextPermit(name)
        self.group.start_soon(self.queue.acquire, lease)
        await anyio.wait_all_tasks_blocked()
        assert lease.permit is None
        return lease


@asynccontextmanager
async def process(limit: int = 1) -> AsyncIterator[Process]:
    backend = await Recorded.open(":memory:")
    assert isinstance(backend, Recorded)
    backend.begin()
    for name in ("team", "studio"):
        await backend.register(name, limit)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            yield Process(backend, group)
            group.cancel_scope.cancel()
    await backend.close()


async def test_contexts_get_their_units_first_come_first_served() -> None:
    async with process() as here:
        first = await here.hold()
        second, third = await here.wait(), await here.wait()
        assert await here.backend.state() == (1, 2)
        await here.queue.release(first)
        await second.held.wait()
        assert second.permit is not None
        assert (third.permit, await here.backend.state()) == (None, (1, 1))
        await here.queue.release(second)
        await third.held.wait()
        await here.queue.release(third)
        assert await here.backend.state() == (0, 0)


async def test_context_with_a_free_unit_costs_three_calls() -> None:
    async with process() as here:
        lease = await here.hold()
        permit = lease.permit
        await here.queue.release(lease)
        await here.queue.release(lease)
        assert await here.backend.state() == (0, 0)
        assert here.backend.steps == [("enqueue", 1), ("accept_offers", 1), ("release", permit)]


async def test_context_released_before_acquire_takes_no_unit() -> None:
    async with process() as here:
        lease = ContextPermit("team")
        await here.queue.release(lease)
        await here.queue.acquire(lease)
        assert await here.backend.state() == (0, 0)
        assert (lease.permit, here.backend.steps) == (None, [])


async def test_released_waiters_leave_the_queue_and_others_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with process() as here:
        held = await here.hold()
        waiting = [await here.wait() for _ in range(4)]
        await here.queue.release(waiting[0])
        assert await here.backend.state() == (1, 3)
        for lease in waiting[1:3]:
            await here.queue.release(lease)
        assert await here.backend.state() == (1, 1)
        leaves = [argument for name, argument in here.backend.steps if name == "dequeue"]
        assert leaves == [1, 2], "two that give up at once are one step"
        last = await here.wait()
        assert await here.backend.state() == (1, 2)
        for lease in (waiting[3], last):
            await here.queue.release(lease)
        assert await here.backend.state() == (1, 0)
        another = await here.wait()
        assert await here.backend.state() == (1, 1)
        await here.queue.release(held)
        await another.held.wait()
        assert another.permit is not None
    assert caplog.records == []


async def test_waiter_released_while_enqueuing_leaves_the_queue() -> None:
    async with process() as here:
        await here.hold()
        gate = here.backend.gates["enqueue"] = anyio.Event()
        lease = await here.wait()
        await here.queue.release(lease)
        assert await here.backend.state() == (1, 0)
        gate.set()
        assert await here.backend.state() == (1, 0)
        await here.wait()
        assert await here.backend.state() == (1, 1)


async def test_failed_enqueue_leaves_other_waiters_queued() -> None:
    async with process() as here:
        held, waiting = await here.hold(), await here.wait()
        here.backend.failures["enqueue"] = [BackendUnavailable("Away.")]
        with pytest.raises(BackendUnavailable):
            await here.queue.acquire(ContextPermit("team"))
        with pytest.raises(UnknownSemaphore):
            await here.queue.acquire(ContextPermit("unknown"))
        assert await here.backend.state() == (1, 1)
        await here.queue.release(held)
        await waiting.held.wait()


async def test_unit_of_a_released_waiter_goes_to_another_context() -> None:
    async with process(limit=2) as here:
        gate = here.backend.gates["accept_offers"] = anyio.Event()
        first, second = await here.wait(), await here.wait()
        await here.queue.release(first)
        gate.set()
        await second.held.wait()
        assert await here.backend.state() == (1, 0)
        await here.queue.release(second)
        assert await here.backend.state() == (0, 0)


async def test_accepting_a_stale_offer_gives_other_contexts_their_units() -> None:
    async with process() as here:
        gate = here.backend.gates["accept_offers"] = anyio.Event()
        team = await here.wait()
        here.backend.now += 0.06
        studio = await here.wait("studio")
        assert await here.backend.state("studio") == (0, 1), "the offer that lies holds it up"
        gate.set()
        for lease in (team, studio):
            await lease.held.wait()
            assert lease.permit is not None


async def test_process_polls_for_units_only_while_contexts_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder_module, "ADMIT_POLL_SECONDS", 0.01)

    async def polls(here: Process) -> bool:
        await anyio.sleep(0.02)
        here.backend.steps.clear()
        await anyio.sleep(0.05)
        return ("admit", None) in here.backend.steps

    async with process() as here:
        here.group.start_soon(here.holder.run)
        held = await here.hold()
        assert not await polls(here)
        for waiting in (await here.wait(), await here.wait()):
            assert await polls(here)
            await here.queue.release(waiting)
        assert not await polls(here)
        waiting = await here.wait()
        await here.queue.release(held)
        await waiting.held.wait()
        assert not await polls(here)
