"""Images of earlier batches that tasks refer to: they must be the caller's, and still there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from replicate_mcp.auth import Caller
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.concurrency import for_each
from replicate_mcp.errors import InvalidInput, TaskProblem
from replicate_mcp.tasks.references import Reference, references_of
from replicate_mcp.tasks.result import GeneratedFile, TaskFailure, TaskResult
from replicate_mcp.text import escaped

if TYPE_CHECKING:
    from replicate_mcp.batches.backend import Backend

MAX_BATCHES = 100
"""Maximum earlier batches that the tasks of one batch refer to."""

MAX_CONCURRENT_READS = 4
"""Maximum batches read at once: each may have a thousand rows."""


_CHOOSE = "choose task {task} as well, or send both as new tasks"


@dataclass(frozen=True, slots=True)
class _Earlier:
    """A batch that tasks refer to: its rows by task, and the number of its tasks."""

    total: int
    rows: Mapping[int, TaskResult]


async def find_images(
    tasks: Sequence[PlannedTask], caller: Caller, backend: "Backend", *, retried: str | None = None
) -> tuple[dict[Reference, GeneratedFile], list[TaskProblem]]:
    """Return the images of earlier batches that tasks refer to, and problems of the others.

    Args:
        tasks: the tasks.
        caller: whose batches they may be.
        backend: the store of the journal.
        retried: the batch whose tasks these repeat; None for new tasks.

    Raises:
        InvalidInput: they refer to too many batches.
        BackendUnavailable: the journal cannot be read.
    """
    uses = list(_uses(tasks))
    batches = dict.fromkeys(reference.batch for _, _, reference in uses if reference.batch)
    if len(batches) > MAX_BATCHES:
        raise InvalidInput(
            f"the tasks refer to images of {len(batches)} earlier batches, over the {MAX_BATCHES} "
            "of one call: send several batches, or give URLs."
        )
    earlier: dict[str, _Earlier] = {}
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT_READS)

    async def read(batch: str) -> None:
        async with limiter:
            state = await backend.get_batch(batch)
            if state is not None and state.caller in caller.visible_callers:
                rows = await backend.results(batch)
                earlier[batch] = _Earlier(state.total, {row.task_index: row for row in rows})

    await for_each(batches, read)
    images: dict[Reference, GeneratedFile] = {}
    problems = []
    now = datetime.now(UTC)
    for index, name, reference in uses:
        if reference.batch is None:
            continue
        image = _image(reference, earlier.get(reference.batch), now)
        if isinstance(image, GeneratedFile):
            images[reference] = image
        else:
            again = _CHOOSE.format(task=reference.task) if retried == reference.batch else None
            sentence = image.sentence(reference, again)
            problems.append(TaskProblem(index, name, f"{name} refers to {reference}, {sentence}"))
    return images, problems


@dataclass(frozen=True, slots=True)
class _Missing:
    """Why there is no image: a clause, and what to do instead if making it again does not help."""

    why: str
    instead: str | None = None

    def sentence(self, reference: Reference, again: str | None) -> str:
        advice = self.instead or again or f"make task {reference.task} of that batch again first"
        return f"{self.why}: {advice}"


def _uses(tasks: Sequence[PlannedTask]) -> Iterator[tuple[int, str, Reference]]:
    for task in tasks:
        for name in task.referring:
            for reference in references_of(task.inputs, [name]):
                yield task.index, name, reference


def _image(reference: Reference, batch: _Earlier | None, now: datetime) -> GeneratedFile | _Missing:
    if batch is None:
        return _Missing(
            "a batch that does not exist",
            "batches are remembered for 24 hours, and only their own caller sees them",
        )
    row = batch.rows.get(reference.task)
    if reference.task >= batch.total:
        last = batch.total - 1
        there = f"that batch has tasks 0 to {last}" if last else "its only task is 0"
        return _Missing("which does not exist", there)
    if row is None:
        return _Missing("which has not ended yet", "wait for its result with get_batch")
    if isinstance(row, TaskFailure):
        return _Missing(f"which failed ({escaped(row.error_code)})")
    if reference.output >= row.count:
        last = row.count - 1
        return _Missing(
            "which does not exist", f"it made images 0 to {last}" if last else "it made one"
        )
    image = row.generated_files[reference.output]
    return image if image.expires_at > now else _Missing("whose URL has expired")
