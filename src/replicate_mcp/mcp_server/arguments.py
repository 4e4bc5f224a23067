"""Tool arguments as clients send them, validated and converted.

Clients and frameworks add arguments of their own, send empty text for omitted arguments, and write
numbers as text. An unknown argument is ignored, unless it is likely to be a misspelled argument, an
input of the model, a setting that this server does not have, or a token: ignoring those would
produce other images than requested, or bill another account.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from replicate_mcp.errors import TaskProblem, refusal_of
from replicate_mcp.mcp_server.auth import CREDENTIALS_KEY
from replicate_mcp.mcp_server.schemas import Schema
from replicate_mcp.text import one_line

if TYPE_CHECKING:
    from replicate_mcp.tasks.input_schema import InputSchema

log = logging.getLogger(__name__)

TASKS = "tasks"
"""The argument whose tasks are validated elsewhere."""

RETRY_OF = "retry_of"
"""The argument that replaces `tasks`."""

SYNONYMS = {
    "batch": "batch_id",
    "cursor": "after",
    "external_semaphore_id": "semaphore",
    "keywords": "query",
    "page_size": "limit",
    "prompts": TASKS,
    "q": "query",
    "retry": RETRY_OF,
    "retry_batch": RETRY_OF,
    "retry_batch_id": RETRY_OF,
    "search": "query",
    "timeout": "wait_seconds",
    "wait": "wait_seconds",
    "words": "query",
}
"""Names that other APIs have for an argument."""

OWN_SYNONYMS = {"find_models": {"name": "model"}}
"""Further synonyms, by the only tool that they apply to."""

NOT_ARGUMENTS = {
    "there is no dry run, and each call makes images that are billed": (
        *("dry_run", "validate_only", "check_only", "test_mode", "preview_only", "simulate"),
    ),
    "give num_outputs in each task, where its model has that input": (
        *("count", "batch_size", "quantity", "repeat", "copies"),
    ),
    "no image is saved by this server, so load each from its URL": (
        *("save_to", "save_path", "save_dir", "output_dir", "output_path", "output_folder"),
        *("out", "out_dir", "download_to", "directory", "folder", "destination"),
    ),
    "give semaphore, the name of a limit from list_semaphores": (
        *("concurrency_limit", "concurrent_limit", "concurrency", "max_concurrency"),
        *("max_concurrent", "max_parallel", "parallel", "parallelism"),
    ),
    "get_batch has the results": ("webhook", "webhook_url", "callback_url"),
}
"""Options of other image APIs, by the advice that replaces them."""

TOKENS = (
    *("credentials", "credential", "token", "api_token", "api_key", "access_token", "auth_token"),
    *("bearer", "bearer_token", "authorization", "auth", "secret_key", "admin_api_key"),
    *("replicate_token", "replicate_key", "replicate_api_token", "replicate_api_key"),
)
"""Names under which a caller may send a token of its own."""

TASK_FIELDS = ("prompt", "output_filename", "filename", "input", "inputs")
"""Fields of a task that are sent beside `tasks` by mistake."""

OTHER_MODEL_INPUTS = (
    *("negative_prompt", "width", "height", "size", "style", "quality", "go_fast", "n"),
    *("guidance", "guidance_scale", "steps", "num_inference_steps", "output_quality"),
    *("disable_safety_checker", "safety_tolerance", "images", "input_images", "mask"),
    *("reference_images", "hf_loras", "lora_weights", "lora_scale"),
)
"""Inputs of many image models, besides those of the recommended ones."""

MAX_COMPARED = 50
"""Unknown arguments of one call that are compared with the known ones."""

MAX_LOGGED = 10
"""Ignored arguments of one call that are named in the log."""

_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII)
_BATCH_ID = re.compile(r"b_\w{1,64}", re.ASCII)
_REPLICATE_TOKEN = re.compile(r"\s*(?:Bearer\s+)?r8_\w{10,}\s*", re.ASCII | re.IGNORECASE)


def read_arguments(tool: str, schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `tool` that are present, with numbers and booleans parsed from text.

    Args:
        tool: the tool's name.
        schema: the tool's published input schema.
        given: the arguments as the client sent them.

    Raises:
        InvalidInput: an argument is missing, misspelled, misplaced, or violates the schema.
    """
    present = {name: value for name, value in given.items() if not _is_absent(value)}
    properties = schema["properties"]
    known = {name: value for name, value in present.items() if name in properties}
    unknown = {name: value for name, value in present.items() if name not in properties}
    problems = dict(_misplaced(tool, properties, unknown))
    for name in schema.get("required", ()):
        if name not in known and not problems:
            problems[name] = f"{name} is missing: {tool} needs it"
    arguments = {name: _read(properties[name], value) for name, value in known.items()}
    checked = {name: value for name, value in arguments.items() if name != TASKS}
    if checked:
        for problem in _input_schema(tool, schema).problems(checked):
            problems[problem.field] = problem.sentence
    if problems:
        raise refusal_of([TaskProblem(None, name, why) for name, why in problems.items()])
    if unknown:
        names = ", ".join(repr(name) for name in islice(unknown, MAX_LOGGED))
        _log_ignored(tool, one_line(names + ", …" * (len(unknown) > MAX_LOGGED)))
    return arguments


