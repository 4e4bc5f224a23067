"""Steps of one kind that wait for this process's turn are done together, in one round trip."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from replicate_mcp.backends.redis.session import Session

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MAX_CALLS_PER_BATCH = 100
"""How many go in one call at most: what others ask for goes on in between."""


class _Waiting(Generic[Asked, Answer]):
    """One caller, until it is answered."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answers: list[Answer] = []
        self.scope = anyio.CancelScope()


class CallCoalescer(Generic[Asked, Answer]):
    """Whoever has the turn first asks for all that wait by then; being one step, it goes first.

    Args:
        step: does it for all of them, and answers each.
        keep: keeps here what an answer says, where its caller has not given it up meanwhile.
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
        """The answer, in one's turn or with that of another who waits for the same step.

        Raises:
            BackendUnavailable: it may have been done, or not; asked for again, it is done once.
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
            # The answer came first: what its caller does next is cancelled.
        finally:
            self._waiting.pop(mine, None)
        return mine.answers[0]

    async def _call_all(self, turn: Session) -> None:
        together = list(self._waiting)[:MAX_CALLS_PER_BATCH]
        answers = await self._step(turn, [each.asked for each in together])
        for each, answer in zip(together, answers, strict=True):
            if each not in self._waiting:
                turn.invalidate()  # Its caller gave it up: what was done for it is taken back.
                continue
            if self._keep is not None:
                self._keep(each.asked, answer)
            del self._waiting[each]
            each.answers.append(answer)
            each.scope.cancel()
