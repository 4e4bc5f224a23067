"""A task: one prompt with its inputs, read from what a caller sent."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks import filenames
from replicate_mcp.tasks.models import ModelName
from replicate_mcp.tasks.sendable import count_values, unsendable
from replicate_mcp.text import escaped

MAX_TASKS = 1_000
"""Tasks in one batch; an agent that needs more sends another batch."""

MAX_PROMPT_CHARACTERS = 20_000
"""Far above what any image model reads."""

MAX_PROMPT_BYTES = 4 * 1024 * 1024
"""Of a batch's prompts together, in UTF-8: whoever shares a journal keeps them for a day."""

MAX_BATCH_VALUES = 500_000
"""Of the inputs of all tasks, shared ones counted for each: five hundred in each of a thousand.
Image models take some twenty."""

OWN_FIELDS = ("prompt", "output_filename", "model", "input")
"""The fields of a task that are ours; every other key is an input of its model."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt and what goes with it.

    Attributes:
        index: its place in the request, from 0.
        output_filename: as given, or `generated_image_N` (N from 1).
        inputs: what the model receives, `prompt` included; values of None are left out.
    """

    index: int
    prompt: str
    output_filename: str
    model: ModelName
    inputs: Mapping[str, Any] = field(repr=False)
    named: bool = True


def parse_tasks(
    raw: object, *, model: str | None, default_model: str, shared: Mapping[str, Any] | None = None
) -> list[Task]:
    """Read a request's tasks.

    Args:
        raw: a list of objects (a plain string stands for a task with that prompt), or an object
            that holds it as `tasks`.
        model: the model of tasks that name none; else `default_model`.
        shared: inputs of every task; a task's own win.

    Raises:
        InvalidInput: with a sentence that names the first wrong task and field.
    """
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except RecursionError:
            raise InvalidInput("tasks is JSON text that is nested too deeply.") from None
        except ValueError:
            raw = [raw]
    if isinstance(raw, Mapping):
        raw = raw["tasks"] if "tasks" in raw and "prompt" not in raw else [raw]
    if not isinstance(raw, list):
        raise InvalidInput('tasks must be a list of objects like {"prompt": "a red car"}.')
    if not raw:
        raise InvalidInput('tasks is empty: give at least one, like {"prompt": "a red car"}.')
    if len(raw) > MAX_TASKS:
        raise InvalidInput(
            f"{len(raw)} tasks are more than the {MAX_TASKS} of one batch: send several batches."
        )
    fallback = _model_name("model", model or default_model)
    common = _SharedInputs.read(shared or {})
    tasks = []
    values = 0
    for index, one in enumerate(raw):
        task, own_values = _parse_task(index, one, fallback, common)
        tasks.append(task)
        values += own_values + common.values
        if values > MAX_BATCH_VALUES:
            raise InvalidInput(
                f"task {index}: the inputs up to it hold over {MAX_BATCH_VALUES:,} values, shared "
                "ones counted for each task: send several batches, or smaller inputs."
            )
    size = sum(len(task.prompt.encode()) for task in tasks)
    if size > MAX_PROMPT_BYTES:
        raise InvalidInput(
            f"the prompts have {size:,} bytes together, over the {MAX_PROMPT_BYTES:,} of one "
            "batch: send several batches."
        )
    return tasks


@dataclass(frozen=True, slots=True)
class _SharedInputs:
    """Inputs of every task, checked once.

    Attributes:
        values: how many they hold.
    """

    inputs: Mapping[str, Any]
    values: int

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "_SharedInputs":
        inputs = {str(name): value for name, value in given.items() if value is not None}
        # A prompt is checked with each task's own.
        others = {name: value for name, value in inputs.items() if name != "prompt"}
        return cls(inputs, count_values(_check_sendable("shared inputs", others)))


def _parse_task(
    index: int, raw: object, fallback: ModelName, shared: _SharedInputs
) -> tuple[Task, int]:
    """Read one task; also, how many values its own inputs hold."""
    where = f"task {index}"
    if isinstance(raw, str):
        raw = {"prompt": raw}
    if not isinstance(raw, Mapping):
        raise InvalidInput(
            f'{where}: must be an object like {{"prompt": "a red car"}}, not {_kind(raw)}.'
        )
    own_input = raw.get("input")
    if own_input is not None and not isinstance(own_input, Mapping):
        raise InvalidInput(f"{where}: input must be an object of model inputs.")
    own = {str(key): value for key, value in raw.items() if key not in OWN_FIELDS}
    if (prompt := raw.get("prompt")) is not None:
        own["prompt"] = prompt
    own.update((str(key), value) for key, value in (own_input or {}).items())
    _check_sendable(where, own)
    # A task's null takes a shared input away.
    inputs = {**shared.inputs, **own}
    inputs = {name: value for name, value in inputs.items() if value is not None}
    name = raw.get("output_filename")
    model = raw.get("model")
    task = Task(
        index=index,
        prompt=_check_prompt(where, inputs.get("prompt"), raw),
        output_filename=_check_name(where, name) if name else filenames.default_name(index),
        model=fallback if model is None else _model_name(f"{where}: model", model),
        inputs=inputs,
        named=bool(name),
    )
    return task, count_values(own)


def _check_prompt(where: str, prompt: object, raw: Mapping[str, Any]) -> str:
    if prompt is None:
        near = difflib.get_close_matches("prompt", [str(key) for key in raw], 1, 0.6)
        hint = f" (it has '{near[0]}': did you mean prompt?)" if near else ""
        raise InvalidInput(f"{where}: prompt is missing{hint}: say what to draw.")
    if not isinstance(prompt, str):
        raise InvalidInput(f"{where}: prompt must be text, not {_kind(prompt)}.")
    if not prompt.strip():
        raise InvalidInput(f"{where}: prompt is empty: say what to draw.")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidInput(
            f"{where}: prompt has {len(prompt)} characters, over the {MAX_PROMPT_CHARACTERS} "
            "allowed."
        )
    return prompt


def _check_sendable(where: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whatever the model takes, an input is something that a request can carry."""
    for name, value in inputs.items():
        if why := unsendable(name) or unsendable(value):
            raise InvalidInput(f"{where}: {escaped(name[:60])} {why}.")
    return inputs


def _check_name(where: str, name: object) -> str:
    if not isinstance(name, str):
        raise InvalidInput(f"{where}: output_filename must be text, not {_kind(name)}.")
    if problem := filenames.problem(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise InvalidInput(
            f"{where}: output_filename '{escaped(shown)}' {problem}. It is a label, not a path: "
            "give a plain name like red_car.jpg."
        )
    return name


def _model_name(where: str, text: object) -> ModelName:
    if not isinstance(text, str):
        raise InvalidInput(f"{where} must be text like owner/name, not {_kind(text)}.")
    try:
        return ModelName.parse(text)
    except ValueError as error:
        raise InvalidInput(f"{where} {error}.".replace("?.", "?")) from None


def _kind(value: object) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "text")