def _is_absent(value: object) -> bool:
    """Return whether `value` is how a client omits an argument: null, or blank text."""
    return value is None or (isinstance(value, str) and not value.strip())


def _misplaced(
    tool: str, properties: Mapping[str, Schema], unknown: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the unknown arguments that were meant to have an effect, each with a sentence."""
    compared = 0
    for name, value in unknown.items():
        is_not = f"'{one_line(name, 60)}' is not an argument of {tool}"
        if _is_token(name, value):
            yield name, f"{is_not}: {_TOKENS_PLACE}"
        elif TASKS in properties and (right := _right_place(name, value)):
            yield name, f"{is_not}: {right}"
        elif compared < MAX_COMPARED:
            compared += 1
            if meant := _suggest(tool, name, value, properties):
                yield name, f"{is_not}: did you mean '{meant}'?"


def _is_token(name: str, value: object) -> bool:
    """Return whether `value` was sent as a token; ignoring it would use the server's token."""
    is_a_token = isinstance(value, str) and _REPLICATE_TOKEN.fullmatch(value) is not None
    return is_a_token or _normalise(name) in _TOKEN_NAMES


def _right_place(name: str, value: object) -> str | None:
    """Return what to do in place of an argument that generate_images does not have, or None."""
    if name == "prompt":
        return 'each task has its own, like {"tasks": [{"prompt": "a red car"}]}'
    if _normalise(name) in _task_names():
        return "it goes into each task, beside its prompt"
    text = value.strip() if isinstance(value, str) else ""
    if value is False or text.lower() == "false":  # The default already does this.
        return None
    from replicate_mcp.tasks.openapi_schema import is_count

    is_number = isinstance(value, (int, float)) or _NUMBER.fullmatch(text) is not None
    return _INSTEAD.get("count" if is_number and is_count(_words(name)) else _normalise(name))


def _suggest(tool: str, name: str, value: object, properties: Mapping[str, Schema]) -> str | None:
    """Return the argument that an unknown one most likely stands for, or None."""
    from replicate_mcp.tasks.validation_messages import nearest

    if isinstance(value, str) and _BATCH_ID.fullmatch(value) and "batch_id" in properties:
        return "batch_id"
    meant = (SYNONYMS | OWN_SYNONYMS.get(tool, {})).get(_words(name))
    if meant in properties:
        return meant
    if _words(name).endswith("_id"):
        # An unknown id identifies the client (session_id, task_id), unless it fits an argument.
        own = _words(name).removesuffix("_id")
        return next((each for each in properties if own == each.removesuffix("_id")), None)
    found: str | None = nearest(name, properties)
    return found


def _words(name: str) -> str:
    """Return a name in snake case: `tool_call_id` for `toolCallId`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", name[:100]).lower().strip("_")


def _normalise(name: str) -> str:
    return _words(name).replace("_", "")


_TOKEN_NAMES = frozenset(map(_normalise, TOKENS))
_TOKENS_PLACE = (
    "a Replicate token of your own goes into the request's _meta, as "
    f'{{"{CREDENTIALS_KEY}": {{"replicate_api_token": "r8_…"}}}}, or over HTTP into the header '
    "Authorization"
)
_INSTEAD = {_normalise(name): right for right, names in NOT_ARGUMENTS.items() for name in names}


@cache
def _task_names() -> frozenset[str]:
    """Return the names of a task's fields and of well-known models' inputs, normalised."""
    from replicate_mcp.tasks.openapi_schema import COUNT_FIELDS
    from replicate_mcp.tasks.recommended_models import CATALOGUE

    inputs = {name.removesuffix("[]") for known in CATALOGUE for name in known.inputs}
    return frozenset(map(_normalise, {*inputs, *COUNT_FIELDS, *TASK_FIELDS, *OTHER_MODEL_INPUTS}))


def _read(schema: Schema, value: Any) -> Any:
    """Return `value` converted to the schema's type if that is unambiguous, else unchanged."""
    kind = schema.get("type")
    text = value.strip() if isinstance(value, str) else ""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.lower(), value)
    if kind in ("integer", "number"):
        if _NUMBER.fullmatch(text):
            value = float(text)
        if isinstance(value, float) and value.is_integer():
            return int(value)
    return value


@lru_cache
def _log_ignored(tool: str, names: str) -> None:
    """Log ignored arguments, once for a client that sends the same ones with every call."""
    log.warning("%s: unknown arguments are ignored: %s", tool, names)


_input_schemas: dict[str, "InputSchema"] = {}


def _input_schema(tool: str, schema: Schema) -> "InputSchema":
    from replicate_mcp.tasks.input_schema import InputSchema

    if tool not in _input_schemas:
        # `read_arguments` reports missing arguments itself, after misspelled ones.
        _input_schemas[tool] = InputSchema({**schema, "required": []}, subject=tool)
    return _input_schemas[tool]
