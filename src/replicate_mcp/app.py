"""What a process offers to its edges: MCP, HTTP, the command line and Python programs alike.

Nothing heavy is imported before the first call that needs it.
"""

import contextlib
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from replicate_mcp.access import Access, Caller
from replicate_mcp.batches.progress import OnProgress, Progress, progress, watch
from replicate_mcp.errors import (
    KeyReused,
    ReplicateMcpError,
    ReplicateUnavailable,
    UnknownBatch,
)
from replicate_mcp.semaphores.registry import check_limit
from replicate_mcp.settings import Settings
from replicate_mcp.shared_semaphores import SharedSemaphores

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from replicate_mcp.batches.backend import Backend, BatchState, IdempotencyKey
    from replicate_mcp.batches.local_images import LocalImages
    from replicate_mcp.batches.observing import Observer
    from replicate_mcp.batches.planning import PlannedTask
    from replicate_mcp.composition import Parts
    from replicate_mcp.replicate_api.finding import Found
    from replicate_mcp.replicate_api.gateway import Gateway
    from replicate_mcp.replicate_api.models import Models
    from replicate_mcp.semaphores.holder import Holder
    from replicate_mcp.tasks.model_inputs import InputSchema
    from replicate_mcp.tasks.result import BatchCounts, BatchResult, ListedBatch

log = logging.getLogger(__name__)

LOOK_UP_SECONDS = 30.0
"""For how long Replicate is asked about an account and its models before a request is refused."""

JOURNAL_POLL_SECONDS = 0.5
"""How often a batch that another process runs is looked at while a caller waits for it."""


