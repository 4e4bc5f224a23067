"""What can be counted of running batches, for whoever wants to: the metrics of the HTTP server."""

from typing import Protocol

from replicate_mcp.tasks.result import TaskResult


class Observer(Protocol):
    """Is told what happens; nothing waits for it."""

    def creation_sent(self, waited_seconds: float) -> None:
        """A creation is sent; its task waited for so long."""

    def creation_throttled(self) -> None:
        """A creation was answered with 429."""

    def answer_lost(self) -> None:
        """A creation's answer was lost, and is looked for in the list of predictions."""

    def creation_retried(self) -> None:
        """A task waits to be sent again because nothing was made."""

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        """A task has its result; None where nothing of it was sent."""


class NullObserver:
    """Watches nothing."""

    def creation_sent(self, waited_seconds: float) -> None:
        """Nothing."""

    def creation_throttled(self) -> None:
        """Nothing."""

    def answer_lost(self) -> None:
        """Nothing."""

    def creation_retried(self) -> None:
        """Nothing."""

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        """Nothing."""
