"""A task: one prompt with its inputs, read from what a caller sent."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks import filenames
from replicate_mcp.tasks.models import ModelName
from replicate_mcp.tasks.sendable import unsendable

MAX_TASKS = 1_000
"""Tasks in one batch; an agent that needs more sends another batch."""

MAX_PROMPT_CHARACTERS = 20_000
"""Far above what any image model reads."""

MAX_PROMPT_BYTES = 4 * 1024 * 1024
"""Of a batch's prompts together, in UTF-8: whoever shares a journal keeps them for a day."""

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
    tasks = [_parse_task(index, one, fallback, shared or {}) for index, one in enumerate(raw)]
    size = sum(len(task.prompt.encode()) for task in tasks)
    if size > MAX_PROMPT_BYTES:
        raise InvalidInput(
            f"the prompts have {size:,} bytes together, over the {MAX_PROMPT_BYTES:,} of one "
            "batch: send several batches."
        )
    return tasks


def _parse_task(index: int, raw: object, fallback: ModelName, shared: Mapping[str, Any]) -> Task:
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
    inputs = dict(shared)
    inputs.update((key, value) for key, value in raw.items() if key not in OWN_FIELDS)
    prompt = raw.get("prompt")
    if prompt is not None:
        inputs["prompt"] = prompt
    inputs.update(own_input or {})
    inputs = {str(key): value for key, value in inputs.items() if value is not None}
    name = raw.get("output_filename")
    model = raw.get("model")
    return Task(
        index=index,
        prompt=_check_prompt(where, inputs.get("prompt"), raw),
        output_filename=_check_name(where, name) if name else filenames.default_name(index),
        model=fallback if model is None else _model_name(f"{where}: model", model),
        inputs=_check_sendable(where, inputs),
        named=bool(name),
    )


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


def _check_sendable(where: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Whatever the model takes, an input is something that a request can carry."""
    for name, value in inputs.items():
        if why := unsendable(name) or unsendable(value):
            raise InvalidInput(f"{where}: {_printable(name[:60])} {why}.")
    return inputs


def _check_name(where: str, name: object) -> str:
    if not isinstance(name, str):
        raise InvalidInput(f"{where}: output_filename must be text, not {_kind(name)}.")
    if problem := filenames.problem(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise InvalidInput(
            f"{where}: output_filename '{_printable(shown)}' {problem}. It is a label, not a path: "
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


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