class App:
    """All that a process shares between its callers, made at the first call that needs it."""

    def __init__(
        self, settings: Settings, group: "TaskGroup", *, listens_on_loopback: bool = False
    ) -> None:
        self.settings = settings
        self.observer: Observer | None = None
        key = settings.admin_api_key
        self.access = Access(
            server_token=settings.token,
            admin_key=key.get_secret_value() if key else None,
            listens_on_loopback=listens_on_loopback,
            allow_anonymous=settings.allow_anonymous,
            allowed_hosts=settings.allowed_hosts,
        )
        self.semaphores = SharedSemaphores(settings, self.access, self._open)
        self.is_leaving = False
        self._waits: set[anyio.CancelScope] = set()
        self._group = group
        self._parts: Parts | None = None
        self._opening = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, settings: Settings, *, listens_on_loopback: bool = False
    ) -> AsyncIterator["App"]:
        """An app whose work goes on in the background until the end of the block.

        Nothing is opened before the first call that needs it: hosts start servers for every
        window, and most of them are never asked for an image.
        """
        app: App | None = None
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                app = cls(settings, group, listens_on_loopback=listens_on_loopback)
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

    def let_go(self) -> None:
        """The process is about to leave: nobody is kept waiting for a batch any longer."""
        self.is_leaving = True
        for waiting in self._waits:
            waiting.cancel()

    async def leave(self) -> None:
        """Tell the other processes that this one goes; what runs on Replicate keeps its permit."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            await parts.close()

    def caller(self, own_token: str | None = None) -> Caller:
        """Who calls: by the token they brought, else the server's."""
        return self.access.caller(own_token=own_token)

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
        key: "IdempotencyKey | None" = None,
        is_local: bool = False,
        consent: "Callable[[Sequence[PlannedTask]], Awaitable[None]] | None" = None,
    ) -> str:
        """Check a request whole, begin its batch, and give its id.

        Args:
            key: under which the request may be sent again: it gets the same batch then.
            is_local: whether this machine's user asks, and may name images in the folder that the
                settings allow.
            consent: is awaited once all is checked, before anything is sent; it may raise.

        Raises:
            ReplicateMcpError: it is refused whole; nothing was created.
        """
        from replicate_mcp.batches.backend import KeyTaken
        from replicate_mcp.batches.planning import plan
        from replicate_mcp.batches.uploading import with_urls
        from replicate_mcp.replicate_api.faults import Fault
        from replicate_mcp.tasks.task import parse_tasks

        parsed = parse_tasks(
            tasks, model=model, default_model=self.settings.default_model, shared=shared_inputs
        )
        if concurrency_limit is not None:
            check_limit(concurrency_limit)
        parts = await self._open()
        gateway = parts.accounts.gateway(caller.token)
        try:
            if key is not None:
                await parts.backend.check_key(caller.name, key.key)
            images = self._local_images(is_local)
            with anyio.fail_after(LOOK_UP_SECONDS):
                account = await parts.account(caller.token)
                with contextlib.suppress(Fault):  # The creations meet the same, and report it.
                    await gateway.learn_clock()
                shown, semaphores = await self.semaphores.needed(account, semaphore)
                planned = await plan(parsed, gateway, parts.models, images)
            if consent is not None:
                await consent(planned)
            batch = await parts.runner.start(
                await with_urls(planned, images, gateway),
                gateway=gateway,
                account=account,
                caller=caller.name,
                shown_semaphore=shown,
                semaphores=semaphores,
                at_most=concurrency_limit,
                key=key,
            )
        except ExceptionGroup as group:  # Models are looked up at once, in a task group.
            raise _refused(group) from None
        except TimeoutError:
            raise ReplicateUnavailable(
                f"Replicate did not answer within {LOOK_UP_SECONDS:.0f} s, so nothing was created: "
                "try again."
            ) from None
        except KeyTaken as taken:
            if key is None or taken.digest != key.digest:
                raise KeyReused(
                    "This Idempotency-Key belongs to another request of yours: use a new one."
                ) from None
            return taken.batch_id
        return batch.id

    async def wait(
        self,
        caller: Caller,
        batch_id: str,
        *,
        seconds: float | None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Wait until the batch ends, or this process leaves; at most so long. Report how far it is.

        Args:
            seconds: None for as long as it takes.
        """
        parts = await self._open()
        await self._visible(parts, caller, batch_id)
        with self._waiting(seconds):
            running = parts.runner.running(batch_id)
            if running is not None:
                await watch(running, on_progress)
            while await self._still_runs(parts, batch_id):  # noqa: ASYNC110
                # Another process runs it, and wakes only those who wait for permits.
                await anyio.sleep(JOURNAL_POLL_SECONDS)

    async def result(
        self,
        caller: Caller,
        batch_id: str | None,
        *,
        after: int = 0,
        limit: int | None = None,
        characters: int | None = None,
    ) -> "BatchResult":
        """A batch's counts and its finished tasks, without the first `after` of them.

        Args:
            batch_id: None for the caller's newest.
            limit: rows at most; None for all.
            characters: what rows have room for; None for any number.

        Raises:
            UnknownBatch: the caller has no such batch.
        """
        from replicate_mcp.tasks.result import page, that_fit

        parts = await self._open()
        state = await self._visible(parts, caller, batch_id)
        rows = await parts.backend.results(state.id, after=after, limit=limit)
        rows = rows if characters is None else that_fit(rows, characters)
        state = await self._visible(parts, caller, state.id)
        return page(counts_of(state), rows, after=min(after, state.succeeded + state.failed))

    async def batches(self, caller: Caller, *, limit: int = 100) -> "list[ListedBatch]":
        """The caller's batches, the newest first."""
        from replicate_mcp.tasks.result import ListedBatch

        parts = await self._open()
        states = await parts.backend.batches(caller.sees, limit=limit)
        return [
            ListedBatch(
                **counts_of(each).model_dump(),
                created_at=_moment(each.created_at),
                ended_at=None if each.ended_at is None else _moment(each.ended_at),
            )
            for each in states
        ]

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

    async def backend(self) -> "Backend":
        """Where semaphores, permits and the journal live."""
        return (await self._open()).backend

    async def holder(self) -> "Holder":
        """This process, as the backend's holder."""
        return (await self._open()).holder

    async def find_models(self, query: str | None, caller: Callable[[], Caller]) -> "Found":
        """The models chosen by hand that fit, then what Replicate's catalogue has for the query.

        Args:
            query: None for all that were chosen by hand; Replicate is not asked then.
            caller: tells who asks; it may raise `Unauthorized`.

        Raises:
            ReplicateMcpError: Replicate was not asked, or did not answer, and nothing else fits.
        """
        from replicate_mcp.replicate_api.finding import Found, known_models, search

        known = known_models(query)
        if query is None:
            return Found(known)
        try:
            others = await search(query, await self.gateway(caller()))
        except ReplicateMcpError as error:
            if not known:
                raise
            return Found(known, f"Replicate's own catalogue was not searched: {error}")
        names = {model.name for model in known}
        return Found([*known, *(model for model in others if model.name not in names)])

    async def model_inputs(self, caller: Caller, name: str) -> "InputSchema | None":
        """What a model takes, by its own schema; None where Replicate could not say.

        Raises:
            ReplicateMcpError: there is no such model, or Replicate refused to tell.
        """
        from replicate_mcp.replicate_api.finding import inputs

        return await inputs(name, await self.gateway(caller), await self.models())

    async def models(self) -> "Models":
        """What is known of models."""
        return (await self._open()).models

    async def gateway(self, caller: Caller) -> "Gateway":
        """The caller's way to Replicate."""
        return (await self._open()).accounts.gateway(caller.token)

    async def hear_webhook(self, account: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Keep a webhook for whoever follows its prediction; False where there is no room now.

        Raises:
            InvalidInput: it is no webhook.
            Unauthorized: Replicate did not send it.
        """
        from replicate_mcp.replicate_api.webhooks import Message

        message = Message.read(headers, body)
        return await (await self._open()).accounts.hear(account, message)

    @contextlib.contextmanager
    def _waiting(self, seconds: float | None) -> Iterator[None]:
        with anyio.move_on_after(0 if self.is_leaving else seconds) as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)

    def in_background(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Do something for as long as the app runs, whatever becomes of who asked for it."""
        self._group.start_soon(work, *arguments)

    # How it is put together

    def _local_images(self, is_local: bool) -> "LocalImages":
        from replicate_mcp.batches.local_images import SETTING, LocalImages

        if not is_local:
            return LocalImages(None, "Paths are read on stdio alone, never over HTTP.")
        return LocalImages(
            self.settings.files,
            f"To name images of this machine, set {SETTING} to the folder that they are in.",
        )

    async def _open(self) -> "Parts":
        if self._parts is None:
            async with self._opening:
                if self._parts is None:
                    from replicate_mcp.composition import Parts

                    self._parts = await Parts.open(self.settings, self._group, self.observer)
        return self._parts

    async def _visible(self, parts: "Parts", caller: Caller, batch_id: str | None) -> "BatchState":
        state = await self._found(parts, caller, batch_id)
        is_elsewhere = state.status == "running" and parts.runner.running(state.id) is None
        if is_elsewhere and caller.brought_a_token:
            # Its process may be gone: then it is brought home with the token that is brought here.
            with contextlib.suppress(ReplicateMcpError):
                await parts.account(caller.token)
        return state

    @staticmethod
    async def _found(parts: "Parts", caller: Caller, batch_id: str | None) -> "BatchState":
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
    async def _still_runs(parts: "Parts", batch_id: str) -> bool:
        state = await parts.backend.batch(batch_id)
        return state is not None and state.status == "running"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


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
    from replicate_mcp.replicate_api.fault_policy import not_told
    from replicate_mcp.replicate_api.faults import Fault

    first = group.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return not_told(first) if isinstance(first, Fault) else first
