"""Permits for callers' own code: all contexts of a process on one name share one queue entry."""

import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer, PermitStore, QueueEntry


@dataclass(eq=False)
class ContextPermit:
    """One context's unit.

    Attributes:
        permit: the permit while the unit is held; None before and after.
        given_up: whether the context released it or stopped waiting.
        held: set when the unit is held or given up.
    """

    semaphore: str
    permit: int | None = None
    given_up: bool = False
    held: anyio.Event = field(default_factory=anyio.Event)


class ContextQueue:
    """Distributes units of named semaphores to this process's contexts in order of arrival."""

    def __init__(self, permits: PermitStore, steps: BackendCalls) -> None:
        self._permits = permits
        self._calls = steps
        self._process = secrets.token_hex(8)
        self._waiting: defaultdict[str, deque[ContextPermit]] = defaultdict(deque)
        # Starts that the backend has queued or offered; they exceed the waiting contexts until a
        # pending `dequeue` succeeds.
        self._queued: Counter[str] = Counter()
        self._leaving = anyio.Lock()

    async def acquire(self, lease: ContextPermit) -> None:
        """Wait for a unit, which `lease` then holds, unless it was given up meanwhile.

        Raises:
            UnknownSemaphore: no such name.
            BackendUnavailable: the backend is unavailable; the context is not queued.
        """
        if lease.given_up:
            return
        semaphore, entry = lease.semaphore, self._entry(lease.semaphore)
        self._waiting[semaphore].append(lease)
        self._calls.dispatcher.subscribe(entry, lambda offers: self._offered(semaphore, offers))
        try:
            admission = await self._permits.enqueue(QueueEntry(entry, (semaphore,), None, 1))
        except BaseException:
            self._forget(lease)
            self._leave_surplus(semaphore)
            raise
        self._queued[semaphore] += 1
        self._calls.dispatcher.dispatch(admission)
        self._leave_surplus(semaphore)
        await lease.held.wait()

    async def release(self, lease: ContextPermit) -> None:
        """Release the unit, or stop waiting for it; retry in the background if that fails now."""
        lease.given_up = True
        lease.held.set()
        permit, lease.permit = lease.permit, None
        if permit is not None:
            await self._calls.try_then_background(self._permits.release, permit)
        else:
            self._forget(lease)
            self._leave_surplus(lease.semaphore)

    def _offered(self, semaphore: str, offers: Sequence[Offer]) -> None:
        self._calls.spawn(self._take, semaphore, offers)

    async def _take(self, semaphore: str, offers: Sequence[Offer]) -> None:
        taken = await self._calls.retry_until_available(
            self._permits.accept_offers, [offer.permit for offer in offers]
        )
        self._calls.dispatcher.dispatch(taken.admission)
        for permit in sorted(taken.permits):
            self._queued[semaphore] -= 1
            if self._waiting[semaphore]:
                lease = self._waiting[semaphore][0]
                self._forget(lease)
                lease.permit = permit
                lease.held.set()
            else:
                self._calls.spawn(self._calls.retry_and_dispatch, self._permits.release, permit)

    def _leave_surplus(self, semaphore: str) -> None:
        if self._surplus(semaphore) > 0:
            self._calls.spawn(self._calls.retry_and_dispatch, self._leave, semaphore)

    async def _leave(self, semaphore: str) -> AdmissionResult:
        """Reduce the starts that the backend has queued to the number of waiting contexts."""
        async with self._leaving:
            surplus = self._surplus(semaphore)
            if surplus <= 0:
                return AdmissionResult()
            admission = await self._permits.dequeue(self._entry(semaphore), surplus)
            # Offered starts that became permits meanwhile are already subtracted.
            self._queued[semaphore] = max(0, self._queued[semaphore] - surplus)
            return admission

    def _surplus(self, semaphore: str) -> int:
        return self._queued[semaphore] - len(self._waiting[semaphore])

    def _forget(self, lease: ContextPermit) -> None:
        waiting = self._waiting[lease.semaphore]
        if lease in waiting:
            waiting.remove(lease)
            if not waiting:
                self._calls.dispatcher.unsubscribe(self._entry(lease.semaphore))

    def _entry(self, semaphore: str) -> str:
        return f"context:{self._process}:{semaphore}"
