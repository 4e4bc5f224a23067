"""The session of this process at a Redis server: its lease, its ordered calls, and its resyncs."""

import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from replicate_mcp.backends.redis.connection import RedisConnection
from replicate_mcp.backends.redis.decoding import REASONS
from replicate_mcp.backends.redis.mirror import Mirror, MirroredBatch
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.platform.clock import steady_time

log = logging.getLogger(__name__)

RENEWALS_A_LEASE = 3
"""Number of renewals during a lease: one may be lost, and one may be late."""

ROWS_A_CALL = 200
"""Maximum number of results restored in one call, so that other commands can run in between."""


class Session:
    """This process as a holder at the server: it orders its calls, and resyncs lost state.

    A call whose reply was lost may have been carried out. Every call can be repeated; until one
    gets a reply, the server receives this process's complete state before anything else, so that
    the states of the two never diverge.

    Attributes:
        holder: the id of this process as a holder.
        generation: the id of the server's generation of state, as of the last resync; "" before.
    """

    def __init__(
        self,
        server: RedisConnection,
        mirror: Mirror,
        label: str,
        monotonic: Callable[[], float] = steady_time,
    ) -> None:
        self.holder = secrets.token_hex(8)
        self._server = server
        self._mirror = mirror
        self._label = label
        self._monotonic = monotonic
        # Calls without priority first queue here, so that at most one of them waits for the lock.
        self._with_time = anyio.Lock(fast_acquire=True)
        self._turn = anyio.Lock(fast_acquire=True)
        self._sequence = 0
        self.generation = ""
        self._is_registered = False
        self._is_resyncing = False
        self._resyncs = 0
        self._answered_at = float("-inf")
        self._unbroken_since = float("inf")
        self._taken_over: list[str] = []
        self._quiet_until, self._quiet_since_message = float("-inf"), 0

    @property
    def is_connected_for_a_lease(self) -> bool:
        """Whether contact was unbroken for a whole lease, as far as this process knows."""
        return self._monotonic() - self._unbroken_since >= self._server.address.lease

    @property
    def has_no_orphans(self) -> bool:
        """Whether there are no orphans, and no lease has ended, as far as the last renewal shows.

        An abandoned permit is announced to every process that listens.
        """
        return (
            self._server.is_listening
            and self._server.orphan_messages == self._quiet_since_message
            and self._monotonic() < self._quiet_until
        )

    @asynccontextmanager
    async def lock(self) -> AsyncIterator["Session"]:
        """Hold the lock for calls: this process's state changes only by them meanwhile."""
        async with self._with_time, self._turn:
            yield self

    @asynccontextmanager
    async def priority_lock(self) -> AsyncIterator["Session"]:
        """Hold the same lock, ahead of calls without priority."""
        async with self._turn:
            yield self

    async def call(self, name: str, **arguments: Any) -> list[Any]:
        """Make a call that changes something, under the lock.

        Raises:
            BackendUnavailable: the call may have been carried out; repeating it has no further
                effect.
        """
        for _ in range(2):
            if not self._is_registered:
                await self._resync()
            self._sequence += 1
            answer = await self._call(name, arguments, self._sequence)
            if answer[0] == "ok":
                return answer[1:]
            self._is_registered = False
        raise self._state_lost_error()

    async def read(self, name: str, **arguments: Any) -> list[Any]:
        """Make a call that changes nothing, at any time except during a resync."""
        for _ in range(3):
            resyncs = self._resyncs
            answer = await self._call(name, arguments, 0)
            is_settled = resyncs == self._resyncs and not self._is_resyncing
            if answer[0] == "ok" and is_settled:
                return answer[1:]
            async with self._turn:
                if resyncs == self._resyncs:
                    await self._resync()
        raise self._state_lost_error()

    async def renew_lease(self) -> None:
        """Renew the lease until cancelled."""
        interval = self._server.address.lease / RENEWALS_A_LEASE
        for renewal in itertools.count(1):
            await anyio.sleep(interval)
            try:
                async with self.priority_lock():
                    # Once a lease.
                    refreshes = renewal % RENEWALS_A_LEASE == 0
                    if not await self._renew_quickly(refreshes=refreshes):
                        await self.renew()
            except BackendUnavailable as error:
                log.warning("%s", error)

    async def renew(self) -> None:
        """Renew the lease, and refresh the mirror's shared limits."""
        # Taken before the call: a message of during it may belong to an orphan of after it.
        message, began_at = self._server.orphan_messages, self._monotonic()
        quiet_for, shared = await self.call("renew", **self._refresh_arguments())
        self._quiet_until, self._quiet_since_message = began_at + float(quiet_for), message
        self._mirror.set_shared_limits(*shared)

    async def _renew_quickly(self, *, refreshes: bool = False) -> bool:
        """Renew the lease while nothing else has to be done; return False otherwise.

        Args:
            refreshes: whether to refresh the mirror's shared limits.
        """
        if not self._is_registered:
            return False
        message, began_at = self._server.orphan_messages, self._monotonic()
        arguments = {
            "generation": self.generation,
            **(self._refresh_arguments() if refreshes else {}),
        }
        answer = await self._call("renew_quickly", arguments, 0)
        if answer[0] != "ok":
            return False
        self._quiet_until, self._quiet_since_message = began_at + float(answer[1]), message
        for shared in answer[2:]:
            self._mirror.set_shared_limits(*shared)
        return True

    def _refresh_arguments(self) -> dict[str, Any]:
        self._mirror.drop_expired()
        return {"accounts": self._mirror.accounts(), "mirrored": self._mirror.rate_digests()}

    async def restore(self, kept: MirroredBatch, *, entirely: bool) -> None:
        """Restore a batch's results, under the lock; and the batch itself, if `entirely`."""
        rows = list(kept.rows.values())
        fields = kept.encode() if entirely else None
        entry = self._mirror.entries.get(kept.batch.id)
        for start in range(0, len(rows) or 1, ROWS_A_CALL):
            self._sequence += 1
            await self._call(
                "restore_batch",
                {
                    "batch": kept.batch.id,
                    "fields": fields,
                    "results": [
                        (task, succeeded, text, prediction or False, str(permit or 0))
                        for task, succeeded, text, prediction, permit in rows[
                            start : start + ROWS_A_CALL
                        ]
                    ],
                    "canceled": kept.canceled,
                    "resumed": kept.resumed,
                    "entry": None if entry is None else entry.encode(),
                    "is_complete": start + ROWS_A_CALL >= len(rows) and not kept.is_run_elsewhere,
                },
                self._sequence,
            )

    def invalidate(self) -> None:
        """Require a resync before the next call: the mirror lacks the effect of the last one."""
        self._is_registered = False

    def lose(self, batches: Iterable[str]) -> None:
        """Give up these batches: others have ended their waiting tasks, or run them."""
        for batch in batches:
            if self._mirror.mark_taken_over(batch):
                self._taken_over.append(batch)

    def pop_taken_over(self) -> list[str]:
        """Return the batches that were given up, each only once."""
        taken_over, self._taken_over = self._taken_over, []
        return taken_over

    async def _resync(self) -> None:
        """Send this process's state, and restore what the server has lost of its batches."""
        self._is_resyncing = True
        try:
            await self._send_state()
        finally:
            self._is_resyncing = False
        self._resyncs += 1

    async def _send_state(self) -> None:
        arguments = {
            **self._mirror.encode(), "label": self._label, "generation": self.generation,
            "reasons": REASONS,
        }  # fmt: skip
        self._sequence += 1
        answer = await self._call("register", arguments, self._sequence)
        _, generation, lost, taken_over = answer
        if self.generation and generation != self.generation:
            log.warning(
                "Redis at %s lost its state or was restarted: the state is sent again, and "
                "nothing is started for %g s.",
                self._server.address.shown,
                self._server.address.lease,
            )
        self.lose(taken_over)
        for batch, kept in list(self._mirror.batches.items()):
            is_old = generation == self.generation and kept.closed_at is not None
            if batch in lost and (is_old or kept.is_run_elsewhere):
                # Deleted by the server to make space; or its process restores it.
                self._mirror.drop_batch(batch)
            elif generation != self.generation or batch in lost:
                await self.restore(kept, entirely=batch in lost)
        self.generation, self._is_registered = generation, True

    async def _call(self, name: str, arguments: dict[str, Any], sequence: int) -> list[Any]:
        try:
            answer = await self._server.call(name, self.holder, arguments, sequence=sequence)
        except InvalidInput:
            raise  # It was not sent.
        except BaseException:
            # It is unknown whether it was carried out.
            self._is_registered = self._is_registered and not sequence
            self._answered_at = float("-inf")
            raise
        if answer[0] == "newer":
            raise BackendUnavailable(
                f"Redis at {self._server.address.shown} is used by a newer version of "
                "replicate-mcp: upgrade this one, or give it another ?prefix= or database."
            )
        now = self._monotonic()
        if now - self._answered_at > self._server.address.lease:
            self._unbroken_since = now
        self._answered_at = now
        return answer

    def _state_lost_error(self) -> BackendUnavailable:
        return BackendUnavailable(
            f"Redis at {self._server.address.shown} forgets this process again and again: its "
            "memory is too small, or its lease (?lease= in REPLICATE_MCP_BACKEND) too short."
        )
