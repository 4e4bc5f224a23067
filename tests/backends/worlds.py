"""A backend of each kind, with as many holders as a test opens, and its own clock."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from backends.steps import OWN
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.space import JOURNAL_BYTES
from replicate_mcp.backends.sqlite.backend import SqliteBackend, _remove_holder
from replicate_mcp.batches.backend import Backend


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """One backend with as many holders as a test opens."""

    def __init__(
        self, open_as: Callable[[str, Clock, int], Awaitable[Backend]], stack: AsyncExitStack
    ) -> None:
        self._open_as = open_as
        self._stack = stack
        self.clock = Clock()

    async def declare_dead(self, backend: Backend, by: Backend) -> None:
        """Let a process, which only lost contact, be declared dead by another one."""
        if isinstance(backend, SqliteBackend) and isinstance(by, SqliteBackend):
            dead = backend._holder
            await by._step(lambda permits, journal: _remove_holder(permits, journal, dead))
        elif isinstance(backend, RedisBackend) and isinstance(by, RedisBackend):
            client, prefix = by._server._client, by._server.address.prefix
            await client.zadd(f"{prefix}leases", {backend._session.holder: 1})
            await client.hset(f"{prefix}holders", f"since {by._session.holder}", "1")
            by._session._unbroken_since = float("-inf")
            await by.semaphores()

    async def open(self, label: str = "", journal_bytes: int = JOURNAL_BYTES) -> Backend:
        """Open a holder, which the test closes."""
        return await self._open_as(label, self.clock, journal_bytes)

    async def holder(
        self,
        limit: int = 3,
        per_minute: float = 60_000,
        label: str = "",
        journal_bytes: int = JOURNAL_BYTES,
    ) -> Backend:
        backend = await self.open(label, journal_bytes)
        self._stack.push_async_callback(backend.close)
        await backend.declare_limit(OWN, limit, per_minute=per_minute)
        return backend


QUIET_SECONDS = 0.1
"""A wake-up that was sent before arrives within this time; a slower one only weakens a test."""


class WakeUps:
    """The wake-ups of one holder, counted as they arrive."""

    def __init__(self) -> None:
        self._count = 0

    async def drain(self) -> None:
        """Return once none has arrived for a while, so that later ones are new."""
        seen = -1
        while seen != self._count:
            seen = self._count
            await anyio.sleep(QUIET_SECONDS)

    async def next_after(self, step: Callable[[], Awaitable[object]]) -> None:
        """Drain, make a call of another holder, and wait until it has woken this one."""
        await self.drain()
        before = self._count
        await step()
        with anyio.fail_after(5):
            while self._count == before:
                await anyio.sleep(0.005)

    async def none_after(self, step: Callable[[], Awaitable[object]]) -> None:
        """Drain, make a call, and check that it wakes no holder."""
        await self.drain()
        before = self._count
        await step()
        await anyio.sleep(QUIET_SECONDS)
        assert self._count == before

    async def listen(self, backend: Backend) -> None:
        while True:
            await backend.wait_for_wakeup()
            self._count += 1


@asynccontextmanager
async def wake_ups(backend: Backend) -> AsyncIterator[WakeUps]:
    """Count a holder's wake-ups while the block runs."""
    counted = WakeUps()
    async with anyio.create_task_group() as group:
        group.start_soon(counted.listen, backend)
        yield counted
        group.cancel_scope.cancel()
