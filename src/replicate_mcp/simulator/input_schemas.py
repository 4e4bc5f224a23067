"""JSON schemas of model inputs in the form of Replicate's model versions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

JSON = dict[str, Any]


@dataclass(frozen=True)
class Input:
    """Input of a model."""

    name: str
    description: str
    type: Literal["string", "integer", "number", "boolean", "uri", "uris"] = "string"
    default: object = None
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    max_items: int | None = None
    required: bool = False


def input_schemas(inputs: Iterable[Input], *, inline: bool) -> dict[str, JSON]:
    """Return the schema `Input`, and one schema per enum unless they are inlined.

    Inline schemas express nullability in `type`, as JSON Schema validators expect.
    """
    schemas: dict[str, JSON] = {}
    properties: dict[str, JSON] = {}
    required: list[str] = []
    for order, item in enumerate(inputs):
        extras: JSON = {"x-order": order, "description": item.description}
        if item.required:
            required.append(item.name)
        elif item.default is not None:
            extras["default"] = item.default
        if item.enum:
            enum = {
                "type": "string",
                "enum": list(item.enum),
                "title": item.name,
                "description": "An enumeration.",
            }
            if inline:
                properties[item.name] = {**enum, **extras}
            else:
                schemas[item.name] = enum
                reference = {"$ref": f"#/components/schemas/{item.name}"}
                properties[item.name] = {"allOf": [reference], **extras}
            continue
        schema: JSON = {"title": item.name.replace("_", " ").title(), **_type(item), **extras}
        if item.minimum is not None:
            schema["minimum"] = item.minimum
        if item.maximum is not None:
            schema["maximum"] = item.maximum
        if not item.required and item.default is None:
            if inline:
                schema["type"] = [schema["type"], "null"]
            else:
                schema["nullable"] = True
        properties[item.name] = schema
    whole: JSON = {"type": "object", "title": "Input", "properties": properties}
    if required:
        whole["required"] = required
    return {"Input": whole, **schemas}


def _type(item: Input) -> JSON:
    match item.type:
        case "uri":
            return {"type": "string", "format": "uri"}
        case "uris":
            limits = {} if item.max_items is None else {"maxItems": item.max_items}
            return {"type": "array", "items": {"type": "string", "format": "uri"}, **limits}
        case plain:
            return {"type": plain}
