"""A task: a prompt or a file with its model inputs, parsed from a caller's request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replicate_mcp.errors import InvalidInput, TaskProblem
from replicate_mcp.tasks import filenames
from replicate_mcp.tasks.json_limits import count_values, json_problem
from replicate_mcp.tasks.json_text import read_json_text
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.validation_messages import quoted
from replicate_mcp.text import escaped

MAX_TASKS = 1_000
"""Maximum tasks of one batch; an agent that needs more sends another batch."""

MAX_PROMPT_CHARACTERS = 20_000
"""Maximum length of a prompt, far above what any image model reads."""

MAX_PROMPT_BYTES = 4 * 1024 * 1024
"""Maximum size of a batch's prompts together, in UTF-8: a shared journal keeps them for a day."""

MAX_BATCH_VALUES = 500_000
"""Maximum values in the inputs of all tasks, shared ones counted for each task: five hundred in
each of a thousand. Image models have about twenty."""

MAX_TASK_PROBLEMS = 10
"""Maximum problems of one task that are reported."""

OWN_FIELDS = ("prompt", "output_filename", "model", "input")
"""The fields of a task itself; every other key is an input of its model."""

_EXAMPLE = '{"prompt": "a red car"}'


@dataclass(frozen=True, slots=True)
class Task:
    """A prediction to create: its model inputs, and the name of its files.

    Attributes:
        index: its position in the request, from 0.
        prompt: as given; None if absent or not text.
        output_filename: as given, or `generated_image_N` (N from 1).
        inputs: the inputs for the model, including `prompt`, without those that are None or have a
            problem.
        named: whether the caller gave the filename.
        problems: the problems found so far; a task with problems is never created.
        referring: names of the inputs with references to other tasks' images, once its model is
            known.
    """

    index: int
    prompt: str | None
    output_filename: str
    model: ModelName
    inputs: Mapping[str, Any] = field(repr=False)
    named: bool = True
    problems: tuple[TaskProblem, ...] = ()
    referring: tuple[str, ...] = ()


def parse_tasks(
    raw: object, *, model: str | None, default_model: str, shared: Mapping[str, Any] | None = None
) -> list[Task]:
    """Parse a request's tasks, each with its problems.

    Args:
        raw: a list of objects, or an object with the list as `tasks`. A plain string in the list is
            a task with that prompt. Any part may be JSON text.
        model: the model of tasks that name none; None for `default_model`.
        default_model: the model if neither a task nor the request names one.
        shared: inputs of every task; a task's own inputs override them.

    Raises:
        InvalidInput: the request as a whole is invalid: there are no tasks, or too many.
    """
    items, own_model = _items(raw)
    fallback = _fallback(model if _is_given(model) else own_model, default_model)
    common = _SharedInputs.read(shared or {})
    tasks = []
    values = 0
    for index, one in enumerate(items):
        reader = _TaskReader(index)
        tasks.append(reader.read(one, fallback, common))
        values += reader.values + common.values
        if values > MAX_BATCH_VALUES:
            raise InvalidInput(
                f"task {index}: the inputs up to it hold over {MAX_BATCH_VALUES:,} values, shared "
                "ones counted for each task: send several batches, or smaller inputs."
            )
    size = sum(len((task.prompt or "").encode()) for task in tasks)
    if size > MAX_PROMPT_BYTES:
        raise InvalidInput(
            f"the prompts have {size:,} bytes together, over the {MAX_PROMPT_BYTES:,} of one "
            "batch: send several batches."
        )
    return tasks


def _items(raw: object) -> tuple[list[Any], object]:
    """Return a request's list of tasks, given in any form, and the model beside it."""
    model: object = None
    if isinstance(raw, str):
        raw = read_json_text(raw, "tasks")
    if isinstance(raw, Mapping) and "tasks" in raw and "prompt" not in raw:
        if others := [str(key) for key in raw if key not in ("tasks", "model")]:
            raise InvalidInput(
                f"tasks holds an object with tasks and {quoted(others[0])}: give only the list, "
                "with each input in its task."
            )
        model = raw.get("model")
        raw = raw["tasks"]
        if isinstance(raw, str):
            raw = read_json_text(raw, "tasks")
    if isinstance(raw, str):
        raw = [raw] if raw.strip() else []
    if isinstance(raw, Mapping):
        raw = [raw]
    if not isinstance(raw, list):
        raise InvalidInput(f"tasks must be a list of objects like {_EXAMPLE}.")
    if not raw:
        raise InvalidInput(f"tasks is empty: give at least one, like {_EXAMPLE}.")
    if len(raw) > MAX_TASKS:
        raise InvalidInput(
            f"{len(raw)} tasks are more than the {MAX_TASKS} of one batch: send several batches."
        )
    return raw, model


def _fallback(model: object, default_model: str) -> ModelName:
    try:
        return _model_name(model if _is_given(model) else default_model)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


@dataclass(frozen=True, slots=True)
class _SharedInputs:
    """Inputs of every task, checked once.

    Attributes:
        values: the number of values that they contain.
    """

    inputs: Mapping[str, Any]
    values: int

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "_SharedInputs":
        inputs = {str(name): value for name, value in given.items() if value is not None}
        # The prompt is checked with each task's own.
        others = {name: value for name, value in inputs.items() if name != "prompt"}
        for name, value in others.items():
            if why := _unsendable(name, value):
                raise InvalidInput(f"shared inputs: {why}.")
        return cls(inputs, count_values(others))


