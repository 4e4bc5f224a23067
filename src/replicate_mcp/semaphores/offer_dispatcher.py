"""This process as a holder: receives its offers and dispatches each to its queue entry."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

import anyio

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer, PermitStore

log = logging.getLogger(__name__)

ADMIT_POLL_SECONDS = 1.0
"""Longest sleep of a process with waiting entries: wake-ups are hints, and may be lost."""

TakeOffers = Callable[[Sequence[Offer]], None]


class OfferDispatcher:
    """Dispatches offers to queue entries, and runs admission when the last decision is due.

    Every `AdmissionResult` of a backend call goes through `dispatch`; `run` handles the offers that
    arise from other processes' calls and from the passing of time.
    """

    def __init__(self, permits: PermitStore) -> None:
        self._permits = permits
        self._entries: dict[str, TakeOffers] = {}
        self._newest = 0
        self._wake_at: float | None = None
        self._paused_until: float | None = None
        self._sooner = anyio.Event()
        self._wakeup = anyio.Event()

    @property
    def paused_for(self) -> float:
        """Seconds until the backend admits again, as of the last call; 0 if it admits now."""
        if self._paused_until is None:
            return 0.0
        return max(0.0, self._paused_until - anyio.current_time())

    def subscribe(self, entry: str, take: TakeOffers) -> None:
        """Pass an entry's offers to `take`, which must not block."""
        self._entries[entry] = take
        self._sooner.set()

    def unsubscribe(self, entry: str) -> None:
        """Stop passing offers to an entry."""
        self._entries.pop(entry, None)

    def dispatch(self, admission: AdmissionResult) -> None:
        """Dispatch the offers of a call, each once: a later offer has a higher permit number."""
        if admission.paused_for is not None:
            self._paused_until = anyio.current_time() + admission.paused_for
        if admission.retry_in is not None:
            self._wake_by(anyio.current_time() + admission.retry_in)
        by_entry: dict[str, list[Offer]] = defaultdict(list)
        for offer in admission.offers:
            if offer.permit > self._newest and offer.entry in self._entries:
                by_entry[offer.entry].append(offer)
        self._newest = max(self._newest, *(offer.permit for offer in admission.offers), 0)
        for entry, offers in by_entry.items():
            self._entries[entry](offers)

    async def run(self) -> None:
        """Receive and dispatch offers until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            while True:
                await self._sleep()
                try:
                    self.dispatch(await self._permits.admit())
                except BackendUnavailable as error:
                    log.warning("%s", error)
                    self._wake_by(anyio.current_time() + ADMIT_POLL_SECONDS)

    @property
    def next_wakeup(self) -> anyio.Event:
        """Set when another process next wakes this one."""
        return self._wakeup

    async def wait_for_wakeup(self) -> None:
        """Wait until another process next wakes this one."""
        await self._wakeup.wait()

    async def _listen(self) -> None:
        while True:
            await self._permits.wait_for_wakeup()
            self._wake_by(anyio.current_time())
            self._wakeup.set()
            self._wakeup = anyio.Event()

    async def _sleep(self) -> None:
        while True:
            until = self._wake_at
            if self._entries:
                next_poll = anyio.current_time() + ADMIT_POLL_SECONDS
                until = next_poll if until is None else min(until, next_poll)
            self._sooner = anyio.Event()
            with anyio.move_on_at(float("inf") if until is None else until):
                await self._sooner.wait()
                continue
            self._wake_at = None
            return

    def _wake_by(self, at: float) -> None:
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = at
            self._sooner.set()
