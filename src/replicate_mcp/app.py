"""The composition root: settings become a backend, gateways and the engine, for the edges."""

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from replicate_mcp.access import Caller, caller_for
from replicate_mcp.batches.progress import OnProgress, Progress, progress, watch
from replicate_mcp.errors import (
    InvalidInput,
    ReplicateMcpError,
    ReplicateUnavailable,
    Unauthorized,
    UnknownBatch,
)
from replicate_mcp.semaphores.context import ContextQueue, Lease
from replicate_mcp.semaphores.permits import SemaphoreState
from replicate_mcp.semaphores.registry import (
    account_semaphore,
    check_limit,
    check_name,
    unknown_semaphore,
    visible_to,
)
from replicate_mcp.settings import Settings, default_state_file

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from replicate_mcp.batches.backend import Backend, BatchState
    from replicate_mcp.batches.runner import BatchRunner
    from replicate_mcp.replicate_api.gateway import Gateway
    from replicate_mcp.replicate_api.models import Models
    from replicate_mcp.semaphores.holder import Holder
    from replicate_mcp.tasks.result import BatchCounts, BatchResult

log = logging.getLogger(__name__)

JOURNAL_POLL_SECONDS = 0.5
"""How often a batch that another process runs is looked at while a caller waits for it."""


async def open_backend(value: str) -> "Backend":
    """The backend that `REPLICATE_MCP_BACKEND` names.

    Raises:
        BackendUnavailable: it cannot be used; the message says why and what to do.
    """
    if value.startswith(("redis://", "rediss://")):
        from replicate_mcp.backends.redis import RedisBackend

        return await RedisBackend.open(value, label=_label())

    from replicate_mcp.backends.sqlite import SqliteBackend
    from replicate_mcp.backends.sqlite_database import MEMORY

    if value == "memory":
        location = MEMORY
    elif value == "sqlite":
        location = str(default_state_file())
    else:
        location = value.removeprefix("sqlite:///")
    return await SqliteBackend.open(location, label=_label())


def _label() -> str:
    """What people know this process by: its program, and the command where it has one."""
    called = Path(sys.argv[0])
    program = called.parent.name if called.stem == "__main__" else called.stem
    command = [word for word in sys.argv[1:2] if word.isalpha()]
    return f"{' '.join([program if program.strip('-') else 'python', *command])} [{os.getpid()}]"


