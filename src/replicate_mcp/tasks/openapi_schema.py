"""Reader of a model's input schema: resolved references, and each input's type and range."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from replicate_mcp.tasks.json_limits import MAX_DEPTH
from replicate_mcp.tasks.secret_inputs import is_secret_schema

JSON = dict[str, Any]

COUNT_FIELDS = ("num_outputs", "max_images", "number_of_images", "num_images")
"""Names that image models use for the number of images."""

_COUNT = re.compile(
    r"(num|n|no|number|count|max|total|batch)(_of)?_?"
    r"(images?|outputs?|samples?|pictures?|results?|variations?|generations?)(_per_(prompt|image))?"
    r"|(images?|outputs?|samples?|pictures?|results?|variations?)_(count|num|number|per_prompt)"
    r"|n|num|n_iter|batch|batch_size|batch_count|count|quantity|amount"
    r"|images|outputs|samples|pictures|variations",
    re.IGNORECASE,
)


def is_count(name: str) -> bool:
    """Return whether a numeric input of this name multiplies the number of images."""
    return _COUNT.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a model.

    Attributes:
        type: `string`, `integer`, `number`, `boolean`, `array`, `object`, `file` (a URL), several
            of them joined by ` or `, or `any`.
        choices: the only values that it accepts; None if they are not enumerated.
        minimum: lower bound of a number, inclusive; None if absent.
        maximum: upper bound of a number, inclusive; None if absent.
        items: type of a list's items; "" if it is not a list, or if items may have any type.
        secret: whether the model marks it as a secret.
    """

    name: str
    type: str
    description: str
    default: Any
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    required: bool
    items: str = ""
    secret: bool = False

    @property
    def takes_files(self) -> bool:
        """Whether its value, or each item of it, is a URL of a file, and cannot be other text."""
        kinds = self.type.split(" or ")
        return ("file" in kinds and "string" not in kinds) or self.items == "file"

    def takes_files_in(self, value: object) -> bool:
        """Return whether `value`, a text or a list, has a form in which this accepts files."""
        kinds = self.items if isinstance(value, list) else self.type
        return self.takes_files and "file" in kinds.split(" or ")

    @property
    def full_type(self) -> str:
        """The type, including that of a list's items."""
        return f"{self.type} of {self.items}" if self.items else self.type

    @property
    def allowed(self) -> str:
        """The values or the range that it accepts, for display; "" for any value."""
        if self.choices:
            return ", ".join(_plain(choice) for choice in self.choices)
        if self.minimum is None and self.maximum is None:
            return ""
        low = "" if self.minimum is None else f"{self.minimum:g}"
        high = "" if self.maximum is None else f"{self.maximum:g}"
        return f"{low}..{high}"

    @property
    def shown_default(self) -> str:
        """The default, for display; "" if absent."""
        return "" if self.default is None else _plain(self.default)


def streams_output(openapi_schema: Mapping[str, Any] | None) -> bool:
    """Return whether a model's output, by its schema, is a list that may grow file by file."""
    try:
        output = Resolver(openapi_schema or {}).resolve({"$ref": "#/components/schemas/Output"})
    except (ValueError, TypeError, AttributeError, KeyError):
        return True  # Unknown: assume that it may.
    return '"x-cog-array-type": "iterator"' in json.dumps(output)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_MAX_NODES = 10_000
"""A schema has some hundreds of nodes; references could make a small one expand without end."""

NOTHING: JSON = {"not": {}}
_ANNOTATIONS = {"title", "description", "default", "example", "examples", "deprecated", "x-order"}
_IN_CONTEXT = {"properties", "items", "prefixItems", "contains"}
_IN_CONTEXT |= {"minContains", "maxContains", "if", "then", "else"}
_IN_CONTEXT |= {"additionalProperties", "unevaluatedItems", "unevaluatedProperties"}
"""Keywords whose meaning depends on keywords beside them."""

_SUBSCHEMA = {"items", "contains", "not", "propertyNames", "if", "then", "else"}
_SUBSCHEMA |= {"additionalProperties", "unevaluatedItems", "unevaluatedProperties"}
_SUBSCHEMA_LIST = {"anyOf", "oneOf", "prefixItems"}
_SUBSCHEMA_MAP = {"properties", "dependentSchemas"}

_UNCHECKED_KEYWORDS = {"pattern", "patternProperties"}
"""Keywords that are not checked: Python's regular expressions backtrack, so an untrusted one can
run practically for ever."""

_OPEN_ENDED = {"additionalProperties", "unevaluatedProperties"}
"""Keywords whose meaning changes if `patternProperties` beside them is left out."""


