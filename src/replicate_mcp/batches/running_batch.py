"""State of a batch that this process runs: pending, creating and running tasks, and counts."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from opentelemetry.context import Context

from replicate_mcp.batches.dependencies import Dependencies
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.reconciliation import Reconciler
from replicate_mcp.errors import ErrorCode
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

Reason = tuple[ErrorCode, str, bool]
"""Why tasks are not created: the error code, the message, and whether a retry can help."""


@dataclass(eq=False)
class RunningBatch:
    """A batch that this process runs.

    Attributes:
        caller: name of the caller who started it.
        names: the filenames of its files.
        deadline: when nothing more of it is created, on the clock of `steady_time`.
        opened: when it was requested, on the clock of `steady_time`.
        trace: the parent context of its attempts' spans.
        pending: indices of tasks that wait for a permit, in order.
        dependencies: the tasks that wait for the images of others, which are not pending.
        entry: its entry in the queue, with no starts.
        elsewhere: indices of tasks that other processes follow, of a batch that was taken over.
        weight: memory that it uses, in bytes; 0 if memory is not limited.
        invalid: number of tasks with a result before the start: those that failed because of their
            inputs, and those that had ended when the batch was taken over.
        began: when its first task was sent, on the clock of `steady_time`; None before.
        throttled: whether a creation of it was answered with 429.
        server_error: status of 500 or more in response to its last creation; else 0.
        is_resumable: whether other processes may resume it if this one ends.
        is_let_go: whether another process has taken it over, and runs its tasks.
        stop_reason: why no more of its tasks are created; None while they are.
        creating: task indices by permit, for creations without a response yet.
        following: ids of running predictions, by permit.
        retries: how often each task, by index, was sent again because Replicate was unreachable.
        ended: set when every task has its result, or another process has taken the batch over.
        changed: set, and replaced, at every change.
        stopping: set when no more of its tasks are created.
    """

    id: str
    caller: str
    account: str
    tasks: Sequence[PlannedTask]
    gateway: Gateway = field(repr=False)
    reconciler: Reconciler = field(repr=False)
    dispatcher: OfferDispatcher = field(repr=False)
    names: BatchFilenames = field(repr=False)
    deadline: float
    opened: float
    trace: Context = field(repr=False)
    pending: deque[int]
    dependencies: Dependencies = field(repr=False)
    entry: QueueEntry = field(repr=False)
    elsewhere: set[int] = field(default_factory=set)
    weight: int = 0
    invalid: int = 0
    began: float | None = None
    succeeded: int = 0
    failed: int = 0
    throttled: bool = False
    server_error: int = 0
    is_resumable: bool = False
    is_let_go: bool = False
    stop_reason: Reason | None = None
    canceled: bool = False
    creating: dict[int, int] = field(default_factory=dict)
    following: dict[int, str] = field(default_factory=dict)
    retries: dict[int, int] = field(default_factory=dict)
    ended: anyio.Event = field(default_factory=anyio.Event)
    changed: anyio.Event = field(default_factory=anyio.Event)
    stopping: anyio.Event = field(default_factory=anyio.Event)

    @property
    def total(self) -> int:
        """Number of its tasks."""
        return len(self.tasks)

    @property
    def finished(self) -> int:
        """Number of tasks with a result."""
        return self.succeeded + self.failed

    @property
    def running(self) -> int:
        """Number of tasks in flight at Replicate."""
        return len(self.creating) + len(self.following) + len(self.elsewhere)

    def stop_creating(self, reason: Reason) -> None:
        """Create no more of its tasks; the first reason stands."""
        self.stop_reason = self.stop_reason or reason
        self.stopping.set()

    def let_go(self) -> None:
        """Create no more of its tasks, and end none: the process that took it over does."""
        self.is_let_go = True
        self.pending.clear()
        self.dependencies.drop()
        self.stopping.set()
        self.ended.set()
        self.notify()

    def add_result(self, result: TaskResult) -> None:
        """Count a result, and notify those who wait for changes."""
        if isinstance(result, TaskSuccess):
            self.succeeded += 1
        else:
            self.failed += 1
        self.notify()
        if self.finished >= self.total:
            self.ended.set()

    def notify(self) -> None:
        """Wake those who wait for changes."""
        self.changed.set()
        self.changed = anyio.Event()
