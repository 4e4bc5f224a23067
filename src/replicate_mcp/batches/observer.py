"""Interface to count events of running batches, for the metrics of the HTTP server."""

from typing import Protocol

from replicate_mcp.tasks.result import TaskResult


class Observer(Protocol):
    """Receives execution events; callbacks must not block."""

    def creation_sent(self, waited_seconds: float) -> None:
        """Count a creation as sent, `waited_seconds` after its batch was opened."""

    def creation_throttled(self) -> None:
        """Count a 429 in response to a creation."""

    def response_lost(self) -> None:
        """Count a creation whose response was lost, which is then reconciled."""

    def creation_retried(self) -> None:
        """Count a task that is queued again because nothing was created."""

    def batch_resumed(self) -> None:
        """Count a batch that this process resumes in place of one that has ended."""

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        """Count a task's result.

        Args:
            result: the result.
            seconds_at_replicate: time since its creation was sent; None if none was sent.
        """


class NullObserver:
    """Observer that ignores every event."""

    def creation_sent(self, waited_seconds: float) -> None:
        """Ignore the event."""

    def creation_throttled(self) -> None:
        """Ignore the event."""

    def response_lost(self) -> None:
        """Ignore the event."""

    def creation_retried(self) -> None:
        """Ignore the event."""

    def batch_resumed(self) -> None:
        """Ignore the event."""

    def task_ended(self, result: TaskResult, seconds_at_replicate: float | None) -> None:
        """Ignore the event."""
