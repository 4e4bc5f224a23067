"""Tasks from the command line: prompts, model inputs, or a file of tasks."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replicate_mcp.cli import csv_tasks
from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.json_text import begins_like_json, read_json_text
from replicate_mcp.tasks.openapi_schema import InputField

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
TEXT = (".txt", ".text", ".md")

HEADERS = ("prompt", "prompts")
"""First lines of a text file that are headers, not prompts."""

TOOL_ONLY = ("wait_seconds", "preview")
"""Arguments of the MCP tool that have no meaning on the command line."""

Fields = Callable[[str | None], Awaitable[Mapping[str, InputField]]]
"""Async function that returns the inputs of a model (None: the default model), {} if unknown."""


@dataclass(frozen=True, slots=True)
class TaskInput:
    """Tasks of a command, and the options that a file sets for all of them.

    Attributes:
        tasks: tasks as the MCP tool takes them; validated when the batch starts.
        has_cells: whether the tasks are rows of a table, whose values are all text.
    """

    tasks: list[Any]
    model: str | None = None
    semaphore: str | None = None
    concurrency_limit: int | None = None
    shared_inputs: Mapping[str, Any] = field(default_factory=dict)
    skip_invalid: bool = False
    has_cells: bool = False


def read_tasks(
    prompts: Sequence[str], names: Sequence[str], file: str | None, *, has_inputs: bool = False
) -> TaskInput:
    """Read the tasks of a command.

    Args:
        prompts: prompts, one per task.
        names: output filenames, one per prompt, or none.
        file: path of a file of tasks, or `-` for stdin; excludes `prompts` and `names`.
        has_inputs: whether model inputs are given. Without prompts they form one task, since some
            models take no prompt.

    Raises:
        InvalidInput: no tasks are given, or they cannot be read.
    """
    if file is not None:
        if prompts or names:
            raise InvalidInput("Give prompts with their --filename, or --file, not both.")
        return _read_file(file)
    if not prompts and has_inputs and len(names) <= 1:
        return TaskInput([{"output_filename": name} for name in names] or [{}])
    if not prompts:
        raise InvalidInput('Say what to draw: replicate-mcp generate "a red car", or --file FILE.')
    if not names:
        return TaskInput([{"prompt": prompt} for prompt in prompts])
    if len(names) != len(prompts):
        given = f"{_number(len(prompts), 'prompt')} and {_number(len(names), 'filename')}"
        raise InvalidInput(
            f"There cannot be {given}: give --filename once for each prompt, in the same order, or "
            "not at all."
        )
    return TaskInput(
        [
            {"prompt": prompt, "output_filename": name}
            for prompt, name in zip(prompts, names, strict=True)
        ]
    )


def read_inputs(pairs: Sequence[str], fields: Mapping[str, InputField]) -> dict[str, Any]:
    """Read model inputs given as `key=value`.

    Args:
        pairs: the `key=value` texts.
        fields: inputs of the model, if known.

    Raises:
        InvalidInput: a text has no key or no `=`.
    """
    inputs: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise InvalidInput(f"--input takes key=value, like seed=7, not '{pair[:60]}'.")
        if key == "model" and key not in fields:
            raise InvalidInput("The model goes into --model, not into --input.")
        inputs[key] = _read_value(text, fields.get(key))
    return inputs


async def read_cells(given: TaskInput, model: str | None, fields: Fields) -> list[dict[str, Any]]:
    """Return the rows of a table with each value converted to its model's input type.

    Args:
        given: tasks read from a table.
        model: model of the rows that name none.
        fields: returns the inputs of a model.
    """
    tasks = []
    known: dict[str | None, Mapping[str, InputField]] = {}
    for row in given.tasks:
        name = row.get("model") or model
        if name not in known:
            known[name] = await fields(name)
        tasks.append(
            {
                key: text
                if key in csv_tasks.TEXT_COLUMNS
                else _read_value(text, known[name].get(key))
                for key, text in row.items()
            }
        )
    return tasks


def _number(count: int, of: str) -> str:
    return f"{count} {of}" + ("" if count == 1 else "s")


def _read_value(text: str, given: InputField | None) -> Any:
    """Return the value of `text`: text itself if the model wants text, else JSON where it parses.

    A single value becomes a list if the model wants a list.
    """
    kinds = given.type.split(" or ") if given else ["any"]
    if kinds in (["string"], ["file"]):
        return text
    value = _value(text)
    return [value] if kinds == ["array"] and not isinstance(value, list) else value


def _value(text: str) -> Any:
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_file(file: str) -> TaskInput:
    where = "The standard input" if file == "-" else file
    text = _text(file, where)
    ending = "" if file == "-" else Path(file).suffix.lower()
    if begins_like_json(text):
        return _read_json(text, where)
    if ending in TABLES or csv_tasks.has_header(text):
        return TaskInput(csv_tasks.read_table(text, where), has_cells=True)
    if file == "-" or ending in TEXT or ending in JSON_LINES:
        return TaskInput(_read_lines(text, where))
    raise InvalidInput(
        f'{where} is not JSON: it must hold a list like [{{"prompt": "a red car"}}]; a .txt file '
        "holds one prompt a line, and a .csv file a header and a task a line."
    )


def _text(file: str, where: str) -> str:
    try:
        # Not decoded in the locale's encoding: a misread prompt would be generated and billed.
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{where} cannot be read: {error.strerror}.") from None
    except ValueError:  # UnicodeDecodeError, or a null byte in the path
        raise InvalidInput(f"{where} cannot be read: it is not UTF-8 text.") from None


def _read_json(text: str, where: str) -> TaskInput:
    try:
        value = read_json_text(text, where)
    except InvalidInput:
        lines = _lines(text)
        if len(lines) > 1 and _is_whole_object(lines[0][1]):
            return TaskInput(_read_lines(text, where))
        raise
    if isinstance(value, Mapping) and value.keys() & {"tasks", "prompts"} and "prompt" not in value:
        return _read_request(value, where)
    tasks = value if isinstance(value, list) else [value]
    return TaskInput([_from_manifest(task) for task in tasks])


def _is_whole_object(line: str) -> bool:
    try:
        return isinstance(read_json_text(line, ""), Mapping)
    except InvalidInput:
        return False


def _read_lines(text: str, where: str) -> list[Any]:
    """Return one task per line, each a prompt or JSON."""
    tasks = []
    lines = _lines(text)
    if len(lines) > 1 and lines[0][1].casefold() in HEADERS:
        del lines[0]
    for number, line in lines:
        task = read_json_text(line, f"{where}: line {number}")
        tasks.append({"prompt": task} if isinstance(task, str) else _from_manifest(task))
    if not tasks:
        raise InvalidInput(f"{where} is empty: a line is a prompt, or a task as JSON.")
    return tasks


def _lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are neither empty nor comments, each with its number."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _read_request(value: Mapping[str, Any], where: str) -> TaskInput:
    """Read an object with tasks and shared options, as the MCP tool and the HTTP routes take it."""
    from pydantic import ValidationError

    from replicate_mcp.http_api.requests import GenerateBatchRequest

    if "credentials" in value:
        raise InvalidInput(f"{where}: credentials are not read from a file: use --env-file.")
    others = {name: each for name, each in value.items() if name not in TOOL_ONLY}
    try:
        body = GenerateBatchRequest.model_validate(others)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{where}: {field_name}: {first['msg']}.") from None
    tasks = body.all_tasks
    if isinstance(tasks, str):
        tasks = read_json_text(tasks, f"{where}: tasks")
    return TaskInput(
        [_from_manifest(task) for task in (tasks if isinstance(tasks, list) else [tasks])],
        model=body.named_model,
        semaphore=body.named_semaphore,
        concurrency_limit=body.concurrency_limit,
        shared_inputs=body.shared_inputs,
        skip_invalid=bool(body.skip_invalid),
    )


def _from_manifest(task: Any) -> Any:
    """Return the task of a manifest's line, so that its image can be made again.

    Other tasks are returned unchanged.
    """
    if not isinstance(task, Mapping) or "sha256" not in task:
        return task
    inputs = task.get("inputs") or task.get("input") or {}
    kept = {name: task[name] for name in ("prompt", "model", "seed") if task.get(name) is not None}
    name = task.get("output_filename") or task.get("filename")
    return {**kept, **({"output_filename": name} if name else {}), "input": inputs}
