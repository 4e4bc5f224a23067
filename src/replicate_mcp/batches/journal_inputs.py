"""Encoding of a batch's inputs in the journal, from which its tasks can be created again.

A line for the whole batch, with the inputs that all its tasks share, and then a line for each task.
Prompts are left out: the journal has them with the tasks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from replicate_mcp.errors import InvalidInput

if TYPE_CHECKING:
    from replicate_mcp.batches.planning import PlannedTask

MAX_INPUTS_BYTES = 16 * 1024**2
"""Maximum size of a batch's inputs in the journal, which a shared one keeps for a day; the same as
of a request's body. What all tasks share counts once."""


@dataclass(frozen=True, slots=True)
class RecordedInputs:
    """A task's inputs in the journal, and what its prediction is expected to give.

    Attributes:
        inputs: the inputs as they were sent, without the prompt; None if the task was refused, or
            has secrets.
        expected_format: image format of its files; None if it is unknown.
        expected_count: number of images that it requests.
        complete_at_count: as in `PlannedTask`.
        secrets: names of inputs that the journal does not keep.
        referring: as in `PlannedTask`.
    """

    inputs: Mapping[str, Any] | None = field(repr=False)
    expected_format: str | None = None
    expected_count: int = 1
    complete_at_count: int | None = None
    secrets: tuple[str, ...] = ()
    referring: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """A batch's inputs in the journal.

    Attributes:
        max_running: number of its tasks that may run at once; None for the semaphores' limits.
        tasks: the inputs of each task.
    """

    max_running: int | None
    tasks: Sequence[RecordedInputs]


def encode_inputs(tasks: "Sequence[PlannedTask]", *, max_running: int | None) -> str:
    """Encode a batch's inputs, for `decode_inputs`.

    Raises:
        InvalidInput: they take more than `MAX_INPUTS_BYTES`.
    """
    kept = [task for task in tasks if _is_kept(task)]
    shared = _shared(kept)
    lines = [_dump([max_running, shared])]
    size = len(lines[0])
    for task in tasks:
        own = _own(task, shared) if _is_kept(task) else None
        line: list[Any] = [
            own,
            task.expected_format,
            task.expected_count,
            task.complete_at_count,
            *task.secrets,
        ]
        if task.referring:
            line.append(list(task.referring))
        lines.append(_dump(line))
        size += len(lines[-1])
        if size > MAX_INPUTS_BYTES:
            raise InvalidInput(
                f"task {task.index}: the inputs up to it have more than "
                f"{MAX_INPUTS_BYTES // 1024**2} MiB, and the journal keeps those of a batch: send "
                "several batches, or files as URLs."
            )
    return "\n".join(lines)


def decode_inputs(text: str) -> RecordedBatch:
    """Decode what `encode_inputs` returned."""
    head, *lines = text.split("\n")
    max_running, shared = json.loads(head)
    tasks = []
    for line in lines:
        own, expected_format, expected_count, complete_at_count, *rest = json.loads(line)
        referring = rest.pop() if rest and isinstance(rest[-1], list) else []
        tasks.append(
            RecordedInputs(
                inputs=None if own is None else {**shared, **own},
                expected_format=expected_format,
                expected_count=expected_count,
                complete_at_count=complete_at_count,
                secrets=tuple(rest),
                referring=tuple(referring),
            )
        )
    return RecordedBatch(max_running, tasks)


def _is_kept(task: "PlannedTask") -> bool:
    return not task.problems and not task.secrets


def _shared(tasks: "Sequence[PlannedTask]") -> dict[str, Any]:
    """Return the inputs that all of several tasks have, with equal values."""
    if len(tasks) < 2:
        return {}
    shared = dict(tasks[0].inputs)
    shared.pop("prompt", None)
    for task in islice(tasks, 1, None):
        for name in [name for name, value in shared.items() if not _has(task, name, value)]:
            del shared[name]
    return shared


def _has(task: "PlannedTask", name: str, value: Any) -> bool:
    if name not in task.inputs:
        return False
    own = task.inputs[name]
    # True and 1 are equal in Python, and different inputs.
    return own is value or (own == value and _dump(own) == _dump(value))


def _own(task: "PlannedTask", shared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in task.inputs.items()
        if name != "prompt" and name not in shared
    }


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
