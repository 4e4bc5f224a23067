"""Public Python API, which puts a program's own calls under the same limits as the server's.

All functions use one app per process, which runs in a thread of its own. So they can be called from
any thread and any event loop, and the process counts as one holder.
"""

import asyncio
import atexit
import contextlib
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
from replicate_mcp.app.preparation import BatchRequest, Retry
from replicate_mcp.auth import Caller
from replicate_mcp.errors import UnknownSemaphore
from replicate_mcp.platform.processes import after_fork_in_child
from replicate_mcp.semaphores.context_permits import ContextPermit
from replicate_mcp.semaphores.names import unknown_semaphore
from replicate_mcp.settings_loader import load_settings

if TYPE_CHECKING:
    from replicate_mcp.batches.progress import OnProgress as Report
    from replicate_mcp.batches.progress import Progress
    from replicate_mcp.semaphores.status import SemaphoreStatus
    from replicate_mcp.tasks.result import BatchResult

T = TypeVar("T")

Work = Callable[[App], Coroutine[Any, Any, T]]
"""Coroutine function to run in the app's thread."""

OnProgress = Callable[["Progress"], object]
"""Function that receives the progress of a batch; what it returns is ignored."""

STOP_SECONDS = 20.0
"""Maximum seconds to wait for a batch to be cancelled, and at exit for the app to close."""


def register_global_semaphore(semaphore_id: str, limit: int) -> "SemaphoreStatus":
    """Register a named limit on predictions in flight, for the lifetime of this process.

    If the name is already registered, the semaphore is returned unchanged.

    Args:
        semaphore_id: the name of the semaphore.
        limit: the maximum number of predictions in flight.

    Raises:
        InvalidInput: the name or the limit is invalid; the message says what is allowed.
        BackendUnavailable: the shared state cannot be used.
    """
    return _call(lambda app: app.semaphores.register(semaphore_id, limit))


def resize_global_semaphore(semaphore_id: str, limit: int) -> "SemaphoreStatus":
    """Change the limit of a semaphore without interrupting running predictions.

    A lower limit takes effect as running predictions end.

    Args:
        semaphore_id: the name of the semaphore.
        limit: the new maximum number of predictions in flight.

    Raises:
        UnknownSemaphore: no semaphore with this name is registered.
    """
    return _call(lambda app: app.semaphores.resize(semaphore_id, limit))


def get_global_semaphore(semaphore_id: str) -> "SemaphoreStatus":
    """Return the current state of a semaphore.

    Args:
        semaphore_id: the name of the semaphore.

    Raises:
        UnknownSemaphore: no semaphore with this name is registered.
    """
    states = list_global_semaphores()
    for state in states:
        if state.name == semaphore_id:
            return state
    raise UnknownSemaphore(unknown_semaphore(semaphore_id, [state.name for state in states]))


def list_global_semaphores() -> "list[SemaphoreStatus]":
    """Return the state of every named semaphore.

    If a Replicate token is set, the semaphore of its account comes first.
    """
    return _call(lambda app: app.semaphores.list_own())


async def generate_images(
    tasks: "Sequence[Mapping[str, Any] | str]",
    *,
    model: str | None = None,
    semaphore: str | None = None,
    concurrency_limit: int | None = None,
    replicate_api_token: str | None = None,
    skip_invalid: bool = False,
    on_progress: "OnProgress | None" = None,
) -> "BatchResult":
    """Generate images and wait until the whole batch has ended.

    Every task ends in exactly one of the result's two lists, `successful_results` or
    `failed_results`. Cancelling the awaiting asyncio task also cancels the batch on Replicate.

    Args:
        tasks: prompts, or objects like `{"prompt": "a red car", "output_filename": "red_car.jpg"}`.
            An image input accepts a URL, a path (string or `Path`), `bytes`, or a file opened for
            reading in binary mode.
        model: the model of all tasks that do not name one; None for the default model.
        semaphore: the name of a registered semaphore that limits the batch in addition to the
            account's own limit.
        concurrency_limit: the maximum number of this batch's predictions in flight.
        replicate_api_token: the token of the account to use; None for `REPLICATE_API_TOKEN`.
        skip_invalid: run the valid tasks; invalid ones fail with `invalid_input`.
        on_progress: a function that is called with a `Progress` in the caller's event loop, after
            each task (at most ten times a second) and at least every five seconds.

    Raises:
        ReplicateMcpError: the request is refused as a whole, and nothing was created. Its
            `problems` list every fault, each with `task_index`, `field` and `error`.
    """

    async def run(app: App) -> "BatchResult":
        from replicate_mcp.batches.attachments import Attachments

        attachments = Attachments()
        request = BatchRequest(
            await anyio.to_thread.run_sync(attachments.replaced, tasks),
            model=model,
            semaphore=semaphore,
            concurrency_limit=concurrency_limit,
            image_paths="any",
            attached=attachments.images,
            skip_invalid=skip_invalid,
        )
        return await _run_batch(app, app.caller(replicate_api_token), request, report)

    report = _reporter(on_progress)
    return await asyncio.wrap_future(_start(run))


