"""The app and the caller of a single command."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
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


async def result_of(app: App, caller: Caller, batch: str) -> BatchResult:
    """Return the results of `batch`, or of the newest batch for `latest`.

    Raises:
        UnknownBatch: no such batch exists.
    """
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


def reader(settings: Settings) -> Caller:
    """Return the caller that reads the journal on this machine.

    No token is needed, since Replicate is not called: hosts often keep the token in their own
    configuration, while the batches of the servers they start are in this user's state file.
    """
    return Caller("server", settings.token or "")
