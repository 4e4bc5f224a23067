"""Permits for callers' own code: all contexts of one process on one name are one queue entry."""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.holder import Holder
from replicate_mcp.semaphores.permits import Offer, Permits, QueueEntry

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Lease:
    """One context's unit: wanted, held while `permit` is set, or given up."""

    semaphore: str
    permit: int | None = None
    joined: bool = False
    given_up: bool = False
    held: anyio.Event = field(default_factory=anyio.Event)


class ContextQueue:
    """Gives units of named semaphores to this process's contexts, first come first served."""

    def __init__(self, permits: Permits, holder: Holder, spawn: Callable[..., object]) -> None:
        self._permits = permits
        self._holder = holder
        self._spawn = spawn
        self._process = secrets.token_hex(8)
        self._waiting: dict[str, deque[Lease]] = {}

    async def acquire(self, lease: Lease) -> None:
        """Wait for a unit; `lease` holds it then, unless it was given up meanwhile.

        Raises:
            UnknownSemaphore: no such name.
        """
        if lease.given_up:
            return
        entry = self._entry(lease.semaphore)
        waiting = self._waiting.setdefault(lease.semaphore, deque())
        waiting.append(lease)
        self._holder.attend(entry, lambda offers: self._offered(lease.semaphore, offers))
        try:
            room = await self._permits.join(QueueEntry(entry, (lease.semaphore,), None, 1))
        except BaseException:
            if not lease.given_up:
                self._forget(lease)
            raise
        lease.joined = True
        if lease.given_up:
            room = await self._permits.leave(entry, 1)
        self._holder.accept(room)
        await lease.held.wait()

    async def release(self, lease: Lease) -> None:
        """Give the unit back, or stop waiting for it."""
        lease.given_up = True
        if lease.permit is not None:
            self._holder.accept(await self._permits.release(lease.permit))
            lease.permit = None
        elif lease in self._waiting.get(lease.semaphore, ()):
            self._forget(lease)
            if lease.joined:
                self._holder.accept(await self._permits.leave(self._entry(lease.semaphore), 1))
        lease.held.set()

    def _offered(self, semaphore: str, offers: Sequence[Offer]) -> None:
        self._spawn(self._take, semaphore, offers)

    async def _take(self, semaphore: str, offers: Sequence[Offer]) -> None:
        try:
            taken = await self._permits.take([offer.permit for offer in offers])
        except BackendUnavailable as error:
            log.warning("%s", error)  # The offers are withdrawn, and made anew.
            return
        self._holder.accept(taken.room)
        waiting = self._waiting.get(semaphore, deque())
        for permit in sorted(taken.permits):
            if waiting:
                lease = waiting[0]
                self._forget(lease)
                lease.permit = permit
                lease.held.set()
            else:
                self._holder.accept(await self._permits.release(permit))

    def _forget(self, lease: Lease) -> None:
        waiting = self._waiting[lease.semaphore]
        waiting.remove(lease)
        if not waiting:
            del self._waiting[lease.semaphore]
            self._holder.forget(self._entry(lease.semaphore))

    def _entry(self, semaphore: str) -> str:
        return f"context:{self._process}:{semaphore}"
