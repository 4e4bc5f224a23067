"""Operations of one process, shared by MCP, HTTP, the command line and Python programs.

Nothing heavy is imported before the first call that needs it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from replicate_mcp.app.batches import BatchOperations
from replicate_mcp.app.semaphores import SemaphoreOperations
from replicate_mcp.auth import Access, Caller
from replicate_mcp.errors import InvalidInput, ReplicateMcpError
from replicate_mcp.settings import Settings
from replicate_mcp.user_files import state_file

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from replicate_mcp.app.composition import Components
    from replicate_mcp.batches.backend import Backend
    from replicate_mcp.batches.observer import Observer
    from replicate_mcp.replicate_api.gateway import Gateway
    from replicate_mcp.replicate_api.model_resolver import ModelResolver
    from replicate_mcp.replicate_api.model_search import SearchResult
    from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
    from replicate_mcp.tasks.input_schema import InputSchema

log = logging.getLogger(__name__)

ORPHANS_POLL_SECONDS = 3.0
"""Seconds between two reads of the state file by an idle server, for work of dead processes."""


class App:
    """Components that the callers of a process share, opened by the first call that needs them.

    Args:
        is_service: whether callers reach the process over HTTP, so that others may resume its
            batches.
        batch_bytes: memory that the batches of all callers may use, in bytes; None for no limit.
        settings_error: why the settings cannot be used; every call raises it.
    """

    def __init__(
        self,
        settings: Settings,
        group: "TaskGroup",
        *,
        listens_on_loopback: bool = False,
        is_service: bool = False,
        batch_bytes: int | None = None,
        settings_error: InvalidInput | None = None,
    ) -> None:
        self.settings = settings
        self._is_service = is_service
        self._batch_bytes = batch_bytes
        self.observer: Observer | None = None
        key = settings.admin_api_key
        self.access = Access(
            server_token=settings.token,
            admin_key=key.get_secret_value() if key else None,
            listens_on_loopback=listens_on_loopback,
            allow_local=settings.local,
            allow_anonymous=settings.allow_anonymous,
            allowed_hosts=settings.allowed_hosts,
            settings_error=settings_error,
        )
        self.semaphores = SemaphoreOperations(settings, self.access, self._open)
        self.batches = BatchOperations(settings, self._open)
        self.is_shutting_down = False
        self._group = group
        self._components: Components | None = None
        self._opening = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: Settings,
        *,
        listens_on_loopback: bool = False,
        is_service: bool = False,
        batch_bytes: int | None = None,
        settings_error: InvalidInput | None = None,
    ) -> AsyncIterator["App"]:
        """Yield an app whose background work runs until the end of the block.

        Nothing is opened before the first call that needs it: hosts start a server for every
        window, and most of those servers never receive a request.
        """
        app: App | None = None
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                app = cls(
                    settings,
                    group,
                    listens_on_loopback=listens_on_loopback,
                    is_service=is_service,
                    batch_bytes=batch_bytes,
                    settings_error=settings_error,
                )
                try:
                    yield app
                except Exception as raised:
                    error = raised  # Raised below, outside the group that would wrap it.
                group.cancel_scope.cancel()
        finally:
            # Close after the background work has ended, since it uses the backend, and even when
            # cancelled: other processes then learn at once that this process is gone.
            with anyio.CancelScope(shield=True):
                if app is not None:
                    await app.close()
        if error is not None:
            raise error

    def begin_shutdown(self) -> None:
        """End every wait for a batch, now and from now on, because the process is about to exit."""
        self.is_shutting_down = True
        self.batches.begin_shutdown()

    async def close(self) -> None:
        """Leave the backend; predictions that run on Replicate keep their permits."""
        if self._components is not None:
            components, self._components = self._components, None
            await components.close()

    def caller(self, own_token: str | None = None) -> Caller:
        """Return this machine's user, with `own_token`, else with the server's token."""
        return self.access.authenticate_local(own_token)

    async def recover(self) -> None:
        """Start to take over work that other processes of the server's own account leave.

        Any call starts this as well; this method starts it without a call. Do nothing if the server
        has no token of its own (recovery then starts with the first caller that sends one), or if
        the backend is `memory`, which has nothing to recover.
        """
        if self.access.settings_error is not None:
            return
        if self.settings.token and self.settings.backend != "memory":
            try:
                await self._open()
            except ReplicateMcpError as error:
                log.warning("%s", error)

    async def recover_when_needed(self) -> None:
        """Wait until a dead process has left something to recover, then call `recover`.

        Until then the state file is only read, and nothing is imported or opened that an idle
        server does not need. A backend without a file is opened at once.
        """
        from replicate_mcp.backends.sqlite.orphans import has_orphans

        if self.settings.token and self.access.settings_error is None:
            path = state_file(self.settings.backend)
            while path is not None and self._components is None:
                if await anyio.to_thread.run_sync(has_orphans, path):
                    break
                await anyio.sleep(ORPHANS_POLL_SECONDS)
        await self.recover()

    async def backend(self) -> "Backend":
        """Return the store of semaphores, permits and the journal."""
        return (await self._open()).backend

    async def dispatcher(self) -> "OfferDispatcher":
        """Return the dispatcher of this process's offers."""
        return (await self._open()).dispatcher

    async def find_models(self, query: str | None, caller: Callable[[], Caller]) -> "SearchResult":
        """Return the recommended models that match, then the results of Replicate's own search.

        Args:
            query: search terms; None for all recommended models, without a request to Replicate.
            caller: returns the caller; it may raise `Unauthorized`.

        Raises:
            ReplicateMcpError: Replicate's search failed or was not possible, and no recommended
                model matches.
        """
        from replicate_mcp.replicate_api.model_search import (
            SearchResult,
            recommended_models,
            search_replicate,
        )

        self.access.check_settings()
        known = recommended_models(query)
        if query is None:
            return SearchResult(known)
        try:
            others = await search_replicate(query, await self.gateway(caller()))
        except ReplicateMcpError as error:
            if not known:
                raise
            return SearchResult(known, f"Replicate's own catalogue was not searched: {error}")
        names = {model.name for model in known}
        return SearchResult([*known, *(model for model in others if model.name not in names)])

    async def model_inputs(self, caller: Caller, name: str) -> "InputSchema | None":
        """Return a model's inputs by its own schema; None if Replicate has no readable schema.

        Raises:
            ReplicateMcpError: no such model exists, or Replicate refused the request.
        """
        from replicate_mcp.replicate_api.model_search import inputs

        accounts = (await self._open()).accounts
        account = await accounts.name(caller.token, caller.source)
        return await inputs(name, accounts.gateway(caller.token), await self.models(), account)

    async def models(self) -> "ModelResolver":
        """Return the resolver of model names, with its cached results."""
        return (await self._open()).models

    async def gateway(self, caller: Caller) -> "Gateway":
        """Return the caller's gateway to Replicate, once the account of their token is known.

        Raises:
            ReplicateMcpError: Replicate refused the token, or did not answer.
        """
        accounts = (await self._open()).accounts
        # The token may be made up, and no gateway is created for such a token.
        await accounts.name(caller.token, caller.source)
        return accounts.gateway(caller.token)

    async def receive_webhook(self, account: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Store a webhook for the code that follows its prediction; False if the store is full.

        Raises:
            InvalidInput: the request is not a webhook.
            Unauthorized: Replicate did not send it.
        """
        from replicate_mcp.replicate_api.webhooks import Message

        message = Message.from_request(headers, body)
        return await (await self._open()).accounts.receive(account, message)

    def start_background(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Run `work` in the background of the app, independently of the request that started it."""
        self._group.start_soon(work, *arguments)

    async def _open(self) -> "Components":
        self.access.check_settings()
        if self._components is None:
            async with self._opening:
                if self._components is None:
                    from replicate_mcp.app.composition import Components

                    self._components = await Components.open(
                        self.settings,
                        self._group,
                        self.observer,
                        is_service=self._is_service,
                        batch_bytes=self._batch_bytes,
                        refused=self.access.refused,
                    )
        return self._components
