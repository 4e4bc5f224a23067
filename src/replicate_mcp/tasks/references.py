"""References: the image of another task as a file input, instead of a URL."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.input_conversion import whole_number
from replicate_mcp.tasks.json_text import begins_like_json, read_json_text
from replicate_mcp.tasks.openapi_schema import InputField
from replicate_mcp.text import escaped

_KEYS = frozenset({"task", "batch", "output"})

MAX_BATCH_ID_CHARACTERS = 60
"""Maximum length of a batch's id in a reference; ids of this program have 18."""

MAX_TEXT_CHARACTERS = 10_000
"""Longest JSON text that is searched for references; one reference has fewer than 120."""

PLACEHOLDER = "https://reference.invalid/"
"""URL in place of a reference while the other inputs are checked against the model's schema."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A file input that stands for an image of another task.

    Attributes:
        task: the index of the task that makes the image.
        batch: id of the earlier batch of that task; None for the same batch.
        output: which of the task's images, from 0.
    """

    task: int
    batch: str | None = None
    output: int = 0

    @classmethod
    def read(cls, value: object) -> "Reference | None":
        """Return the reference that a value of a request is; None if it is something else.

        Raises:
            ValueError: the value is a reference with a fault; the message continues a sentence that
                begins with the input's name.
        """
        if not isinstance(value, Mapping) or not {"task", "batch"} & value.keys():
            return None
        if others := sorted(str(key) for key in value.keys() - _KEYS):
            raise ValueError(
                f"refers to another task's image with '{escaped(others[0][:60])}', which a "
                "reference has not: its keys are task, batch and output"
            )
        batch = value.get("batch")
        if batch is not None and not (
            isinstance(batch, str) and 0 < len(batch) <= MAX_BATCH_ID_CHARACTERS
        ):
            raise ValueError(
                'refers to another task\'s image with a batch that is no id like "b_…"'
            )
        return cls(_index(value, "task"), batch, _index(value, "output", 0))

    def as_json(self) -> dict[str, Any]:
        """Return the form that requests have, without defaults."""
        fields = {"batch": self.batch, "task": self.task, "output": self.output or None}
        return {name: value for name, value in fields.items() if value is not None}

    def __str__(self) -> str:
        """Return what it refers to, as a part of a sentence."""
        image = f"image {self.output} of " if self.output else ""
        batch = f" of batch {escaped(self.batch)}" if self.batch else ""
        return f"{image}task {self.task}{batch}"


def _index(value: Mapping[str, Any], name: str, default: int | None = None) -> int:
    number = whole_number(value.get(name, default))
    if type(number) is not int or number < 0:
        raise ValueError(
            f"refers to another task's image with {name} that is not a number from 0, as in "
            f'{{"task": 0}}'
        )
    return number


@dataclass(frozen=True, slots=True)
class InputsRead:
    """Inputs of a task in which references have their normal form.

    Attributes:
        inputs: all inputs of the task.
        names: names of the inputs that are references, or lists with references.
        faults: what is wrong with a reference, by the name of its input.
    """

    inputs: Mapping[str, Any]
    names: tuple[str, ...]
    faults: Mapping[str, str]


def read_references(
    inputs: Mapping[str, Any], fields: Mapping[str, InputField] | None
) -> InputsRead:
    """Find the references among a task's inputs, also where they are JSON text.

    Args:
        inputs: the inputs of one task.
        fields: the inputs of its model, of which those for files may be references; None if the
            model's schema is unknown, where any value with a reference's form is one.
    """
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, value in inputs.items():
        if name == "prompt" or (fields is not None and not _takes_files(fields.get(name))):
            continue
        try:
            read = _read(_parsed(value))
        except ValueError as error:
            if fields is not None:  # Otherwise it is an object of the model's own, perhaps.
                faults[name] = f"{name} {error}"
            continue
        if any(isinstance(each, Reference) for each in _as_list(read)):
            found[name] = _replaced(read, Reference.as_json)
    return InputsRead({**inputs, **found}, tuple(found), faults)


def _takes_files(field: InputField | None) -> bool:
    return field is not None and field.takes_files


