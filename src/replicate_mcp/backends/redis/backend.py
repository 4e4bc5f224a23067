"""The Redis backend: one server, Redis 6.2 or newer or Valkey, shared by a fleet of machines.

Every operation is one call of one script (in `lua/`), by the server's own clock. Each process has
a lease, which it renews; a process whose lease has ended creates nothing. Nothing that a process
does while it is idle, and no step of a task, reads the state of every other process: dead ones are
found by the end of their lease, and what they left by its account.

An emptied server is indistinguishable from a new one. So if it has lost any state, or may have (a
restart, a failover, an evicted key), nothing is admitted for one lease: every living process sends
its state again, and the running predictions of each account's list are imported too. A new server
costs this lease once.

Two gaps remain. If a server loses its memory while a process is suspended between recording an
attempt and sending it, for longer than a lease, one prediction more than the limit can be created.
And a named semaphore loses the permits of a process that died at the same time, since the list of
predictions does not show them.
"""

import logging
from collections.abc import Callable

import anyio

from replicate_mcp.backends.redis.attempts import RedisAttempts
from replicate_mcp.backends.redis.config_checks import config_warnings
from replicate_mcp.backends.redis.connection import Address, RedisConnection
from replicate_mcp.backends.redis.decoding import REASONS
from replicate_mcp.backends.redis.journal import RedisJournal
from replicate_mcp.backends.redis.mirror import Mirror
from replicate_mcp.backends.redis.permits import RedisPermits
from replicate_mcp.backends.redis.session import Session
from replicate_mcp.backends.space import JOURNAL_BYTES
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.permit_store import Scope

log = logging.getLogger(__name__)


class RedisBackend(RedisPermits, RedisAttempts, RedisJournal):
    """An implementation of `Backend` on a Redis or Valkey server."""

    scope: Scope = "fleet"

    def __init__(self, server: RedisConnection, label: str, journal_bytes: int) -> None:
        mirror = Mirror()
        super().__init__(Session(server, mirror, label), mirror, journal_bytes)
        self._server = server
        self.send_within_seconds = server.address.lease / 2

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        label: str = "",
        clock: Callable[[], float] | None = None,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> "RedisBackend":
        """Connect to the server at `url`, and register this process there.

        Args:
            url: `redis://` or `rediss://` (TLS), with user, password and database; `?lease=` in
                seconds and `?prefix=` must be the same for all processes that share the server.
            label: the name of this process in listings for people.
            clock: returns seconds since the epoch in place of the server's clock, for tests.
            journal_bytes: the allowance of each account in the journal.

        Raises:
            BackendUnavailable: the server cannot be used; the message says why and what to do.
        """
        server = RedisConnection(Address.parse(url), clock=clock, journal_bytes=journal_bytes)
        backend = cls(server, label, journal_bytes)
        try:
            await backend._server.listen(backend._session.holder)
            async with backend._session.lock() as session:
                await session.renew()
        except BaseException:
            # On cancellation too: nothing else refers to the connections that were opened.
            with anyio.CancelScope(shield=True):
                await backend._server.close()
            raise
        return backend

    async def close(self) -> None:
        """Deregister: drop offers and queue entries, keep permits of running predictions."""
        try:
            async with self._session.lock() as session:
                await session.call("close", reasons=REASONS)
        except BackendUnavailable as error:
            log.info("%s Its lease ends by itself.", error)
        finally:
            await self._server.close()

    async def config_warnings(self) -> list[str]:
        """Return a sentence for each unsuitable server setting."""
        return config_warnings(await self._server.server_info())

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        await self._session.renew_lease()

    async def wait_for_wakeup(self) -> None:
        """Wait until another process's call may have made this one an offer."""
        await self._server.wait_for_wakeup(self._session.holder)
