"""The public Python API: a program's own calls under the same limits as the server's.

All of it works on one app of the process, on a thread of its own, so that it can be used from
any thread and any event loop, and counts as one holder.
"""

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from replicate_mcp.app.app import App
from replicate_mcp.app.batches import BatchRequest
from replicate_mcp.errors import UnknownSemaphore
from replicate_mcp.platform.processes import after_fork_in_child
from replicate_mcp.semaphores.context_permits import ContextPermit
from replicate_mcp.semaphores.names import unknown_semaphore
from replicate_mcp.settings import load_settings

if TYPE_CHECKING:
    from replicate_mcp.semaphores.status import SemaphoreStatus
    from replicate_mcp.tasks.result import BatchResult

T = TypeVar("T")

Work = Callable[[App], Coroutine[Any, Any, T]]
"""Something to do on the app's thread."""

STOP_SECONDS = 20.0
"""How long the end of the program waits for what it asked to stop, and to leave its backend."""


def register_global_semaphore(semaphore_id: str, limit: int) -> "SemaphoreStatus":
    """Make a named limit on predictions in flight known, for as long as this process lives.

    Registering a known name again returns it unchanged.

    Raises:
        InvalidInput: the name or the limit is none; the message says what is.
        BackendUnavailable: the shared state cannot be used.
    """
    return _call(lambda app: app.semaphores.register(semaphore_id, limit))


def resize_global_semaphore(semaphore_id: str, limit: int) -> "SemaphoreStatus":
    """Change a limit without disturbing holders: a lower one is reached as permits return.

    Raises:
        UnknownSemaphore: no such name.
    """
    return _call(lambda app: app.semaphores.resize(semaphore_id, limit))


def get_global_semaphore(semaphore_id: str) -> "SemaphoreStatus":
    """A semaphore as it stands.

    Raises:
        UnknownSemaphore: no such name.
    """
    states = list_global_semaphores()
    for state in states:
        if state.name == semaphore_id:
            return state
    raise UnknownSemaphore(unknown_semaphore(semaphore_id, [state.name for state in states]))


def list_global_semaphores() -> "list[SemaphoreStatus]":
    """The named semaphores, and, where a token is set, the own account's first."""
    return _call(lambda app: app.semaphores.list_own())


async def generate_images(
    tasks: "Sequence[Mapping[str, Any] | str]",
    *,
    model: str | None = None,
    semaphore: str | None = None,
    concurrency_limit: int | None = None,
    replicate_api_token: str | None = None,
    skip_invalid: bool = False,
) -> "BatchResult":
    """Make images and await the whole batch: every task ends in exactly one of the two lists.

    Args:
        tasks: prompts, or objects like `{"prompt": "a red car", "output_filename": "red_car.jpg"}`.
            An input that takes an image takes a URL, a path (text or `Path`), `bytes`, or a file
            that is open for reading in binary mode.
        model: of the tasks that name none.
        semaphore: a registered name to stay under besides the account's own limit.
        concurrency_limit: how many of this batch may run at once.
        replicate_api_token: whose account is used; else `REPLICATE_API_TOKEN`.
        skip_invalid: run the valid tasks; those with faults fail as `invalid_input`.

    Cancelling the awaiting task stops the batch, on Replicate too.

    Raises:
        ReplicateMcpError: the request is refused whole; nothing was created. Its `problems` list
            every fault, as `task_index`, `field` and `error`.
    """

    async def run(app: App) -> "BatchResult":
        from replicate_mcp.batches.attachments import Attachments

        caller = app.caller(replicate_api_token)
        attachments = Attachments()
        batch_id = await app.batches.start(
            caller,
            BatchRequest(
                await anyio.to_thread.run_sync(attachments.replaced, tasks),
                model=model,
                semaphore=semaphore,
                concurrency_limit=concurrency_limit,
                image_paths="any",
                attached=attachments.images,
                skip_invalid=skip_invalid,
            ),
        )
        try:
            await app.batches.wait(caller, batch_id, seconds=None)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(STOP_SECONDS, shield=True):
                await app.batches.cancel(caller, batch_id)
                await app.batches.wait_until_stopped(batch_id)
            raise
        return await app.batches.result(caller, batch_id)

    return await asyncio.wrap_future(_start(run))