class Resolver:
    """Resolver of references within a schema; it never reads anything outside the document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._nodes = 0

    def resolve(self, node: Any, depth: int = 0) -> JSON:
        """Return the schema at `node`, with all its references replaced by their targets.

        Raises:
            ValueError: the schema is too large, or refers to itself or outside the document.
        """
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > _MAX_NODES:
            raise ValueError("the schema is too large, or refers to itself")
        if isinstance(node, bool):
            return {} if node else NOTHING
        own: JSON = {}
        parts: list[JSON] = []
        left_out = _UNCHECKED_KEYWORDS
        if "patternProperties" in node:
            own["additionalProperties"] = {}
            left_out = left_out | _OPEN_ENDED
        for key, value in node.items():
            if key in left_out:
                continue
            if key == "$ref":
                parts.append(self.resolve(self._target(value), depth + 1))
            elif key in ("$dynamicRef", "$recursiveRef"):
                raise ValueError(f"the schema uses {key}, which is not followed")
            elif key == "allOf":
                parts += [self.resolve(one, depth + 1) for one in value]
            elif key in _SUBSCHEMA_LIST:
                own[key] = [self.resolve(one, depth + 1) for one in value]
            elif key in _SUBSCHEMA_MAP:
                own[key] = {name: self.resolve(one, depth + 1) for name, one in value.items()}
            elif key in _SUBSCHEMA:
                own[key] = self.resolve(value, depth + 1)
            elif not key.startswith("$") and key != "nullable":
                own[key] = value
        whole = _merged(own, parts)
        return _or_null(whole) if node.get("nullable") is True else whole

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise ValueError(f"the schema refers to {reference[:80]}, outside itself")
        node: Any = self._document
        for part in reference[2:].split("/"):
            node = node[part.replace("~1", "/").replace("~0", "~")]
        return node


def _merged(own: JSON, parts: Iterable[JSON]) -> JSON:
    """Return a schema equivalent to `own` and all parts, flat unless keywords conflict."""
    whole = dict(own)
    apart: list[JSON] = []
    for part in parts:
        clash = any(whole.get(k, v) != v for k, v in part.items() if k not in _ANNOTATIONS)
        if clash or (_IN_CONTEXT & whole.keys() and _IN_CONTEXT & part.keys()):
            apart.append(part)
        else:
            whole = part | whole
    return whole | {"allOf": [*whole.get("allOf", ()), *apart]} if apart else whole


def _or_null(schema: JSON) -> JSON:
    kept = {key: value for key, value in schema.items() if key in _ANNOTATIONS}
    return kept | {"anyOf": [constraints(schema), {"type": "null"}]}


def without_null(schema: JSON) -> JSON:
    """Return the schema without null, since an input that is null counts as not given."""
    if isinstance(schema.get("type"), list):
        types = [one for one in schema["type"] if one != "null"]
        return schema | {"type": types[0] if len(types) == 1 else types}
    for key in ("anyOf", "oneOf"):
        branches = [one for one in schema.get(key, ()) if one.get("type") != "null"]
        if len(branches) == 1:
            rest = {name: value for name, value in schema.items() if name != key}
            return _merged(rest, branches)
    return schema


def constraints(schema: JSON) -> JSON:
    """Return the schema without keywords that only describe it."""
    return {key: value for key, value in schema.items() if key not in _ANNOTATIONS}


def field_of(name: str, schema: JSON, required: bool) -> InputField:
    """Return the description of one input."""
    kind = " or ".join(dict.fromkeys(kinds_of(schema))) or "any"
    minimum, maximum = schema.get("minimum"), schema.get("maximum")
    if kind == "integer" and "exclusiveMinimum" in schema:
        minimum = math.floor(schema["exclusiveMinimum"]) + 1
    if kind == "integer" and "exclusiveMaximum" in schema:
        maximum = math.ceil(schema["exclusiveMaximum"]) - 1
    description = schema.get("description", "")
    return InputField(
        name=name,
        type=kind,
        # pydantic's default description of every enum says nothing about this one.
        description="" if description == "An enumeration." else str(description),
        default=schema.get("default"),
        choices=choices_of(schema),
        minimum=minimum,
        maximum=maximum,
        required=required,
        items=_items_of(schema),
        secret=is_secret_schema(schema),
    )


def _items_of(schema: JSON) -> str:
    """Return the type of a list's items; "" if the schema accepts no list or does not say."""
    for one in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        items = one.get("items")
        if isinstance(items, dict) and "array" in kinds_of(one):
            return " or ".join(dict.fromkeys(kinds_of(items)))
    return ""


def kinds_of(schema: JSON) -> Iterator[str]:
    """Yield the types that a schema accepts, with `file` for a URL."""
    branches = schema.get("anyOf") or schema.get("oneOf") or ()
    types = schema.get("type", ())
    for one in [types] if isinstance(types, str) else types:
        yield "file" if one == "string" and schema.get("format") == "uri" else one
    if not types:
        for branch in branches:
            yield from kinds_of(branch)


def choices_of(schema: JSON) -> tuple[Any, ...] | None:
    """Return the only values that a schema accepts; None if it does not enumerate them."""
    if "const" in schema:
        return (schema["const"],)
    if "enum" in schema:
        return tuple(choice for choice in schema["enum"] if choice is not None)
    branches = [choices_of(one) for one in schema.get("anyOf", ())]
    if not branches or None in branches:
        return None
    return tuple(choice for one in branches for choice in one or ())
