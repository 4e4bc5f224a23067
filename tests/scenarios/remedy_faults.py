"""Faults of the matrix: the call or method that each interrupts, and how it is broken."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from backends.link import Link
from backends.servers import RunningServer
from replicate_mcp.backends.redis import connection as redis_server
from replicate_mcp.backends.sqlite import backend as sqlite_backend
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.database import Database
from replicate_mcp.backends.sqlite.wakeup import Doorbell
from replicate_mcp.replicate_api.accounts import Accounts
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.simulator.engine.fault_injection import Call
from scenarios.remedy_cells import ANSWERS

LEASE = 1.0

OUTAGE_SECONDS = 0.3

TIMEOUT_SECONDS = 0.4
"""How long an answer is waited for while a fault holds it."""

ROUTES: Mapping[str, tuple[Call, str]] = {
    "cancel": ("cancel", "POST /v1/predictions/{id}/cancel"),
    "list": ("list", "GET /v1/predictions"),
    "account": ("account", "GET /v1/account"),
    "adopt": ("list", "GET /v1/predictions"),
    "upload": ("upload", "POST /v1/files"),
    "webhook": ("secret", "GET /v1/webhooks/default/secret"),
}
"""The kind of call to Replicate that a fault strikes, and its route, by remedy."""

STEPS: Mapping[str, str] = {
    "cancel": "cancel_batch",
    "list": "open_attempts",
    "account": "get_cached",
    "adopt": "adopt",
    "claim": "claim_prediction",
    "finish": "finish",
    "put-back": "requeue",
    "release": "release",
    "wake-up": "finish",
    "webhook": "set_cached",
}
"""The step at the backend that a fault strikes, by remedy."""

KILLED_AT: Mapping[str, tuple[type, str]] = {
    "cancel": (Gateway, "cancel"),
    "list": (Gateway, "predictions_since"),
    "account": (Gateway, "account"),
    "upload": (Gateway, "upload"),
    "webhook": (Accounts, "receive"),
    **{
        remedy: (SqliteBackend, STEPS[remedy])
        for remedy in ("adopt", "claim", "finish", "put-back", "release")
    },
    "wake-up": (Doorbell, "ring"),
}
"""The method at which the process is killed, by remedy."""

FINAL = {
    "cancel": ("401", "403", "404"),
    "list": ("401", "403"),
    "account": ("400", "401", "403", "404"),
    "upload": (*ANSWERS, "reset", "timeout", "malformed"),
}
"""Faults after which a remedy is not tried again: they strike once for each use of it."""


class Outage:
    """A backend that breaks, and is restored after `OUTAGE_SECONDS`.

    Attributes:
        over: set when the backend is restored.
    """

    def __init__(
        self,
        remedy: str,
        fault: str,
        folder: Path,
        patch: pytest.MonkeyPatch,
        server: RunningServer | None,
        link: Link | None,
    ) -> None:
        self.over = anyio.Event()
        self._remedy, self._fault, self._folder = remedy, fault, folder
        self._patch, self._server, self._link = patch, server, link
        self._restoring: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Break the backend, and restore it later, whatever happens to the call."""
        self._patch.setattr(sqlite_backend, "LONG_LOCK_TIMEOUT_SECONDS", 0.05)
        self._patch.setattr(redis_server, "MAX_TIMEOUT_SECONDS", 0.2)
        restore = await self._break()
        self._restoring = asyncio.create_task(self._restore(restore))

    async def _restore(self, restore: Callable[[], Awaitable[None]]) -> None:
        await anyio.sleep(OUTAGE_SECONDS)
        await restore()
        self._patch.setattr(redis_server, "MAX_TIMEOUT_SECONDS", 5.0)
        self._patch.setattr(sqlite_backend, "LONG_LOCK_TIMEOUT_SECONDS", 10.0)
        self.over.set()

    async def _break(self) -> Callable[[], Awaitable[None]]:
        if self._fault == "sqlite-locked":
            return self._lock_file()
        if self._fault == "sqlite-full":
            return self._fill_disk()
        server, link = self._server, self._link
        assert server is not None
        assert link is not None
        match self._fault:
            case "reset" if self._remedy == "wake-up":
                with server.client as client:
                    client.client_kill_filter(_type="pubsub")
            case "reset":
                link.lose_answers(2)  # A call whose connection broke is repeated once.
            case "malformed":
                link.spoil_answers(2)
            case "timeout":
                server.pause()
                return _later(server.go_on)
            case "redis-stopped":
                server.save()
                server.kill()
                return _later(server.start)
            case "redis-restarted":
                await anyio.to_thread.run_sync(server.restart)
        return _later(lambda: None)

    def _lock_file(self) -> Callable[[], Awaitable[None]]:
        other = sqlite3.connect(
            self._folder / "state.db", isolation_level=None, check_same_thread=False
        )
        other.execute("BEGIN IMMEDIATE")
        return _later(other.close)

    def _fill_disk(self) -> Callable[[], Awaitable[None]]:
        import resource  # POSIX only.

        usual, run = resource.getrlimit(resource.RLIMIT_FSIZE), Database.run

        def without_room(database: Database, step: Any, *, timeout: float) -> Any:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))
            try:
                return run(database, step, timeout=timeout)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, usual)

        self._patch.setattr(Database, "run", without_room)
        return _later(lambda: self._patch.setattr(Database, "run", run))


def _later(restore: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await anyio.to_thread.run_sync(restore)

    return work
