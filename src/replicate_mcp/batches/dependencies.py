"""Dependencies between a batch's tasks: one that refers to others' images waits for them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from replicate_mcp.batches.journal import Journal
from replicate_mcp.batches.outcome import failure
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.tasks.references import Reference, with_urls
from replicate_mcp.tasks.result import GeneratedFile, TaskFailure, TaskResult, TaskSuccess


async def read_images(
    tasks: Sequence[PlannedTask], journal: Journal
) -> dict[Reference, GeneratedFile]:
    """Return the images of earlier batches that tasks refer to, as far as the journal has them."""
    wanted = {each for task in tasks for each in task.references if each.batch is not None}
    images: dict[Reference, GeneratedFile] = {}
    for batch in dict.fromkeys(each.batch for each in wanted):
        for row in await journal.results(str(batch)):
            if isinstance(row, TaskSuccess):
                for output, file in enumerate(row.generated_files):
                    images[Reference(row.task_index, batch, output)] = file
    return {each: images[each] for each in wanted if each in images}


class Dependencies:
    """The tasks of one batch that wait for the images of others, and the images that exist.

    Args:
        tasks: the batch's tasks; their references have no circles.
        images: the images of earlier batches that they refer to.
    """

    def __init__(
        self,
        tasks: Sequence[PlannedTask],
        images: Mapping[Reference, GeneratedFile] = MappingProxyType({}),
    ) -> None:
        self._tasks = tasks
        self._images = dict(images)
        self._waiting = {task.index: set(task.sources) for task in tasks if task.sources}
        self._dependents: dict[int, list[int]] = {}
        for index, sources in self._waiting.items():
            for source in sources:
                self._dependents.setdefault(source, []).append(index)

    def is_waiting(self, index: int) -> bool:
        """Return whether a task waits for another's image."""
        return index in self._waiting

    def inputs(self, index: int) -> Mapping[str, Any]:
        """Return a task's inputs, with the URLs of the images that it refers to."""
        task = self._tasks[index]
        return with_urls(task.inputs, task.referring, lambda each: self._images[each].url)

    def expired(self, index: int, now: float) -> Reference | None:
        """Return an image that a task refers to and whose URL has expired; None if none has.

        Args:
            index: the task.
            now: seconds since the epoch.
        """
        references = self._tasks[index].references
        ends = ((each, self._images[each].expires_at.timestamp()) for each in references)
        return next((each for each, end in ends if end <= now), None)

    def settle(self, result: TaskResult) -> tuple[list[int], list[TaskFailure]]:
        """Take note of a task's result, which may also be that of a task that waited.

        Returns:
            The tasks that need no other image any more, in order, and the failures of those that
            can never have theirs, as well as of those that need an image of these.
        """
        ready: list[int] = []
        failures: list[TaskFailure] = []
        ended: list[TaskResult] = [result]
        while ended:
            source = ended.pop()
            self._waiting.pop(source.task_index, None)
            if isinstance(source, TaskSuccess):
                for output, file in enumerate(source.generated_files):
                    self._images[Reference(source.task_index, None, output)] = file
            for index in self._dependents.pop(source.task_index, ()):
                if index not in self._waiting:
                    continue
                if why := self._impossible(index, source):
                    del self._waiting[index]
                    failures.append(failure(self._tasks[index], "dependency_failed", *why))
                    ended.append(failures[-1])
                    continue
                self._waiting[index].discard(source.task_index)
                if not self._waiting[index]:
                    del self._waiting[index]
                    ready.append(index)
        return sorted(ready), failures

    def drop(self) -> list[int]:
        """Return the tasks that wait for images, which from now on wait no more."""
        dropped = sorted(self._waiting)
        self._waiting.clear()
        return dropped

    def _impossible(self, index: int, source: TaskResult) -> tuple[str, bool] | None:
        """Return why a task cannot have its image, and whether a retry can help; None if it can."""
        number = source.task_index
        if isinstance(source, TaskFailure):
            return (
                f"It needs the image of task {number}, which failed: {source.error}",
                source.retryable,
            )
        missing = [
            each.output
            for each in self._tasks[index].references
            if each.batch is None and each.task == number and each.output >= source.count
        ]
        if not missing:
            return None
        made = "only image 0" if source.count == 1 else f"only images 0 to {source.count - 1}"
        return f"It needs image {missing[0]} of task {number}, which made {made}.", False
