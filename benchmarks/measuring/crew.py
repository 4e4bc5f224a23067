"""Processes that measure together, started once so that their imports are not measured."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
"""Timeout of a step, after which one of the processes must have failed."""


class Step:
    """Barrier for all processes of the crew and for its leader."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier

    def wait(self) -> None:
        """Wait until all have arrived."""
        self._barrier.wait()

    async def reached(self) -> None:
        """Wait until all have arrived, without blocking the event loop."""
        await anyio.to_thread.run_sync(self._barrier.wait)

    def abort(self) -> None:
        """Release all waiting processes with an error, since one has failed."""
        self._barrier.abort()


@dataclass(frozen=True, slots=True)
class Crew:
    """Processes that do the same work at the same time."""

    processes: Sequence[ProcessPoolExecutor]
    manager: SyncManager

    def run(
        self, count: int, work: Callable[[int, Step], T], lead: Callable[[Step], None]
    ) -> list[T]:
        """Run `work` with a number in each of `count` processes, and `lead` with the same steps."""
        step = Step(self.manager.Barrier(count + 1, timeout=PATIENCE_SECONDS))
        running: list[Future[T]] = [
            process.submit(_work, work, number, step)
            for number, process in enumerate(self.processes[:count])
        ]
        with suppress(BrokenBarrierError):  # the results have the original error
            lead(step)
        failures = [error for each in running if (error := each.exception())]
        if failures:
            raise next((e for e in failures if not isinstance(e, BrokenBarrierError)), failures[0])
        return [each.result() for each in running]

    def run_alone(self, work: Callable[[], T]) -> T:
        """Run `work` in one process."""
        return self.processes[0].submit(work).result()


@contextmanager
def crew(size: int) -> Iterator[Crew]:
    """Run `size` processes until the end of the block."""
    context = get_context("spawn")
    with ExitStack() as stack:
        manager = stack.enter_context(context.Manager())
        processes = [
            stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for _ in range(size)
        ]
        yield Crew(processes, manager)


def _work(work: Callable[[int, Step], T], number: int, step: Step) -> T:
    try:
        return work(number, step)
    except BaseException:  # the others would wait for this one at their next step
        step.abort()
        raise