_held: ContextVar[Mapping[str, ContextPermit]] = ContextVar("held", default=MappingProxyType({}))
"""What surrounds this code, by name; a task inherits it, and may outlive it."""


class ExternalSemaphoreContext:
    """Holds one unit of a named semaphore around a program's own call to Replicate.

    `with` or `async with` (asyncio):

        async with ExternalSemaphoreContext("replicate-global"):
            output = await replicate.async_run("owner/model", {"prompt": "a red car"})

    Where the shared state cannot be used as the block ends, the unit is given back as soon as it
    can be.

    Raises:
        UnknownSemaphore: on entering; there is no such name.
        RuntimeError: on entering; `with` inside a running event loop, which it would block, or a
            context of the same name inside another, which could wait for itself.
    """

    def __init__(self, semaphore_id: str) -> None:
        self.semaphore_id = semaphore_id
        self._lease: ContextPermit | None = None

    def __enter__(self) -> Self:
        """Wait for a unit, blocking this thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError(
                f"`with ExternalSemaphoreContext('{self.semaphore_id}')` would block the running "
                "event loop: use `async with`."
            )
        self._check()
        lease = ContextPermit(self.semaphore_id)
        try:
            _start(lambda app: app.semaphores.acquire(lease)).result()
        except BaseException:
            _start(lambda app: app.semaphores.release(lease))
            raise
        self._hold(lease)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the unit back."""
        _start(self._give_back()).result()

    async def __aenter__(self) -> Self:
        """Wait for a unit; a cancelled wait leaves no trace."""
        self._check()
        lease = ContextPermit(self.semaphore_id)
        try:
            await asyncio.shield(
                asyncio.wrap_future(_start(lambda app: app.semaphores.acquire(lease)))
            )
        except BaseException:
            _start(lambda app: app.semaphores.release(lease))
            raise
        self._hold(lease)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the unit back."""
        await asyncio.shield(asyncio.wrap_future(_start(self._give_back())))

    def _check(self) -> None:
        around = _held.get().get(self.semaphore_id)
        if around is not None and not around.given_up:
            raise RuntimeError(
                f"A context of '{self.semaphore_id}' is inside another of the same name: it could "
                "wait for itself."
            )
        if self._lease is not None:
            raise RuntimeError("This context is entered already: make one for each use.")

    def _hold(self, lease: ContextPermit) -> None:
        self._lease = lease
        _held.set({**_held.get(), self.semaphore_id: lease})

    def _give_back(self) -> Work[None]:
        lease, self._lease = self._lease, None
        assert lease is not None
        lease.given_up = True
        return lambda app: app.semaphores.release(lease)


class _Process:
    """The app of this process, on a thread of its own."""

    def __init__(self) -> None:
        ready: Future[tuple[BlockingPortal, App]] = Future()
        self._thread = threading.Thread(
            target=anyio.run, args=(self._live, ready), name="replicate-mcp", daemon=True
        )
        self._thread.start()
        self.portal, self.app = ready.result()
        atexit.register(self.stop)

    @staticmethod
    async def _live(ready: "Future[tuple[BlockingPortal, App]]") -> None:
        try:
            async with App.running(load_settings()) as app, BlockingPortal() as portal:
                ready.set_result((portal, app))
                await portal.sleep_until_stopped()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    def stop(self) -> None:
        """Leave the backend, so that others need not find out."""
        if self._thread.is_alive():
            self.portal.start_task_soon(self.portal.stop, True)
            self._thread.join(STOP_SECONDS)


_process: _Process | None = None
_starting = threading.Lock()


def _start(work: Work[T]) -> "Future[T]":
    global _process
    with _starting:
        if _process is None:
            _process = _Process()
    return _process.portal.start_task_soon(work, _process.app)


def _call(work: Work[T]) -> T:
    outcome: T = _start(work).result()
    return outcome


def _forget() -> None:
    """In a forked child the parent's thread is not there; the child makes its own app."""
    global _process, _starting
    _process = None
    _starting = threading.Lock()


after_fork_in_child(_forget)
