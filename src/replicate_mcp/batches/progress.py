"""Progress of a batch, for callers that wait for it."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import anyio

from replicate_mcp.platform.clock import steady_time

if TYPE_CHECKING:
    from replicate_mcp.batches.running_batch import RunningBatch

PROGRESS_SECONDS = 0.1
"""Shortest interval between two reports."""

QUIET_SECONDS = 5.0
"""Longest interval between two reports."""


UNANSWERED_SECONDS = 2.0
"""Time after which an unanswered request is reported: single requests fail now and then."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a batch, for display.

    Attributes:
        finished: number of tasks with a result.
        total: number of its tasks.
        running: number of tasks in flight at Replicate.
        line: its counts, and an estimate of the time left.
        notice: the reason for a wait other than for permits or predictions; "" if absent.
    """

    finished: int
    total: int
    running: int
    line: str
    notice: str = ""

    @property
    def message(self) -> str:
        """The line and the notice."""
        return f"{self.line}. {self.notice}" if self.notice else self.line


OnProgress = Callable[[Progress], Awaitable[None]]


async def watch(batch: "RunningBatch", on_progress: OnProgress | None) -> None:
    """Report progress at every finished task until the batch ends.

    The interval between reports is from `PROGRESS_SECONDS` to `QUIET_SECONDS`.
    """
    if on_progress is None:
        return await batch.ended.wait()
    reported = -1
    # The batch may end while a report is being delivered; its end is reported all the same.
    while not batch.ended.is_set() or batch.finished != reported:
        with anyio.move_on_after(PROGRESS_SECONDS):
            await batch.ended.wait()
        with anyio.move_on_after(QUIET_SECONDS - PROGRESS_SECONDS):
            while batch.finished == reported:
                await batch.changed.wait()
        reported = batch.finished
        await on_progress(progress(batch))
    return None


def progress(batch: "RunningBatch") -> Progress:
    """Return the current progress of `batch`."""
    line = f"{batch.finished}/{batch.total} done, {batch.running} running"
    if batch.failed:
        line += f", {batch.failed} {'not made' if batch.canceled else 'failed'}"
    if not batch.canceled and 0 < batch.finished < batch.total and batch.began is not None:
        # Running tasks are half done, on average.
        done = batch.finished - batch.invalid + batch.running / 2
        to_do = batch.total - batch.invalid - done
        if done:
            left = (steady_time() - batch.began) / done * to_do
            line += f", about {max(1, round(left))} s left"
    return Progress(batch.finished, batch.total, batch.running, line, _notice(batch))


def _notice(batch: "RunningBatch") -> str:
    since = batch.gateway.unanswered_since
    if since is not None and time.time() - since >= UNANSWERED_SECONDS:
        clock = datetime.fromtimestamp(since).astimezone().strftime("%H:%M")
        return f"Replicate has not answered since {clock}, trying again."
    pause = math.ceil(batch.dispatcher.paused_for)
    if pause and batch.pending and not batch.running:
        return (
            f"Redis is new or was restarted: waiting {pause} s for the other processes to report "
            "what runs."
        )
    return ""
