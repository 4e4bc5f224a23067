"""Reads what a person wants made: prompts on the command line, a file of tasks, model inputs."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.schema_reading import InputField


def read_tasks(prompts: Sequence[str], names: Sequence[str], file: str | None) -> list[Any]:
    """The tasks, in the contract's form; what is in them is checked where batches start.

    Raises:
        InvalidInput: there are none, or they cannot be read.
    """
    if file is not None:
        if prompts or names:
            raise InvalidInput("Give prompts with their --filename, or --file, not both.")
        return _read_file(file)
    if not prompts:
        raise InvalidInput('Say what to draw: replicate-mcp generate "a red car", or --file FILE.')
    if not names:
        return [{"prompt": prompt} for prompt in prompts]
    if len(names) != len(prompts):
        given = f"{_number(len(prompts), 'prompt')} and {_number(len(names), 'filename')}"
        raise InvalidInput(
            f"There cannot be {given}: give --filename once for each prompt, in the same order, or "
            "not at all."
        )
    return [
        {"prompt": prompt, "output_filename": name}
        for prompt, name in zip(prompts, names, strict=True)
    ]


def read_inputs(pairs: Sequence[str], fields: Mapping[str, InputField]) -> dict[str, Any]:
    """Model inputs given as `key=value`.

    Args:
        fields: the model's own inputs, where they are known: text stays text where the model
            wants text, and one value becomes a list where it wants a list.

    Raises:
        InvalidInput: one of them has no key or no `=`.
    """
    inputs: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise InvalidInput(f"--input takes key=value, like seed=7, not '{pair[:60]}'.")
        field = fields.get(key)
        kinds = field.type.split(" or ") if field else ["any"]
        value = text if kinds in (["string"], ["file"]) else _value(text)
        inputs[key] = [value] if kinds == ["array"] and not isinstance(value, list) else value
    return inputs


def _number(count: int, of: str) -> str:
    return f"{count} {of}" + ("" if count == 1 else "s")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_file(file: str) -> list[Any]:
    where = "The standard input" if file == "-" else file
    try:
        # Not as the locale has it: what is misread would be made, and billed.
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{where} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{where} cannot be read: it is not UTF-8 text.") from None
    may_be_lines = file == "-" or file.endswith(".txt")
    if may_be_lines and not text.lstrip().startswith(("[", "{")):
        prompts = [line.strip() for line in text.splitlines()]
        return [{"prompt": prompt} for prompt in prompts if prompt]
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f'{where} is not JSON ({error}): it must hold a list like [{{"prompt": "a red car"}}]; '
            "a .txt file holds one prompt a line."
        ) from None
    if isinstance(tasks, dict) and tasks.keys() == {"tasks"}:
        tasks = tasks["tasks"]  # The arguments of the tool, as agents and the routes write them.
    if isinstance(tasks, dict):
        return [tasks]
    if not isinstance(tasks, list):
        raise InvalidInput(f'{where} must hold a list like [{{"prompt": "a red car"}}].')
    return tasks