class _TaskReader:
    """Parser of one task that collects its problems."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._problems: list[TaskProblem] = []
        self.values = 0

    def read(self, raw: object, fallback: ModelName, shared: _SharedInputs) -> Task:
        """Return the task; anything that cannot be parsed is left out, with a problem for each."""
        given = self._object(raw)
        own = self._own_inputs(given)
        self.values = count_values(own)
        # A null in the task removes a shared input.
        inputs = {**shared.inputs, **own}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        prompt = self._prompt(inputs.get("prompt"))
        for problem in self._problems:
            inputs.pop(problem.field or "", None)
        name = self._filename(given.get("output_filename"))
        return Task(
            index=self._index,
            prompt=prompt,
            output_filename=name or filenames.default_name(self._index),
            model=self._model(given.get("model")) or fallback,
            inputs=inputs,
            named=name is not None,
            problems=tuple(self._problems),
        )

    def _add(self, field_name: str | None, error: str) -> None:
        if len(self._problems) < MAX_TASK_PROBLEMS:
            self._problems.append(TaskProblem(self._index, field_name, error))

    def _json(self, text: str, field_name: str | None) -> object:
        """Return the content of `text`; None if it is neither JSON nor a prompt."""
        try:
            return read_json_text(text, field_name or "the task")
        except InvalidInput as error:
            self._add(field_name, str(error))
            return None

    def _object(self, raw: object) -> Mapping[str, Any]:
        if isinstance(raw, str):
            raw = self._json(raw, None)
            if isinstance(raw, str):
                return {"prompt": raw}
        if not isinstance(raw, Mapping):
            if not self._problems:
                self._add(None, f"must be an object like {_EXAMPLE}, not {_kind(raw)}")
            return {}
        return raw

    def _own_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        nested = given.get("input")
        if isinstance(nested, str):
            nested = self._json(nested, "input") if nested.strip() else None
        if nested is not None and not isinstance(nested, Mapping):
            self._add("input", f"input must be an object of model inputs, not {_kind(nested)}")
            nested = None
        own = {str(key): value for key, value in given.items() if key not in OWN_FIELDS}
        if (prompt := given.get("prompt")) is not None:
            own["prompt"] = prompt
        own.update((str(key), value) for key, value in (nested or {}).items())
        for name, value in own.items():
            is_checked_later = name == "prompt" and not isinstance(value, str)
            if not is_checked_later and (why := _unsendable(name, value)):
                self._add(name, why)
        return own

    def _prompt(self, prompt: object) -> str | None:
        """Check the prompt; whether one is required depends on the model."""
        if prompt is None:
            return None
        if not isinstance(prompt, str):
            self._add("prompt", f"prompt must be text, not {_kind(prompt)}")
            return None
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            self._add(
                "prompt",
                f"prompt has {len(prompt)} characters, over the {MAX_PROMPT_CHARACTERS} allowed",
            )
        else:
            self._check_json_prompt(prompt)
        # An invalid prompt may contain an unpaired surrogate, which the journal cannot encode.
        return prompt[:MAX_PROMPT_CHARACTERS].encode(errors="replace").decode()

    def _check_json_prompt(self, prompt: str) -> None:
        """Accept an object that describes the image, which some models read; refuse a task."""
        value = self._json(prompt, "prompt")
        if isinstance(value, Mapping) and value.keys() & {"prompt", "tasks"}:
            self._add(
                "prompt",
                "prompt is JSON text of a task: give its fields as the task's own, like "
                f"{_EXAMPLE}",
            )
        elif isinstance(value, list):
            self._add("prompt", "prompt is JSON text of a list: give each prompt a task of its own")
        elif value == {}:
            self._add("prompt", "prompt is JSON text of an empty object: say what to draw")

    def _filename(self, name: object) -> str | None:
        if not _is_given(name):
            return None
        if not isinstance(name, str):
            self._add("output_filename", f"output_filename must be text, not {_kind(name)}")
        elif problem := filenames.problem(name):
            shown = name if len(name) <= 60 else name[:57] + "..."
            self._add(
                "output_filename",
                f"output_filename '{escaped(shown)}' {problem}. It is a label, not a path: "
                "give a plain name like red_car.jpg",
            )
        else:
            return name
        return None

    def _model(self, name: object) -> ModelName | None:
        if not _is_given(name):
            return None
        try:
            return _model_name(name)
        except ValueError as error:
            self._add("model", str(error))
            return None


def _is_given(value: object) -> bool:
    """Return whether an optional field has a value; clients send "" for no value."""
    return value is not None and not (isinstance(value, str) and not value.strip())


def _unsendable(name: str, value: object) -> str | None:
    """Return why no request can contain an input, whatever the model accepts; None if one can."""
    why = json_problem(name) or json_problem(value)
    return f"{escaped(name[:60])} {why}" if why else None


def _model_name(text: object) -> ModelName:
    if not isinstance(text, str):
        raise ValueError(f"model must be text like owner/name, not {_kind(text)}.")
    try:
        return ModelName.parse(text)
    except ValueError as error:
        raise ValueError(f"model {error}") from None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    names = {list: "a list", dict: "an object", type(None): "null", str: "text"}
    return names.get(type(value), type(value).__name__)
