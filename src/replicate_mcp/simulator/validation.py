"""Validation of creation requests, with Replicate's error messages."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from replicate_mcp.simulator.models import Model
from replicate_mcp.simulator.problem_details import invalid

_EVENTS = ["start", "output", "logs", "completed"]
_BODY: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["input"],
    "properties": {
        "input": {"type": "object"},
        "stream": {"type": "boolean"},
        "webhook": {"type": "string"},
        "webhook_events_filter": {"type": "array", "items": {"enum": _EVENTS}},
    },
}
_MODEL_BODY = Draft202012Validator(_BODY)
_VERSION_BODY = Draft202012Validator(
    _BODY
    | {
        "required": ["version", "input"],
        "properties": {**_BODY["properties"], "version": {"type": "string"}},
    }
)


def check_body(body: object, *, with_version: bool) -> dict[str, Any]:
    """Validate the body except its input.

    Raises:
        Problem: 422, as Replicate responds.
    """
    validator = _VERSION_BODY if with_version else _MODEL_BODY
    if not validator.is_valid(body):
        raise invalid(_fields(validator.iter_errors(body), root=""))
    assert isinstance(body, dict)
    return body


def check_input(given: dict[str, Any], model: Model, *, reject_unknown: bool) -> None:
    """Validate the input against the model's schema.

    Raises:
        Problem: 422, as Replicate responds.
    """
    validator = _input_validator(model, reject_unknown)
    if not validator.is_valid(given):
        raise invalid(_fields(validator.iter_errors(given), root="input"))


@lru_cache(maxsize=100)
def _input_validator(model: Model, reject_unknown: bool) -> Draft202012Validator:
    schema = dict(model.input_schema)
    if reject_unknown:
        schema["additionalProperties"] = False
    return Draft202012Validator(schema)


def _fields(errors: Iterable[ValidationError], root: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for error in errors:
        field = ".".join([*([root] if root else []), *map(str, error.absolute_path)])
        found.extend((kind, field, text) for kind, text in _complaints(error, field or "(root)"))
    return found


def _complaints(error: ValidationError, field: str) -> list[tuple[str, str]]:
    limit: Any = error.validator_value
    schema: Any = error.schema
    instance: Any = error.instance
    match error.validator:
        case "required":
            missing = error.message.split("'")[1]
            return [("required", f"{missing} is required")]
        case "enum":
            choices = ", ".join(json.dumps(choice) for choice in limit)
            return [("enum", f"{field} must be one of the following: {choices}")]
        case "maximum":
            return [("number_lte", f"Must be less than or equal to {limit:g}")]
        case "minimum":
            return [("number_gte", f"Must be greater than or equal to {limit:g}")]
        case "maxItems":
            return [("array_max_items", f"Array must have at most {limit} items")]
        case "additionalProperties":
            return [
                ("additional_property_not_allowed", f"Additional property {name} is not allowed")
                for name in instance
                if name not in schema["properties"]
            ]
        case "type":
            expected = limit if isinstance(limit, str) else limit[0]
            got = _TYPE_NAMES.get(type(instance), "unknown")
            return [("invalid_type", f"Invalid type. Expected: {expected}, given: {got}")]
        case other:
            return [(str(other), error.message)]


_TYPE_NAMES: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
