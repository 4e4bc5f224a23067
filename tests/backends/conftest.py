"""Fixtures for tests of backends: each kind of backend, and Redis holders with a short lease."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex

import anyio
import pytest

from backends.servers import KINDS, RunningServer, open_for_admission, running_server
from backends.steps import OWN
from backends.worlds import Clock, World
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.space import JOURNAL_BYTES
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.backend import Backend

LEASE = 0.5


class Fleet:
    """Holders on one Redis server, with a lease of half a second."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.prefix = token_hex(4)
        self._alive: dict[RedisBackend, anyio.CancelScope] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._all: list[RedisBackend] = []

    async def holder(
        self,
        limit: int = 3,
        per_minute: float = 60_000,
        port: int | None = None,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> RedisBackend:
        """Open a holder that is closed with the fleet."""
        url = self.server.url(self.prefix, lease=LEASE, port=port)
        label = f"process {len(self._all)}"
        backend = await RedisBackend.open(url, label=label, journal_bytes=journal_bytes)
        await backend.declare_limit(OWN, limit, per_minute=per_minute)
        self._all.append(backend)
        self.go_on(backend)
        return backend

    def stop(self, backend: RedisBackend) -> None:
        """Stop a holder's lease renewal."""
        self._alive.pop(backend).cancel()

    def go_on(self, backend: RedisBackend) -> None:
        """Resume a holder's lease renewal."""
        scope = self._alive[backend] = anyio.CancelScope()

        async def live() -> None:
            with scope:
                await backend.run()

        self._tasks.append(asyncio.create_task(live()))

    async def lapses(self, backend: RedisBackend) -> None:
        """Stop a holder and wait until its lease has expired."""
        self.stop(backend)

        async def lapsed() -> bool:
            return self.lease_left(backend) < 0

        await until(lapsed)

    def lease_left(self, backend: RedisBackend) -> float:
        """Return the seconds until the end of a holder's lease."""
        with self.server.client as client:
            ends_at = client.zscore(self.key("leases"), backend._session.holder)
        assert ends_at is not None
        return float(ends_at) - server_time(self.server)

    def key(self, name: str) -> str:
        return f"{{{self.prefix}}}:{name}"

    def forget(self, *names: str) -> None:
        """Delete these keys on the server."""
        with self.server.client as client:
            assert client.delete(*map(self.key, names))

    async def opened(self, backend: RedisBackend, account: str = "acme") -> None:
        """Wait until the account's state may be imported, then import that nothing is running."""
        await until(lambda: backend.has_lost_state(account))
        await backend.import_running(account, [])

    async def close(self) -> None:
        for scope in self._alive.values():
            scope.cancel()
        await asyncio.gather(*self._tasks)
        for backend in self._all:
            await backend.close()


@asynccontextmanager
async def fleet_at(server: RunningServer) -> AsyncIterator[Fleet]:
    """Run a fleet on a server that admits work."""
    fleet = Fleet(server)
    await open_for_admission(server, fleet.prefix, "acme")
    yield fleet
    await fleet.close()


def server_time(server: RunningServer) -> float:
    """Return the server's time in seconds since the epoch."""
    with server.client as client:
        seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until it is true."""
    with anyio.fail_after(10):
        while not await condition():
            await anyio.sleep(0.01)


@pytest.fixture(params=KINDS)
async def fleet(
    request: pytest.FixtureRequest, servers: Callable[[str], RunningServer]
) -> AsyncIterator[Fleet]:
    """Return a fleet on a shared server, which no test may break."""
    async with fleet_at(servers(request.param)) as fleet:
        yield fleet


@pytest.fixture(params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Return a server for one test, which may break it."""
    with running_server(request.param) as server:
        yield server


@pytest.fixture
async def fragile(own_server: RunningServer) -> AsyncIterator[Fleet]:
    """Return a fleet on a server for one test."""
    async with fleet_at(own_server) as fleet:
        yield fleet


def since(backend: RedisBackend) -> str:
    """Return the field of `holders` that says when a holder's unbroken contact began."""
    return f"since {backend._session.holder}"


class Site:
    """Holders on one server with a clock set by the test: leases expire when the test says so."""

    LEASE = 60.0

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.prefix = token_hex(4)
        self.clock = Clock()
        self.open: list[RedisBackend] = []

    async def holder(
        self,
        limit: int = 3,
        per_minute: float = 60_000,
        label: str = "",
        lease: float = LEASE,
        journal_bytes: int = JOURNAL_BYTES,
        declares: bool = True,
    ) -> RedisBackend:
        """Open a holder that does not renew its lease by itself."""
        url = self.server.url(self.prefix, lease=lease)
        backend = await RedisBackend.open(
            url, label=label, clock=self.clock, journal_bytes=journal_bytes
        )
        self.open.append(backend)
        if declares:
            await backend.declare_limit(OWN, limit, per_minute=per_minute)
        return backend

    def key(self, name: str) -> str:
        return f"{{{self.prefix}}}:{name}"

    def get(self, key: str, field: str) -> str | None:
        """Return a field of a hash, or None."""
        with self.server.client as client:
            value = client.hget(self.key(key), field)
        assert value is None or isinstance(value, str)
        return value

    def set(self, key: str, **fields: object) -> None:
        """Set fields of a hash."""
        with self.server.client as client:
            client.hset(self.key(key), mapping={name: str(each) for name, each in fields.items()})

    def ttl(self, key: str) -> float:
        with self.server.client as client:
            return int(client.pttl(self.key(key))) / 1000

    def now(self) -> float:
        """Return the server's time."""
        return server_time(self.server)

    def forget(self, *names: str) -> None:
        """Delete these keys, or all keys if none is given."""
        with self.server.client as client:
            assert client.delete(*(map(self.key, names) if names else client.keys(self.key("*"))))

    def end_pause(self) -> None:
        """End the admission pause that follows a loss of state."""
        self.set("generation", opens_at=0)

    async def admit_again(self, backend: RedisBackend, account: str = "acme") -> None:
        """End the admission pause and import that nothing of the account is running."""
        self.end_pause()
        assert await backend.has_lost_state(account)
        await backend.import_running(account, [])

    def lapse(self, backend: RedisBackend, by: RedisBackend) -> None:
        """Let a holder's lease expire while another holder keeps contact for a whole lease."""
        self.set_lease(backend, self.now() - 0.001)
        self.in_contact(by)

    def set_lease(self, backend: RedisBackend, ends_at: float) -> None:
        """Set the end of a holder's lease, on the server's clock."""
        with self.server.client as client:
            client.zadd(self.key("leases"), {backend._session.holder: ends_at})

    def in_contact(self, backend: RedisBackend) -> None:
        """Set a holder's contact as uninterrupted for a whole lease."""
        backend._session._unbroken_since = float("-inf")
        self.set("holders", **{since(backend): self.now() - self.LEASE})


@pytest.fixture(params=KINDS)
async def site(
    request: pytest.FixtureRequest, servers: Callable[[str], RunningServer]
) -> AsyncIterator[Site]:
    """Return holders with the test's clock on a server that admits work."""
    site = Site(servers(request.param))
    await open_for_admission(site.server, site.prefix, "acme")
    yield site
    for backend in site.open:
        await backend._server.close()


@pytest.fixture(params=["memory", "sqlite", *KINDS])
async def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    servers: Callable[[str], RunningServer],
) -> AsyncIterator[World]:
    """Return each kind of backend in turn."""
    if request.param in KINDS:
        server, prefix = servers(request.param), token_hex(4)
        await open_for_admission(server, prefix, "acme", "other")

        async def open_as(label: str, clock: Clock, journal_bytes: int) -> Backend:
            return await RedisBackend.open(
                server.url(prefix), label=label, clock=clock, journal_bytes=journal_bytes
            )

    else:
        location = ":memory:" if request.param == "memory" else str(tmp_path / "state.db")

        async def open_as(label: str, clock: Clock, journal_bytes: int) -> Backend:
            return await SqliteBackend.open(
                location, label=label, clock=clock, journal_bytes=journal_bytes
            )

    async with AsyncExitStack() as stack:
        yield World(open_as, stack)
