"""Retried backend calls, and the background tasks of a process."""

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
    """Calls of a process to its backend that survive the backend's unavailability."""

    def __init__(self, dispatcher: OfferDispatcher, group: TaskGroup) -> None:
        self.dispatcher = dispatcher
        self._group = group

    async def retry_until_available(self, step: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Retry `step` until the backend is available, and return its result.

        For calls that must not be lost: a running prediction is followed to its end, and its result
        recorded.
        """
        while True:
            try:
                return await step(*arguments)
            except BackendUnavailable as error:
                log.error("%s Trying again.", error)
                await anyio.sleep(RETRY_DELAY_SECONDS)

    async def retry_and_dispatch(
        self, step: Callable[..., Awaitable[AdmissionResult]], *arguments: Any
    ) -> None:
        """Retry `step` until the backend is available, and dispatch the offers it returns."""
        self.dispatcher.dispatch(await self.retry_until_available(step, *arguments))

    async def try_then_background(
        self, step: Callable[..., Awaitable[AdmissionResult]], *arguments: Any
    ) -> None:
        """Call `step` and dispatch its offers, in the background if the backend is unavailable."""
        try:
            self.dispatcher.dispatch(await step(*arguments))
        except BackendUnavailable as error:
            log.error("%s Trying again.", error)
            self.spawn(self.retry_and_dispatch, step, *arguments)

    def spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run `work` in the background, for the lifetime of the process."""
        self._group.start_soon(self._run_logged, work, *arguments)

    async def _run_logged(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run `work` and log its exception, so that a failure does not end the other tasks."""
        try:
            await work(*arguments)
        except Exception:
            log.exception("work in the background failed")
