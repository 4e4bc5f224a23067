"""Coalescing of concurrent calls of one kind into one round trip."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from replicate_mcp.backends.redis.session import Session

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MAX_CALLS_PER_BATCH = 100
"""Maximum number of calls in one round trip, so that other commands can run in between."""


class _Waiting(Generic[Asked, Answer]):
    """One call until its reply."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answers: list[Answer] = []
        self.scope = anyio.CancelScope()


class CallCoalescer(Generic[Asked, Answer]):
    """Coalesces waiting calls: the first to get the session's priority lock sends all of them.

    Args:
        membership: the session of this process.
        step: sends the calls, and returns their replies in order.
        keep: stores a reply in the mirror, unless its caller was cancelled meanwhile.
    """

    def __init__(
        self,
        membership: Session,
        step: Callable[[Session, Sequence[Asked]], Awaitable[Sequence[Answer]]],
        keep: Callable[[Asked, Answer], None] | None = None,
    ) -> None:
        self._membership = membership
        self._step = step
        self._keep = keep
        self._waiting: dict[_Waiting[Asked, Answer], None] = {}

    async def call(self, asked: Asked) -> Answer:
        """Return the reply to `asked`, sent alone or together with other waiting calls.

        Raises:
            BackendUnavailable: the call may have been carried out; repeating it has no further
                effect.
        """
        mine: _Waiting[Asked, Answer] = _Waiting(asked)
        self._waiting[mine] = None
        try:
            with mine.scope:
                async with self._membership.priority_lock() as turn:
                    while mine in self._waiting:
                        await self._call_all(turn)
        except anyio.get_cancelled_exc_class():
            if not mine.answers:
                raise
            # The reply arrived first: the caller's next await raises the cancellation.
        finally:
            self._waiting.pop(mine, None)
        return mine.answers[0]

    async def _call_all(self, turn: Session) -> None:
        together = list(self._waiting)[:MAX_CALLS_PER_BATCH]
        answers = await self._step(turn, [each.asked for each in together])
        for each, answer in zip(together, answers, strict=True):
            if each not in self._waiting:
                turn.invalidate()  # Its caller was cancelled: a resync undoes its effect.
                continue
            if self._keep is not None:
                self._keep(each.asked, answer)
            del self._waiting[each]
            each.answers.append(answer)
            each.scope.cancel()
