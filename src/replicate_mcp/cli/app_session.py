"""The app of a single command, and the batches that commands read."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from replicate_mcp.app.app import App
from replicate_mcp.errors import ReplicateMcpError, UnknownBatch
from replicate_mcp.settings import Settings
from replicate_mcp.tasks.result import BatchResult

T = TypeVar("T")


def run_in_app(settings: Settings, work: Callable[[App], Awaitable[T]]) -> T:
    """Run `work` in an app that is closed when `work` ends.

    Raises:
        ReplicateMcpError: raised by `work`.
    """
    # The command prints the error itself; the app's recovery would log it a second time.
    logging.getLogger("replicate_mcp.app.composition").setLevel(logging.ERROR)

    async def inside() -> T:
        async with App.running(settings) as app:
            return await work(app)

    try:
        return anyio.run(inside)
    except ExceptionGroup as group:
        raise _reason(group) from None


async def result_of(app: App, batch: str) -> BatchResult:
    """Return the results of `batch`, or of the newest batch for `latest`, from the journal.

    Raises:
        UnknownBatch: no such batch exists.
    """
    caller = app.access.local_reader()
    if batch != "latest":
        return await app.batches.result(caller, batch)
    try:
        return await app.batches.result(caller, None)
    except UnknownBatch:
        raise UnknownBatch(
            "There is no batch of the last 24 hours: `replicate-mcp generate` starts one."
        ) from None


def _reason(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of a task group if all its errors are `ReplicateMcpError`s."""
    ours, others = group.split(ReplicateMcpError)
    if ours is None or others is not None:
        return group
    first: Exception = ours
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first
