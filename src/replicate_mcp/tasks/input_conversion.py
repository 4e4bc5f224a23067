"""Conversion of model inputs, as clients send them, to what the model's schema accepts.

JSON text stands for a list or an object, `42.0` for 42, and `""` for an input that is not given.
"""

from collections.abc import Mapping
from typing import Any

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.effort import Effort, EffortSpent
from replicate_mcp.tasks.json_text import read_json_text
from replicate_mcp.tasks.openapi_schema import JSON, choices_of, kinds_of


def converted_inputs(
    inputs: Mapping[str, Any], schemas: Mapping[str, JSON], required: frozenset[str], effort: Effort
) -> JSON:
    """Return `inputs` with each value converted to its schema, if the conversion is unambiguous.

    A value that cannot be converted, or not within `effort`, is returned unchanged.

    Args:
        inputs: the values by input.
        schemas: the schema of each known input, without references.
        required: the inputs that are kept even if they are blank.
        effort: limit on the cost of the conversion.
    """
    found: JSON = {}
    for name, value in inputs.items():
        schema = schemas.get(name, {})
        if (
            name not in required
            and _is_blank(value)
            and (name == "prompt" or name not in schemas or not _takes_blank(schema))
        ):
            continue
        try:
            found[name] = _converted(value, schema, effort)
        except EffortSpent:
            found[name] = value
    return found


def whole_number(value: object) -> object:
    """Return a float without a fraction as an integer, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _converted(value: Any, schema: JSON, effort: Effort) -> Any:
    effort.spend(1)
    kinds = set(kinds_of(schema))
    if isinstance(value, str) and kinds & {"array", "object"} and "string" not in kinds:
        value = _from_json(value, kinds)
    if isinstance(value, float) and "integer" in kinds and "number" not in kinds:
        return whole_number(value)
    if isinstance(value, list):
        items = _part(schema, "items")
        return [_converted(each, items, effort) for each in value] if items else value
    if isinstance(value, dict):
        properties = _part(schema, "properties")
        return {
            name: _converted(each, properties[name], effort) if name in properties else each
            for name, each in value.items()
        }
    return value


def _from_json(text: str, kinds: set[str]) -> object:
    try:
        value = read_json_text(text, "")
    except InvalidInput:
        return text  # The check against the schema reports it.
    is_wanted = (isinstance(value, list) and "array" in kinds) or (
        isinstance(value, dict) and "object" in kinds
    )
    return value if is_wanted else text


def _part(schema: JSON, keyword: str) -> JSON:
    """Return the schemas of a list's or an object's contents, from the schema or a branch."""
    for one in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        part = one.get(keyword)
        if isinstance(part, dict):
            return part
    return {}


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _takes_blank(schema: JSON) -> bool:
    """Return whether a blank text is a valid value, or may be one as far as the schema says."""
    kinds = set(kinds_of(schema))
    choices = choices_of(schema)
    if choices is not None:
        return any(_is_blank(choice) for choice in choices)
    return not kinds or "string" in kinds