def generate_images_sync(
    tasks: "Sequence[Mapping[str, Any] | str]",
    *,
    model: str | None = None,
    semaphore: str | None = None,
    concurrency_limit: int | None = None,
    replicate_api_token: str | None = None,
    skip_invalid: bool = False,
    on_progress: "OnProgress | None" = None,
) -> "BatchResult":
    """Generate images like `generate_images`, and block this thread until the batch has ended.

    Ctrl-C cancels the batch on Replicate. `on_progress` is called in this thread.

    Raises:
        ReplicateMcpError: as for `generate_images`.
        RuntimeError: this thread runs an event loop, which would block: await `generate_images`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            "generate_images_sync would block the running event loop: await generate_images."
        )
    return asyncio.run(
        generate_images(
            tasks,
            model=model,
            semaphore=semaphore,
            concurrency_limit=concurrency_limit,
            replicate_api_token=replicate_api_token,
            skip_invalid=skip_invalid,
            on_progress=on_progress,
        )
    )


async def retry_batch(
    batch_id: str,
    *,
    task_indexes: "Sequence[int] | None" = None,
    new_seed: bool = False,
    replicate_api_token: str | None = None,
    on_progress: "OnProgress | None" = None,
) -> "BatchResult":
    """Make tasks of a batch again, in a new batch, and wait until that has ended.

    Each task has the inputs, the filename, the model and the semaphore that it had. The result's
    `retry_of` is the batch's id, and each row has the `retried_task_index` of the task that it
    repeats. Cancelling the awaiting asyncio task also cancels the new batch on Replicate.

    Args:
        batch_id: the id of a batch of the last 24 hours.
        task_indexes: the tasks to make again, made ones too; None for the failed ones whose
            `retryable` is true.
        new_seed: choose new seeds; otherwise each task has the seed that it had.
        replicate_api_token: the token with which the batch was started; None for
            `REPLICATE_API_TOKEN`.
        on_progress: as for `generate_images`.

    Raises:
        UnknownBatch: no batch of the last 24 hours with this id was started with this token.
        ReplicateMcpError: nothing was created: there is nothing to retry, or a task cannot be.
    """

    async def run(app: App) -> "BatchResult":
        request = BatchRequest(retry=Retry(batch_id, task_indexes, new_seed))
        return await _run_batch(app, app.caller(replicate_api_token), request, report)

    report = _reporter(on_progress)
    return await asyncio.wrap_future(_start(run))


def _reporter(on_progress: "OnProgress | None") -> "Report | None":
    """Return a function for the app's thread that calls `on_progress` in the running event loop."""
    if on_progress is None:
        return None
    loop = asyncio.get_running_loop()

    async def report(progress: "Progress") -> None:
        with contextlib.suppress(RuntimeError):  # The caller's event loop is closed.
            loop.call_soon_threadsafe(on_progress, progress)

    return report


async def _run_batch(
    app: App, caller: Caller, request: BatchRequest, report: "Report | None"
) -> "BatchResult":
    """Start a batch and wait for its end; cancel it if the caller is cancelled."""
    batch_id = await app.batches.start(caller, request)
    try:
        await app.batches.wait(caller, batch_id, seconds=None, on_progress=report)
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(STOP_SECONDS, shield=True):
            await app.batches.cancel(caller, batch_id)
            await app.batches.wait_until_stopped(batch_id)
        raise
    return await app.batches.result(caller, batch_id)


_held: ContextVar[Mapping[str, ContextPermit]] = ContextVar("held", default=MappingProxyType({}))
"""Permits of the surrounding contexts, by name; asyncio tasks inherit and may outlive them."""


class ExternalSemaphoreContext:
    """Context manager that holds one unit of a named semaphore during your own Replicate call.

    Use it with `with`, or in asyncio with `async with`:

        async with ExternalSemaphoreContext("replicate-global"):
            output = await replicate.async_run("owner/model", {"prompt": "a red car"})

    If the shared state cannot be used when the block ends, the unit is returned as soon as the
    state is available again.

    Raises:
        UnknownSemaphore: on entry, if no semaphore with this name is registered.
        RuntimeError: on entry, if `with` is used in a running event loop, which it would block, or
            if a context of the same name surrounds this one, which could then wait for itself.
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
        """Return the unit."""
        _start(self._give_back()).result()

    async def __aenter__(self) -> Self:
        """Wait for a unit; a cancelled wait holds nothing."""
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
        """Return the unit."""
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
    """The app of this process, in a thread of its own.

    Unlike anyio's `start_blocking_portal`, it cancels the open calls before the app closes, so that
    they can still cancel their batches, and waits for that at most `STOP_SECONDS`.
    """

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
        """Close the app, so that other processes need not detect that this one has ended."""
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
    """Discard the app in a forked child, which lacks the parent's thread and starts its own."""
    global _process, _starting
    _process = None
    _starting = threading.Lock()


after_fork_in_child(_forget)
