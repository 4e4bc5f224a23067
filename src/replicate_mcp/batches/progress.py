"""How far a batch is, told to those who wait for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from replicate_mcp.batches.running_batch import RunningBatch

PROGRESS_SECONDS = 0.1
"""The shortest time between two reports."""

QUIET_SECONDS = 5.0
"""The longest time between two reports."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is, and a line about it for a person."""

    finished: int
    total: int
    running: int
    line: str


OnProgress = Callable[[Progress], Awaitable[None]]


async def watch(batch: "RunningBatch", on_progress: OnProgress | None) -> None:
    """Report until the batch has ended: at every finished task, within the two times above."""
    if on_progress is None:
        return await batch.ended.wait()
    reported = -1
    while not batch.ended.is_set():
        with anyio.move_on_after(PROGRESS_SECONDS):
            await batch.ended.wait()
        with anyio.move_on_after(QUIET_SECONDS - PROGRESS_SECONDS):
            while batch.finished == reported:
                await batch.changed.wait()
        reported = batch.finished
        await on_progress(progress(batch))
    return None


def progress(batch: "RunningBatch") -> Progress:
    """How far it is now."""
    line = f"{batch.finished}/{batch.total} done, {batch.running} running"
    if batch.failed:
        line += f", {batch.failed} {'not made' if batch.canceled else 'failed'}"
    if not batch.canceled and 0 < batch.finished < batch.total and batch.began is not None:
        # What runs is half done, on average.
        done = batch.finished - batch.invalid + batch.running / 2
        to_do = batch.total - batch.invalid - done
        if done:
            left = (anyio.current_time() - batch.began) / done * to_do
            line += f", about {max(1, round(left))} s left"
    return Progress(batch.finished, batch.total, batch.running, line)
