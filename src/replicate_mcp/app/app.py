"""What a process offers to its edges: MCP, HTTP, the command line and Python programs alike.

Nothing heavy is imported before the first call that needs it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from replicate_mcp.app.batches import BatchOperations
from replicate_mcp.app.semaphores import SemaphoreOperations
from replicate_mcp.auth import Access, Caller
from replicate_mcp.errors import InvalidInput, ReplicateMcpError
from replicate_mcp.settings import Settings

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


class App:
    """All that a process shares between its callers, made at the first call that needs it.

    Args:
        batch_bytes: how much memory the batches of all callers may take; None for any amount.
        settings_error: why the settings cannot be used; every call raises it.
    """

    def __init__(
        self,
        settings: Settings,
        group: "TaskGroup",
        *,
        listens_on_loopback: bool = False,
        batch_bytes: int | None = None,
        settings_error: InvalidInput | None = None,
    ) -> None:
        self.settings = settings
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
        self.batches = BatchOperations(settings, self.semaphores, self._open)
        self.is_shutting_down = False
        self._group = group
        self._parts: Components | None = None
        self._opening = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: Settings,
        *,
        listens_on_loopback: bool = False,
        batch_bytes: int | None = None,
        settings_error: InvalidInput | None = None,
    ) -> AsyncIterator["App"]:
        """An app whose work goes on in the background until the end of the block.

        Nothing is opened before the first call that needs it: hosts start servers for every
        window, and most of them are never asked for an image.
        """
        app: App | None = None
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                app = cls(
                    settings,
                    group,
                    listens_on_loopback=listens_on_loopback,
                    batch_bytes=batch_bytes,
                    settings_error=settings_error,
                )
                try:
                    yield app
                except Exception as raised:
                    error = raised  # As it is, not in the group's wrapping.
                group.cancel_scope.cancel()
        finally:
            # After the background's end, which stands on it; and even when cancelled: others learn
            # at once that this process is gone.
            with anyio.CancelScope(shield=True):
                if app is not None:
                    await app.close()
        if error is not None:
            raise error

    def begin_shutdown(self) -> None:
        """The process is about to leave: nobody is kept waiting for a batch any longer."""
        self.is_shutting_down = True
        self.batches.begin_shutdown()

    async def close(self) -> None:
        """Tell the other processes that this one goes; what runs on Replicate keeps its permit."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            await parts.close()

    def caller(self, own_token: str | None = None) -> Caller:
        """Return this machine's user, by the token they brought, else the server's."""
        return self.access.authenticate_local(own_token)

    # What the edges offer

    async def recover(self) -> None:
        """Take over, from now on, what other processes of the server's own account leave.

        Any call begins that as well; a server does it though nobody calls. Without a token of its
        own it waits for a caller that brings one, and memory has nothing to recover.
        """
        if self.access.settings_error is not None:
            return
        if self.settings.token and self.settings.backend != "memory":
            try:
                await self._open()
            except ReplicateMcpError as error:
                log.warning("%s", error)

    async def backend(self) -> "Backend":
        """Where semaphores, permits and the journal live."""
        return (await self._open()).backend

    async def dispatcher(self) -> "OfferDispatcher":
        """This process, as the backend's holder."""
        return (await self._open()).dispatcher

    async def find_models(self, query: str | None, caller: Callable[[], Caller]) -> "SearchResult":
        """The models chosen by hand that fit, then what Replicate's catalogue has for the query.

        Args:
            query: None for all that were chosen by hand; Replicate is not asked then.
            caller: tells who asks; it may raise `Unauthorized`.

        Raises:
            ReplicateMcpError: Replicate was not asked, or did not answer, and nothing else fits.
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
        """What a model takes, by its own schema; None where Replicate could not say.

        Raises:
            ReplicateMcpError: there is no such model, or Replicate refused to tell.
        """
        from replicate_mcp.replicate_api.model_search import inputs

        accounts = (await self._open()).accounts
        account = await accounts.name(caller.token, caller.source)
        return await inputs(name, accounts.gateway(caller.token), await self.models(), account)

    async def models(self) -> "ModelResolver":
        """What is known of models."""
        return (await self._open()).models

    async def gateway(self, caller: Caller) -> "Gateway":
        """The caller's way to Replicate, once it is known whose their token is.

        Raises:
            ReplicateMcpError: Replicate refused the token, or did not answer.
        """
        accounts = (await self._open()).accounts
        # A token may be made up, and nothing is kept of those.
        await accounts.name(caller.token, caller.source)
        return accounts.gateway(caller.token)

    async def receive_webhook(self, account: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Keep a webhook for whoever follows its prediction; False where there is no room now.

        Raises:
            InvalidInput: it is no webhook.
            Unauthorized: Replicate did not send it.
        """
        from replicate_mcp.replicate_api.webhooks import Message

        message = Message.from_response(headers, body)
        return await (await self._open()).accounts.receive(account, message)

    def start_background(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Do something for as long as the app runs, whatever becomes of who asked for it."""
        self._group.start_soon(work, *arguments)

    # How it is put together

    async def _open(self) -> "Components":
        self.access.check_settings()
        if self._parts is None:
            async with self._opening:
                if self._parts is None:
                    from replicate_mcp.app.composition import Components

                    self._parts = await Components.open(
                        self.settings,
                        self._group,
                        self.observer,
                        batch_bytes=self._batch_bytes,
                        refused=self.access.refused,
                    )
        return self._parts
