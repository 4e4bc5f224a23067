"""Steps at a backend that may not be lost, and the background in which a process's work goes on."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import AdmissionResult

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRY_DELAY_SECONDS = 1.0


class BackendCalls:
    """A process's steps at its backend, done however long that cannot be used."""

    def __init__(self, dispatcher: OfferDispatcher, group: TaskGroup) -> None:
        self.dispatcher = dispatcher
        self._group = group

    async def retry_until_available(self, step: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """A step that may not be lost: what runs is followed to its end, and its result kept."""
        while True:
            try:
                return await step(*arguments)
            except BackendUnavailable as error:
                log.error("%s Trying again.", error)
                await anyio.sleep(RETRY_DELAY_SECONDS)

    async def retry_and_dispatch(
        self, step: Callable[..., Awaitable[AdmissionResult]], *arguments: Any
    ) -> None:
        """A step that may not be lost, and whose room goes to this process's entries."""
        self.dispatcher.dispatch(await self.retry_until_available(step, *arguments))

    async def try_then_background(
        self, step: Callable[..., Awaitable[AdmissionResult]], *arguments: Any
    ) -> None:
        """The same, but where it cannot be done now, nobody waits for it."""
        try:
            self.dispatcher.dispatch(await step(*arguments))
        except BackendUnavailable as error:
            log.error("%s Trying again.", error)
            self.spawn(self.retry_and_dispatch, step, *arguments)

    def spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do something in the background, for as long as the process lives."""
        self._group.start_soon(self._run_logged, work, *arguments)

    async def _run_logged(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """No fault in one's work may end the others': it is logged, and theirs goes on."""
        try:
            await work(*arguments)
        except Exception:
            log.exception("work in the background failed")
