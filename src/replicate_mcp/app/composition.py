"""Composition root: builds the backend, the gateways and the batch runner from the settings."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from replicate_mcp.backends.space import JOURNAL_BYTES
from replicate_mcp.batches.runner import BatchRunner
from replicate_mcp.errors import ReplicateMcpError, Unauthorized
from replicate_mcp.refused_credentials import RefusedCredentials
from replicate_mcp.replicate_api.accounts import Accounts
from replicate_mcp.replicate_api.model_resolver import ModelResolver
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.context_permits import ContextQueue
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.settings import Settings
from replicate_mcp.user_files import state_file

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from replicate_mcp.batches.backend import Backend
    from replicate_mcp.batches.observer import Observer

log = logging.getLogger(__name__)

RETRY_DELAY_SECONDS = 30.0
"""Delay before the account of the server's token is requested again after a failure."""


class Components:
    """The backend, the batch runner, and everything that they depend on."""

    def __init__(
        self,
        settings: Settings,
        backend: "Backend",
        dispatcher: OfferDispatcher,
        runner: BatchRunner,
        contexts: ContextQueue,
        models: ModelResolver,
        refused: RefusedCredentials | None = None,
    ) -> None:
        self.backend = backend
        self.dispatcher = dispatcher
        self.runner = runner
        self.contexts = contexts
        self.models = models
        self._settings = settings
        self.accounts = Accounts(
            settings.replicate_base_url,
            backend,
            public_url=settings.public_url,
            refused=refused or RefusedCredentials(),
        )
        self._declared: set[str] = set()
        self._declaring = anyio.Lock()

    @classmethod
    async def open(
        cls,
        settings: Settings,
        group: "TaskGroup",
        observer: "Observer | None" = None,
        *,
        is_service: bool = False,
        batch_bytes: int | None = None,
        refused: RefusedCredentials | None = None,
    ) -> "Components":
        """Build the components, and start their background work."""
        backend = await open_backend(settings.backend, journal_bytes=settings.journal_mb * 1024**2)
        dispatcher = OfferDispatcher(backend)
        models = ModelResolver(backend)
        resume = settings.resume
        runner = BatchRunner(
            backend,
            dispatcher,
            group,
            prediction_seconds=settings.prediction_seconds,
            batch_seconds=settings.batch_seconds,
            images_per_day=settings.images_per_day,
            resume="never" if resume == "service" and not is_service else resume,
            models=models,
            max_bytes=batch_bytes,
            observer=observer,
        )
        group.start_soon(backend.run)
        group.start_soon(dispatcher.run)
        group.start_soon(runner.watch_cancellations)
        contexts = ContextQueue(backend, BackendCalls(dispatcher, group))
        components = cls(settings, backend, dispatcher, runner, contexts, models, refused)
        group.start_soon(components.accounts.close_idle)
        if settings.token:
            group.start_soon(components.recover_own_account)
        return components

    async def recover_own_account(self) -> None:
        """Take over the work that earlier processes of the server's own account left."""
        while True:
            try:
                await self.account(self._settings.token or "")
                return
            except Unauthorized as error:
                log.warning("%s", error)
                return
            except ReplicateMcpError as error:
                log.info("recovery of earlier processes' work is retried later: %s", error)
            except Exception:
                # No failure here may stop the server.
                log.exception("recovery of earlier processes' work is retried later")
            await anyio.sleep(RETRY_DELAY_SECONDS)

    async def account(self, token: str, source: str = "") -> str:
        """Return the account of `token`, and declare its limit and rate once.

        Args:
            token: a Replicate token.
            source: the address that sent the token over HTTP; "" if none did.
        """
        account = await self.accounts.name(token, source)
        async with self._declaring:
            if account not in self._declared:
                await self.backend.declare_limit(
                    account_semaphore(account),
                    self._settings.concurrent_limit,
                    per_minute=self._settings.requests_per_minute,
                )
                self._declared.add(account)
        self.runner.recover(account, self.accounts.gateway(token))
        return account

    async def close(self) -> None:
        """Leave the backend, and close every client."""
        await self.backend.close()
        await self.accounts.close()


async def open_backend(value: str, *, journal_bytes: int = JOURNAL_BYTES) -> "Backend":
    """Open the backend that a value of `REPLICATE_MCP_BACKEND` selects.

    Args:
        value: a value of the setting: `memory`, `sqlite`, or a URL.
        journal_bytes: journal space of each account, in bytes.

    Raises:
        BackendUnavailable: it cannot be used; the message says why and what to do.
    """
    if value.startswith(("redis://", "rediss://")):
        from replicate_mcp.backends.redis.backend import RedisBackend

        return await RedisBackend.open(value, label=_label(), journal_bytes=journal_bytes)

    from replicate_mcp.backends.sqlite.backend import SqliteBackend
    from replicate_mcp.backends.sqlite.database import MEMORY

    path = state_file(value)
    return await SqliteBackend.open(
        MEMORY if path is None else str(path), label=_label(), journal_bytes=journal_bytes
    )


def _label() -> str:
    """Return a readable name of this process: its program, its command if any, and its pid."""
    called = Path(sys.argv[0])
    program = called.parent.name if called.stem == "__main__" else called.stem
    command = [word for word in sys.argv[1:2] if word.isalpha()]
    return f"{' '.join([program if program.strip('-') else 'python', *command])} [{os.getpid()}]"
