"""Context permits with a disk full at times: no unit is lost, and no context waits forever."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.journal import JournalTables
from replicate_mcp.backends.sqlite.permits import PermitTables
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores import backend_calls, offer_dispatcher
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.context_permits import ContextPermit, ContextQueue
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import AcceptedOffers

T = TypeVar("T")

resource = pytest.importorskip("resource", reason="POSIX alone bounds the size of files")
LARGEST_FILE = resource.getrlimit(resource.RLIMIT_FSIZE)

LIMIT = 2


@pytest.fixture(autouse=True, scope="module")
def hurry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_calls, "RETRY_DELAY_SECONDS", 0.001)
        patch.setattr(offer_dispatcher, "ADMIT_POLL_SECONDS", 0.01)
        yield


class State(SqliteBackend):
    """A state file with injected faults.

    Attributes:
        disk_is_full: called at each step; if true, the system rejects its writes.
        others_run: called at each step; how often other tasks run before and after it.
    """

    disk_is_full: Callable[[], bool] = staticmethod(lambda: False)
    others_run: Callable[[], int] = staticmethod(lambda: 0)

    async def _step(
        self, work: Callable[[PermitTables, JournalTables], T], *, size_bytes: int = 0
    ) -> T:
        async with self._line:
            for _ in range(self.others_run()):
                await anyio.sleep(0)
            try:
                return await self._one_step(work)
            finally:
                for _ in range(self.others_run()):
                    await anyio.sleep(0)

    @cached_property
    def _line(self) -> anyio.Lock:
        return anyio.Lock(fast_acquire=True)

    async def _one_step(self, work: Callable[[PermitTables, JournalTables], T]) -> T:
        def without_room_for_it(permits: PermitTables, journal: JournalTables) -> T:
            outcome = work(permits, journal)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, LARGEST_FILE[1]))
            return outcome

        if not self.disk_is_full():
            return await super()._step(work)
        try:
            return await super()._step(without_room_for_it)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, LARGEST_FILE)

    async def reached(self, *, in_use: int, waiting: int) -> None:
        while await self.counts() != (in_use, waiting):
            await anyio.sleep(0.01)

    async def counts(self) -> tuple[int, int]:
        (team,) = await self.semaphores()
        return team.in_use, team.waiting


class Contexts:
    """A process's contexts on one semaphore, each in its own task.

    Attributes:
        waiting: contexts that wait for their unit.
        held: contexts that have it.
    """

    def __init__(self, queue: ContextQueue, group: TaskGroup) -> None:
        self._queue = queue
        self._group = group
        self.waiting: list[ContextPermit] = []
        self.held: list[ContextPermit] = []

    def enter(self) -> None:
        lease = ContextPermit("team")
        self.waiting.append(lease)
        self._group.start_soon(self._enter, lease)

    async def leave(self, leases: list[ContextPermit]) -> None:
        """Let the first of them continue or give up."""
        if leases:
            await self._queue.release(leases.pop(0))

    async def _enter(self, lease: ContextPermit) -> None:
        try:
            await self._queue.acquire(lease)
        except BackendUnavailable:
            await self._queue.release(lease)
        if lease in self.waiting:
            self.waiting.remove(lease)
            if lease.permit is not None:
                self.held.append(lease)


@asynccontextmanager
async def process(
    path: Path, kind: type[State] = State
) -> AsyncIterator[tuple[State, ContextQueue, TaskGroup]]:
    state = await kind.open(str(path))
    assert isinstance(state, State)
    await state.register("team", LIMIT)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            offer_dispatcher = OfferDispatcher(state)
            group.start_soon(offer_dispatcher.run)
            yield state, ContextQueue(state, BackendCalls(offer_dispatcher, group)), group
            group.cancel_scope.cancel()
    await state.close()


async def test_unit_is_released_although_the_disk_was_full_when_its_context_ended(
    tmp_path: Path,
) -> None:
    async with process(tmp_path / "state.db") as (state, queue, _):
        lease = ContextPermit("team")
        await queue.acquire(lease)
        state.disk_is_full = lambda: True
        await queue.release(lease)
        state.disk_is_full = lambda: False
        assert await state.counts() == (1, 0)
        await state.reached(in_use=0, waiting=0)


async def test_waiter_that_gave_up_while_the_disk_was_full_leaves_the_queue(tmp_path: Path) -> None:
    async with process(tmp_path / "state.db") as (state, queue, group):
        for _ in range(LIMIT):
            await queue.acquire(ContextPermit("team"))
        lease = ContextPermit("team")
        group.start_soon(queue.acquire, lease)
        await state.reached(in_use=LIMIT, waiting=1)
        state.disk_is_full = lambda: True
        await queue.release(lease)
        await anyio.wait_all_tasks_blocked()
        state.disk_is_full = lambda: False
        assert await state.counts() == (LIMIT, 1)
        await state.reached(in_use=LIMIT, waiting=0)


async def test_unit_offered_after_its_context_gave_up_is_released_despite_a_full_disk(
    tmp_path: Path,
) -> None:
    lease = ContextPermit("team")
    full = iter([True, True])

    class GivesUpMeanwhile(State):
        async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
            taken = await super().accept_offers(permits)
            await queue.release(lease)
            self.disk_is_full = lambda: next(full, False)
            return taken

    async with process(tmp_path / "state.db", GivesUpMeanwhile) as (state, queue, _):
        await queue.acquire(lease)
        await state.reached(in_use=0, waiting=0)
        assert next(full, None) is None


async def test_remaining_waiter_gets_its_unit_when_others_give_up_together(
    tmp_path: Path,
) -> None:
    async with process(tmp_path / "state.db") as (state, queue, group):
        held, waiting = (
            [ContextPermit("team"), ContextPermit("team")],
            [ContextPermit("team") for _ in range(3)],
        )
        for lease in held:
            await queue.acquire(lease)
        for lease in waiting:
            group.start_soon(queue.acquire, lease)
        await state.reached(in_use=LIMIT, waiting=3)
        state.others_run = lambda: 1
        for lease in [*waiting[:2], *held]:
            await queue.release(lease)
        await waiting[2].held.wait()
        await state.reached(in_use=1, waiting=0)


async def test_waiter_that_gave_up_while_another_failed_to_enqueue_leaves_the_queue(
    tmp_path: Path,
) -> None:
    async with process(tmp_path / "state.db") as (state, queue, group):
        held, waiting = [ContextPermit("team"), ContextPermit("team")], ContextPermit("team")
        for lease in held:
            await queue.acquire(lease)
        group.start_soon(queue.acquire, waiting)
        await state.reached(in_use=LIMIT, waiting=1)
        state.disk_is_full, state.others_run = lambda: True, lambda: 1
        async with anyio.create_task_group() as joining:

            async def join() -> None:
                with pytest.raises(BackendUnavailable):
                    await queue.acquire(ContextPermit("team"))
                state.disk_is_full = lambda: False

            joining.start_soon(join)
            await anyio.sleep(0)
            await queue.release(waiting)
        await state.reached(in_use=LIMIT, waiting=0)


HAPPENINGS = st.sampled_from(["enter", "enter", "give up", "go", "time passes"])


histories = given(
    happenings=st.lists(HAPPENINGS, max_size=30),
    full=st.lists(st.booleans(), max_size=60),
    pauses=st.lists(st.integers(0, 3), max_size=100),
)


@settings(max_examples=20, deadline=None)
@histories
def test_all_contexts_get_and_release_a_unit_with_an_intermittently_full_disk(
    happenings: list[str], full: list[bool], pauses: list[int]
) -> None:
    serve_all_contexts(happenings, full, pauses)


@pytest.mark.soak
@settings(max_examples=500, deadline=None)
@histories
def test_all_contexts_get_and_release_a_unit_in_hundreds_of_histories_of_a_full_disk(
    happenings: list[str], full: list[bool], pauses: list[int]
) -> None:
    serve_all_contexts(happenings, full, pauses)


def serve_all_contexts(happenings: list[str], full: list[bool], pauses: list[int]) -> None:
    async def live(folder: str) -> None:
        async with process(Path(folder, "state.db")) as (state, queue, group):
            contexts = Contexts(queue, group)
            coming, between = iter(full), iter(pauses)
            state.disk_is_full = lambda: next(coming, False)
            state.others_run = lambda: next(between, 0)
            for happening in happenings:
                if happening == "enter":
                    contexts.enter()
                elif happening == "give up":
                    await contexts.leave(contexts.waiting)
                elif happening == "go":
                    await contexts.leave(contexts.held)
                else:
                    await anyio.sleep(0)
                assert len(contexts.held) <= LIMIT
            coming = iter([])
            while contexts.waiting or contexts.held:
                await contexts.leave(contexts.held)
                await anyio.sleep(0.001)
            await state.reached(in_use=0, waiting=0)

    with TemporaryDirectory() as folder:
        asyncio.run(live(folder))