def references_of(inputs: Mapping[str, Any], names: Iterable[str]) -> Iterator[Reference]:
    """Yield the references among the inputs `names`, each once, in order."""
    found: dict[Reference, None] = {}
    for name in names:
        for each in _as_list(inputs[name]):
            if (reference := Reference.read(each)) is not None:
                found[reference] = None
    yield from found


def with_urls(
    inputs: Mapping[str, Any], names: Iterable[str], url_of: Callable[[Reference], str]
) -> Mapping[str, Any]:
    """Return the inputs with a URL in place of each reference among the inputs `names`."""
    return _with(inputs, names, url_of)


def with_references(
    inputs: Mapping[str, Any], names: Iterable[str], other: Callable[[Reference], Reference]
) -> Mapping[str, Any]:
    """Return the inputs with `other(reference)` in place of each reference among `names`."""
    return _with(inputs, names, lambda reference: other(reference).as_json())


def with_placeholders(inputs: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """Return the inputs with a URL of nothing in place of each reference, for a check."""
    return _with(inputs, names, lambda reference: f"{PLACEHOLDER}{reference.task}")


def _with(
    inputs: Mapping[str, Any], names: Iterable[str], replacement: Callable[[Reference], Any]
) -> Mapping[str, Any]:
    changed = {name: _replaced(_read(inputs[name]), replacement) for name in names}
    return {**inputs, **changed}


def _parsed(value: Any) -> Any:
    """Return a value with the JSON text in it parsed, if that is an object or a list."""
    if isinstance(value, list):
        return [_parsed(each) for each in value]
    if isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS and begins_like_json(value):
        try:
            return read_json_text(value, "")
        except InvalidInput:
            pass  # The check against the schema reports it.
    return value


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read_one(each) for each in value]
    return _read_one(value)


def _read_one(value: Any) -> Any:
    reference = Reference.read(value)
    return value if reference is None else reference


def _replaced(value: Any, replacement: Callable[[Reference], Any]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, replacement) for each in value]
    return replacement(value) if isinstance(value, Reference) else value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def reference_problems(
    references: Sequence[Mapping[str, Sequence[Reference]]], counts: Sequence[int | None]
) -> Iterator[tuple[int, str, str]]:
    """Yield what is wrong with the references between the tasks of one batch.

    Args:
        references: the references of each task, by the name of the input.
        counts: the number of images that each task makes; None if that is not certain.

    Yields:
        The task's index, the name of its input, and a clause that begins with that name.
    """
    last = len(references) - 1
    graph: dict[int, dict[int, str]] = {}
    for index, inputs in enumerate(references):
        for name, found in inputs.items():
            for each in found:
                if each.batch is not None:
                    continue
                if each.task > last:
                    there = f"this batch has tasks 0 to {last}" if last else "its only task is 0"
                    yield index, name, f"{name} refers to task {each.task}, but {there}"
                    continue
                graph.setdefault(index, {}).setdefault(each.task, name)
                count = counts[each.task]
                if count is not None and each.output >= count:
                    made = (
                        "1 image, number 0" if count == 1 else f"{count} images, 0 to {count - 1}"
                    )
                    yield (
                        index,
                        name,
                        f"{name} refers to image {each.output} of task {each.task}, which makes "
                        f"{made}",
                    )
    yield from _circles(graph)


def _circles(graph: dict[int, dict[int, str]]) -> Iterator[tuple[int, str, str]]:
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))[:-1]  # Each refers to the next.
            first = circle.index(min(circle))
            circle = circle[first:] + circle[:first]
            task, following = circle[0], circle[1 % len(circle)]
            name = graph[task][following]
            if len(circle) == 1:
                yield task, name, f"{name} refers to the task's own image"
            else:
                shown = [str(each) for each in circle[:_MAX_SHOWN]]
                more = [f"{len(circle) - _MAX_SHOWN} more"] if len(circle) > _MAX_SHOWN else []
                yield (
                    task,
                    name,
                    f"{name} refers to task {following} in a circle: each of the tasks "
                    f"{', '.join([*shown, *more])} needs the next one's image",
                )
            for each in circle:
                del graph[each]
        else:
            return


_MAX_SHOWN = 10
"""Maximum number of tasks of a circle that a message names."""
