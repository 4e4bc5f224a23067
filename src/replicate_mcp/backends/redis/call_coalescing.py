"""Coalescing of concurrent calls of one kind into one round trip."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from replicate_mcp.backends.redis.session import Session

Call = TypeVar("Call")
Reply = TypeVar("Reply")

MAX_CALLS_PER_BATCH = 100
"""Maximum number of calls in one round trip, so that other commands can run in between."""


class _Waiting(Generic[Call, Reply]):
    """One call until its reply."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.replies: list[Reply] = []
        self.scope = anyio.CancelScope()


class CallCoalescer(Generic[Call, Reply]):
    """Coalesces waiting calls: the first to get the session's priority lock sends all of them.

    Args:
        session: the session of this process.
        send: sends the calls, and returns their replies in order.
        store: stores a reply in the mirror, unless its caller was cancelled meanwhile.
    """

    def __init__(
        self,
        session: Session,
        send: Callable[[Session, Sequence[Call]], Awaitable[Sequence[Reply]]],
        store: Callable[[Call, Reply], None] | None = None,
    ) -> None:
        self._session = session
        self._send = send
        self._store = store
        self._waiting: dict[_Waiting[Call, Reply], None] = {}

    async def call(self, call: Call) -> Reply:
        """Return the reply to `call`, sent alone or together with other waiting calls.

        Raises:
            BackendUnavailable: the call may have been carried out; repeating it has no further
                effect.
        """
        waiting: _Waiting[Call, Reply] = _Waiting(call)
        self._waiting[waiting] = None
        try:
            with waiting.scope:
                async with self._session.priority_lock() as session:
                    while waiting in self._waiting:
                        await self._send_waiting(session)
        except anyio.get_cancelled_exc_class():
            if not waiting.replies:
                raise
            # The reply arrived first: the caller's next await raises the cancellation.
        finally:
            self._waiting.pop(waiting, None)
        return waiting.replies[0]

    async def _send_waiting(self, session: Session) -> None:
        batch = list(self._waiting)[:MAX_CALLS_PER_BATCH]
        replies = await self._send(session, [each.call for each in batch])
        for each, reply in zip(batch, replies, strict=True):
            if each not in self._waiting:
                session.invalidate()  # Its caller was cancelled: a resync undoes its effect.
                continue
            if self._store is not None:
                self._store(each.call, reply)
            del self._waiting[each]
            each.replies.append(reply)
            each.scope.cancel()