class App:
    """All that a process shares between its callers, made at the first call that needs it."""

    def __init__(self, settings: Settings, group: "TaskGroup") -> None:
        self.settings = settings
        self._group = group
        self._parts: _Parts | None = None
        self._opening = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: Settings) -> AsyncIterator["App"]:
        """An app whose work goes on in the background until the end of the block.

        Nothing is opened before the first call that needs it: hosts start servers for every
        window, and most of them are never asked for an image.
        """
        app: App | None = None
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                app = cls(settings, group)
                try:
                    yield app
                except Exception as raised:
                    error = raised  # As it is, not in the group's wrapping.
                group.cancel_scope.cancel()
        finally:
            # After the background's end, which stands on it; and even when cancelled: others learn
            # at once that this process is gone.
            with anyio.CancelScope(shield=True):
                if app is not None:
                    await app.leave()
        if error is not None:
            raise error

    async def leave(self) -> None:
        """Tell the other processes that this one goes; what runs on Replicate keeps its permit."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            await parts.close()

    def caller(self, own_token: str | None = None) -> Caller:
        """Who calls: by the token they brought, else the server's."""
        return caller_for(own_token=own_token, server_token=self.settings.token)

    # What the edges offer

    async def recover(self) -> None:
        """Take over, from now on, what other processes of the server's own account leave.

        Any call begins that as well; a server does it though nobody calls. Without a token of its
        own it waits for a caller that brings one, and memory has nothing to recover.
        """
        if self.settings.token and self.settings.backend != "memory":
            try:
                await self._open()
            except ReplicateMcpError as error:
                log.warning("%s", error)

    async def start_batch(
        self,
        caller: Caller,
        tasks: object,
        *,
        model: str | None = None,
        semaphore: str | None = None,
        concurrency_limit: int | None = None,
        shared_inputs: Mapping[str, Any] | None = None,
    ) -> str:
        """Check a request whole, begin its batch, and give its id.

        Raises:
            ReplicateMcpError: it is refused whole; nothing was created.
        """
        from replicate_mcp.batches.planning import plan
        from replicate_mcp.replicate_api.faults import Fault
        from replicate_mcp.tasks.task import parse_tasks

        parsed = parse_tasks(
            tasks, model=model, default_model=self.settings.default_model, shared=shared_inputs
        )
        if concurrency_limit is not None:
            check_limit(concurrency_limit)
        parts = await self._open()
        gateway = parts.accounts.gateway(caller.token)
        account = await parts.account(caller.token)
        with contextlib.suppress(Fault):  # The creations meet the same, and report it.
            await gateway.learn_clock()
        shown, semaphores = await self._semaphores(parts, account, semaphore)
        try:
            planned = await plan(parsed, gateway, parts.models)
        except ExceptionGroup as group:  # Models are looked up at once, in a task group.
            raise _refused(group) from None
        batch = await parts.runner.start(
            planned,
            gateway=gateway,
            account=account,
            caller=caller.name,
            shown_semaphore=shown,
            semaphores=semaphores,
            at_most=concurrency_limit,
        )
        return batch.id

    async def wait(
        self,
        caller: Caller,
        batch_id: str,
        *,
        seconds: float | None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Wait until the batch ends, at most so long, and report how far it is."""
        parts = await self._open()
        await self._visible(parts, caller, batch_id)
        with anyio.move_on_after(seconds):
            running = parts.runner.running(batch_id)
            if running is not None:
                await watch(running, on_progress)
            while await self._still_runs(parts, batch_id):  # noqa: ASYNC110
                # Another process runs it, and wakes only those who wait for permits.
                await anyio.sleep(JOURNAL_POLL_SECONDS)

    async def result(
        self, caller: Caller, batch_id: str | None, *, after: int = 0, limit: int | None = None
    ) -> "BatchResult":
        """A batch's counts and its finished tasks, without the first `after` of them.

        Args:
            batch_id: None for the caller's newest.
            limit: rows at most; None for all.

        Raises:
            UnknownBatch: the caller has no such batch.
        """
        from replicate_mcp.tasks.result import page

        parts = await self._open()
        state = await self._visible(parts, caller, batch_id)
        rows = await parts.backend.results(state.id, after=after, limit=limit)
        state = await self._visible(parts, caller, state.id)
        return page(counts_of(state), rows, after=min(after, state.succeeded + state.failed))

    async def batches(self, caller: Caller, *, limit: int = 100) -> "list[BatchCounts]":
        """The caller's batches, the newest first."""
        parts = await self._open()
        return [counts_of(each) for each in await parts.backend.batches(caller.sees, limit=limit)]

    async def cancel(self, caller: Caller, batch_id: str) -> "BatchCounts":
        """Stop a batch for good, on Replicate too."""
        parts = await self._open()
        await self._visible(parts, caller, batch_id)
        await parts.backend.cancel_batch(batch_id)
        if running := parts.runner.running(batch_id):
            parts.runner.cancel(running)
        return counts_of(await self._visible(parts, caller, batch_id))

    async def progress(self, batch_id: str) -> Progress | None:
        """How far a batch is at this moment, if this process runs it."""
        running = (await self._open()).runner.running(batch_id)
        if running is None:
            return None
        return progress(running)

    async def stopped(self, batch_id: str) -> None:
        """Wait until nothing of a batch of this process runs at Replicate any more."""
        parts = await self._open()
        if running := parts.runner.running(batch_id):
            await running.ended.wait()

    async def semaphores(self, caller: Caller) -> list[SemaphoreState]:
        """What the caller sees: the registered ones, and its own account's."""
        parts = await self._open()
        account = await parts.account(caller.token)
        states = await parts.backend.semaphores()
        return visible_to(account, states, own_name=self.settings.default_semaphore)

    async def known_semaphores(self) -> list[SemaphoreState]:
        """The registered ones, and the server's own account's where it has a token."""
        if self.settings.token:
            return await self.semaphores(self.caller())
        parts = await self._open()
        return visible_to("", await parts.backend.semaphores(), own_name="")

    async def register_semaphore(self, name: str, limit: int) -> SemaphoreState:
        """Make a name known while this process lives; a known one is returned unchanged."""
        check_name(name)
        check_limit(limit)
        parts = await self._open()
        if name == self.settings.default_semaphore:
            return (await self.semaphores(self.caller()))[0]
        return await parts.backend.register(name, limit)

    async def resize_semaphore(
        self, name: str, limit: int, *, by_admin: bool = False
    ) -> SemaphoreState:
        """Set a limit by hand."""
        check_limit(limit)
        parts = await self._open()
        inside = await self._inside(name)
        parts.holder.accept(await parts.backend.resize(inside, limit, by_admin=by_admin))
        return next(each for each in await self.known_semaphores() if each.name == name)

    async def acquire(self, lease: Lease) -> None:
        """Wait for a unit of the semaphore that the lease names, for a caller's own code."""
        parts = await self._open()
        lease.semaphore = await self._inside(lease.semaphore)
        await parts.contexts.acquire(lease)

    async def release(self, lease: Lease) -> None:
        """Give a unit back, or stop waiting for it."""
        parts = await self._open()
        await parts.contexts.release(lease)

    async def backend(self) -> "Backend":
        """Where semaphores, permits and the journal live."""
        return (await self._open()).backend

    async def holder(self) -> "Holder":
        """This process, as the backend's holder."""
        return (await self._open()).holder

    async def models(self) -> "Models":
        """What is known of models."""
        return (await self._open()).models

    async def gateway(self, caller: Caller) -> "Gateway":
        """The caller's way to Replicate."""
        return (await self._open()).accounts.gateway(caller.token)

    async def own_semaphore(self, caller: Caller) -> str:
        """The name of the caller's account's semaphore in the backend."""
        parts = await self._open()
        return account_semaphore(await parts.account(caller.token))

    def in_background(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Do something for as long as the app runs, whatever becomes of who asked for it."""
        self._group.start_soon(work, *arguments)

    # How it is put together

    async def _inside(self, name: str) -> str:
        """The name that the backend knows a semaphore by."""
        if name == self.settings.default_semaphore:
            return await self.own_semaphore(self.caller())
        return name

    async def _open(self) -> "_Parts":
        if self._parts is None:
            async with self._opening:
                if self._parts is None:
                    self._parts = await _Parts.open(self.settings, self._group)
        return self._parts

    async def _semaphores(
        self, parts: "_Parts", account: str, named: str | None
    ) -> tuple[str, tuple[str, ...]]:
        """The name to show, and the semaphores of which each task needs a unit."""
        own = account_semaphore(account)
        if named is None or named == self.settings.default_semaphore:
            return self.settings.default_semaphore, (own,)
        name = check_name(named)
        known = {state.name for state in await parts.backend.semaphores()}
        if name not in known:
            raise InvalidInput(unknown_semaphore(name, known))
        return name, (own, name)

    @staticmethod
    async def _visible(parts: "_Parts", caller: Caller, batch_id: str | None) -> "BatchState":
        if batch_id is None:
            newest = await parts.backend.batches(caller.sees, limit=1)
            if newest:
                return newest[0]
            raise UnknownBatch("There is no batch yet: generate_images starts one.")
        state = await parts.backend.batch(batch_id)
        if state is None or state.caller not in caller.sees:
            raise UnknownBatch(
                f"There is no batch '{batch_id[:60]}': batches are remembered for 24 hours, and "
                "only their own caller sees them."
            )
        return state

    @staticmethod
    async def _still_runs(parts: "_Parts", batch_id: str) -> bool:
        state = await parts.backend.batch(batch_id)
        return state is not None and state.status == "running"


class _Parts:
    """The engine and all that it stands on."""

    def __init__(
        self,
        settings: Settings,
        backend: "Backend",
        holder: "Holder",
        runner: "BatchRunner",
        contexts: ContextQueue,
    ) -> None:
        from replicate_mcp.replicate_api.accounts import Accounts
        from replicate_mcp.replicate_api.models import Models

        self.backend = backend
        self.holder = holder
        self.runner = runner
        self.contexts = contexts
        self.models = Models(backend)
        self._settings = settings
        self.accounts = Accounts(settings.replicate_base_url, backend)
        self._declared: set[str] = set()
        self._declaring = anyio.Lock()

    @classmethod
    async def open(cls, settings: Settings, group: "TaskGroup") -> "_Parts":
        """Put the parts together, and start what runs in the background."""
        from replicate_mcp.batches.runner import BatchRunner
        from replicate_mcp.semaphores.holder import Holder

        backend = await open_backend(settings.backend)
        holder = Holder(backend)
        runner = BatchRunner(
            backend,
            holder,
            group,
            prediction_seconds=settings.prediction_seconds,
            batch_seconds=settings.batch_seconds,
            images_per_day=settings.images_per_day,
        )
        group.start_soon(backend.run)
        group.start_soon(holder.run)
        group.start_soon(runner.hear_cancels)
        contexts = ContextQueue(backend, holder, group.start_soon)
        parts = cls(settings, backend, holder, runner, contexts)
        if settings.token:
            group.start_soon(parts.look_after_the_own_account)
        return parts

    async def look_after_the_own_account(self) -> None:
        """Take over what an earlier process left of the server's own account."""
        try:
            await self.account(self._settings.token or "")
        except ReplicateMcpError as error:
            log.warning("%s", error)

    async def account(self, token: str) -> str:
        """The account behind a token, its limit and rate declared once."""
        account = await self.accounts.name(token)
        async with self._declaring:
            if account not in self._declared:
                await self.backend.declare(
                    account_semaphore(account),
                    self._settings.concurrent_limit,
                    per_minute=self._settings.requests_per_minute,
                )
                self._declared.add(account)
        self.runner.recover(account, self.accounts.gateway(token))
        return account

    async def close(self) -> None:
        """Leave the backend, and close every client."""
        await self.backend.close()
        await self.accounts.close()


def counts_of(state: "BatchState") -> "BatchCounts":
    """A batch's counts, in the contract's form."""
    from replicate_mcp.tasks.result import BatchCounts

    return BatchCounts(
        batch_id=state.id,
        status=state.status,
        total_tasks=state.total,
        successful_count=state.succeeded,
        failed_count=state.failed,
        pending_count=state.total - state.succeeded - state.failed,
        semaphore=state.semaphore,
    )


def _refused(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first reason why models could not be looked up, in our own terms."""
    from replicate_mcp.replicate_api.fault_policy import rule_for
    from replicate_mcp.replicate_api.faults import Fault

    first = group.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, Fault):
        rule = rule_for(first)
        kind = Unauthorized if rule.code == "unauthorized" else ReplicateUnavailable
        return kind(rule.sentence)
    return first
