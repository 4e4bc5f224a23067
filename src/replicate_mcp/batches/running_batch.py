"""A batch that this process runs: what waits, what is at Replicate, and how far it is."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from opentelemetry.context import Context

from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.reconciliation import Reconciler
from replicate_mcp.errors import ErrorCode
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

Reason = tuple[ErrorCode, str, bool]
"""Why tasks were given up: the code, the sentence, and whether sending them again can help."""


@dataclass(eq=False)
class RunningBatch:
    """A batch that this process runs.

    Attributes:
        caller: the name of who began it.
        pending: indices of tasks that wait, in order.
        creating: permits whose creation's answer is not there yet, with their tasks.
        following: predictions that run, by permit.
        sent_again: how often a task was sent again because Replicate could not be reached.
        ended: set when every task has its result.
        changed: set, and replaced, at every change.
        stopping: set when no more of its tasks are created.
        throttled: whether a creation of it was answered with 429.
        server_error: the status of 500 or more that its last creation was answered with; 0 where
            there is none.
        dropped: why no more of its tasks are created; None while they are.
        opened: when it was asked for. As `deadline`, on the clock of `steady_time`.
        trace: what its attempts' spans are joined to.
        weight: how many bytes it takes in memory, where that is counted.
        invalid: how many tasks failed before it began, because of their inputs.
        began: when its first task was sent; None before. As `deadline`, on the clock of
            `steady_time`.
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
    weight: int = 0
    invalid: int = 0
    began: float | None = None
    succeeded: int = 0
    failed: int = 0
    throttled: bool = False
    server_error: int = 0
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
        """How many tasks it has."""
        return len(self.tasks)

    @property
    def finished(self) -> int:
        """How many have their result."""
        return self.succeeded + self.failed

    @property
    def running(self) -> int:
        """How many are at Replicate."""
        return len(self.creating) + len(self.following)

    def stop_creating(self, reason: Reason) -> None:
        """Create none of its tasks any more; the first reason stands."""
        self.stop_reason = self.stop_reason or reason
        self.stopping.set()

    def add_result(self, result: TaskResult) -> None:
        """Count a result, and tell those who watch."""
        if isinstance(result, TaskSuccess):
            self.succeeded += 1
        else:
            self.failed += 1
        self.notify()
        if self.finished >= self.total:
            self.ended.set()

    def notify(self) -> None:
        """Wake those who watch."""
        self.changed.set()
        self.changed = anyio.Event()
