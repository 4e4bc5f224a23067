"""Virtual time for tests: delays of minutes take milliseconds, and calls come in a given order.

`@in_virtual_time` runs an async test on an event loop whose clock jumps to the next timer as soon
as nothing else is ready. The clocks of the `time` module follow it, and functions for a worker
thread run in place.
"""

import asyncio
import functools
import inspect
import selectors
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast
from unittest import mock

import anyio
import anyio.to_thread

EPOCH = 1_800_000_000.0
"""`time.time()` at the start of each test."""

LIMIT_SECONDS = 2 * 3600
"""Virtual time that a test may take: one that never ends fails here."""

MAX_DELAY_SECONDS = 20.0
"""The longest jump that a `Schedule` makes while it holds calls."""

STALL_SECONDS = 5.0
"""Real seconds to wait for I/O where no timer is left; then the test fails."""

P = ParamSpec("P")
T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer instead of waiting for it.

    Attributes:
        on_idle: called before each jump with its length in seconds, None without a timer; returns
            whether it has made something ready, in which case the loop does not jump.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.on_idle: Callable[[float | None], bool] = lambda _seconds: False
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return virtual seconds since the loop was created."""
        return self.elapsed


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0 or self._loop.on_idle(timeout):
            return ready
        if timeout is not None:
            self._loop.elapsed += timeout
            return []
        ready = super().select(STALL_SECONDS)
        if not ready:
            raise RuntimeError("The test waits for something that nothing is left to do.")
        return ready


def in_virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test on its own event loop, in virtual time."""

    async def limited(*args: P.args, **kwargs: P.kwargs) -> None:
        with anyio.fail_after(LIMIT_SECONDS):
            await test(*args, **kwargs)

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = VirtualTimeLoop()
        with _clocks_of(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(limited(*args, **kwargs))

    return run


@contextmanager
def _clocks_of(loop: VirtualTimeLoop) -> Iterator[None]:
    def wall() -> float:
        return EPOCH + loop.elapsed

    def steady(*_: object) -> float:
        return loop.elapsed

    async def in_place(work: Callable[..., T], *args: object, **_: object) -> T:
        return work(*args)

    with (
        mock.patch.object(time, "time", wall),
        mock.patch.object(time, "monotonic", steady),
        mock.patch.object(time, "clock_gettime", steady, create=True),
        mock.patch.object(anyio.to_thread, "run_sync", in_place),
    ):
        yield


class Schedule:
    """Hold each call until it is released, in an order given as numbers.

    Whenever nothing else is ready, the next of `choices` releases one of the held calls or lets
    time pass. After the last choice, calls are released in order of arrival. Hypothesis draws
    `choices` and prints the failing ones; `@example` repeats them.
    """

    def __init__(self, choices: Sequence[int] = ()) -> None:
        self._choices = deque(choices)
        self._held: list[tuple[str, asyncio.Future[None]]] = []
        self.released: list[str] = []

    def __enter__(self) -> "Schedule":
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        self._loop = loop
        self._loop.on_idle = self._release
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._choices.clear()  # Release the calls that are still held by arrival.
        if error is not None:
            error.add_note("Calls in order: " + ", ".join(self.released))

    async def turn(self, label: str) -> None:
        """Wait until this call is released."""
        future = self._loop.create_future()
        self._held.append((label, future))
        await future

    def hold(self, target: T, *names: str) -> T:
        """Return `target` with calls of these async methods held, both before and after each."""
        unknown = [name for name in names if not hasattr(target, name)]
        assert not unknown, f"{type(target).__name__} has no {unknown}"
        return cast(T, _Held(target, self, frozenset(names)))

    def _release(self, seconds: float | None) -> bool:
        self._held = [each for each in self._held if not each[1].done()]
        if not self._held:
            return False
        choice = self._choices.popleft() if self._choices else 0
        may_wait = seconds is not None and seconds <= MAX_DELAY_SECONDS
        place = choice % (len(self._held) + may_wait)
        if place == len(self._held):
            self.released.append("(time passes)")
            return False
        label, future = self._held.pop(place)
        self.released.append(label)
        future.set_result(None)
        return True


class _Held:
    def __init__(self, target: object, schedule: Schedule, names: frozenset[str]) -> None:
        self._target = target
        self._schedule = schedule
        self._names = names

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name not in self._names:
            return method
        assert inspect.iscoroutinefunction(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._schedule.turn(name)
            result = await method(*args, **kwargs)
            await self._schedule.turn(f"{name} returns")
            return result

        return call
