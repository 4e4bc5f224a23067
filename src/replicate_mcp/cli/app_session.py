"""An app for the length of one command, and who uses it."""

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
    """Do one command's work in an app that ends with it.

    Raises:
        ReplicateMcpError: as the work raised it.
    """

    # A command ends with the error itself; the recovery beside it would log the same.
    logging.getLogger("replicate_mcp.app.composition").setLevel(logging.ERROR)

    async def inside() -> T:
        async with App.running(settings) as app:
            return await work(app)

    try:
        return anyio.run(inside)
    except ExceptionGroup as group:
        raise _reason(group) from None


async def result_of(app: App, caller: Caller, batch: str) -> BatchResult:
    """The results of a batch, or of the `latest`.

    Raises:
        UnknownBatch: there is none.
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
    """The first of a task group's errors, where each of them has a sentence for a person."""
    ours, others = group.split(ReplicateMcpError)
    if ours is None or others is not None:
        return group
    first: Exception = ours
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first


def reader(settings: Settings) -> Caller:
    """Who reads the journal on this machine; that takes no token, since Replicate is not asked.

    Hosts often have the token in their own configuration alone, while the batches of the servers
    they started are in this user's state file.
    """
    return Caller("server", settings.token or "")
