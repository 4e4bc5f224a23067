"""Semaphores, permits and offers at a Redis server."""

from collections import Counter
from collections.abc import Sequence

from replicate_mcp.backends.redis.decoding import decode_semaphore
from replicate_mcp.backends.redis.encoding import encode_entry
from replicate_mcp.backends.redis.mirror import MirroredEntry
from replicate_mcp.backends.redis.store import RedisStore, unknown_name
from replicate_mcp.semaphores.names import check_removable
from replicate_mcp.semaphores.permit_store import (
    AcceptedOffers,
    AdmissionResult,
    HolderUsage,
    QueueEntry,
    SemaphoreState,
)


class RedisPermits(RedisStore):
    """The part of `PermitStore` that calls the script."""

    async def declare_limit(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Declare this process's limit and rate for an account."""
        async with self._session.lock() as session:
            await session.call(
                "declare_limit", semaphore=semaphore, limit=limit, per_minute=per_minute
            )
            self._mirror.declared[semaphore] = (limit, per_minute)

    async def set_rate(self, semaphore: str, per_minute: float) -> AdmissionResult:
        """Set an account's rate by hand."""
        async with self._session.lock() as session:
            answer = await session.call("set_rate", semaphore=semaphore, per_minute=per_minute)
            found = self._admission_result(answer)
            await session.renew()  # Refresh the mirror.
            return found

    async def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Register a name for the lifetime of this process."""
        async with self._session.lock() as session:
            ((reply,),) = await session.call("register_name", semaphore=semaphore, limit=limit)
            state = decode_semaphore(reply)
            self._mirror.declared[semaphore] = (state.limit, None)
            await session.renew()  # Refresh the mirror.
            return state

    async def resize(
        self, semaphore: str, limit: int, *, by_admin: bool = False
    ) -> AdmissionResult:
        """Set a limit by hand."""
        async with self._session.lock() as session:
            answer = await session.call(
                "resize", semaphore=semaphore, limit=limit, by_admin=by_admin
            )
            found = self._admission_result(answer, semaphore)
            await session.renew()
            return found

    async def unset(self, semaphore: str) -> AdmissionResult:
        """Remove a limit that was set by hand."""
        async with self._session.lock() as session:
            found = self._admission_result(
                await session.call("unset", semaphore=semaphore), semaphore
            )
            await session.renew()  # The mirror's copy is outdated.
            return found

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name that is not in use."""
        async with self._session.lock() as session:
            outcome, *about = await session.call(
                "remove", semaphore=semaphore, **self._reap_arguments()
            )
            if outcome == "unknown":
                raise unknown_name([semaphore], about[0])
            if outcome == "used":
                in_use, waiting, processes = map(int, about)
                check_removable(semaphore, in_use=in_use, waiting=waiting, processes=processes)
            self._mirror.remove_semaphore(semaphore)
            await session.renew()

    async def semaphores(self) -> list[SemaphoreState]:
        """Return the state of every semaphore."""
        async with self._session.lock() as session:
            (reply,) = await session.call("semaphores", **self._reap_arguments())
        return sorted(map(decode_semaphore, reply), key=lambda state: state.name)

    async def usage_by_holder(self) -> list[HolderUsage]:
        """Return the units in use and the waiting starts by holder and semaphore."""
        (reply,) = await self._session.read("usage_by_holder")
        in_use: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        for label, name, used, waits in reply:
            in_use[name, label] += int(used)
            waiting[name, label] += int(waits)
        return [
            HolderUsage(label, name, in_use[name, label], waiting[name, label])
            for name, label in sorted(in_use.keys() | waiting.keys())
        ]

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Add an entry to the queue, or starts to an entry."""
        async with self._session.lock() as session:
            wanted = self._mirror.waiting(entry.id) + entry.waiting
            answer = await session.call("enqueue", **encode_entry(entry, wanted))
            found = self._admission_result(answer, *entry.semaphores)
            self._mirror.enqueue(MirroredEntry(entry, wanted), answer[1])
            return found

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Remove `count` starts from an entry, or the whole entry."""
        async with self._session.lock() as session:
            wanted = 0 if count is None else max(0, self._mirror.waiting(entry) - count)
            answer = await session.call(
                "dequeue", entry=entry, wanted=wanted, entirely=count is None
            )
            # Only now: a repeated call must send the same number.
            self._mirror.set_waiting(entry, wanted)
            if count is None:
                self._mirror.dequeue(entry)
            return self._admission_result(answer)

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits."""
        async with self._session.priority_lock() as session:
            reply, now, taken = await session.call(
                "accept_offers", permits=[str(each) for each in permits]
            )
            for permit, entry in taken:
                self._mirror.add_permit(int(permit), entry, taken_at=float(now))
            return AcceptedOffers(
                frozenset(int(permit) for permit, _ in taken), self._admission_result([reply])
            )

    async def release(self, permit: int) -> AdmissionResult:
        """Release a permit."""
        async with self._session.lock() as session:
            # Released in any case: if not by this call, then by the next resync.
            self._mirror.permits.pop(permit, None)
            return self._admission_result(await session.call("release", permit=str(permit)))

    async def admit(self) -> AdmissionResult:
        """Clean up after dead holders, and make offers."""
        async with self._session.lock() as session:
            return self._admission_result(await session.call("admit", **self._reap_arguments()))
