"""Checks a task's inputs against its model's own schema, and says what would be right.

The schema is the one a model's version carries (`latest_version.openapi_schema`): its `Input` has a
property an input, with `x-order`, `default` and ranges; enums are schemas of their own.
"""

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from replicate_mcp.tasks.filenames import image_format

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

JSON = dict[str, Any]

COUNT_FIELDS = ("num_outputs", "max_images", "number_of_images", "num_images")
"""What image models call the number of images."""

MAX_SEED = 2**31 - 1
"""The largest seed chosen: models read a seed into 32 bits, and some of those are signed."""


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a model.

    Attributes:
        type: `string`, `integer`, `number`, `boolean`, `array`, `object`, `file` (a URL), several
            of them joined by ` or `, or `any`.
        choices: the only values it takes, where it has such a list.
        minimum, maximum: the range of a number, inclusive; None where there is no bound.
    """

    name: str
    type: str
    description: str
    default: Any
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    required: bool


@dataclass(frozen=True, slots=True)
class InputProblem:
    """What is wrong with one input, as a sentence that names it and ends without a full stop."""

    field: str
    sentence: str


class InputSchema:
    """What a model takes.

    Attributes:
        fields: its inputs by name, in the order in which the model lists them.
    """

    format_field = "output_format"

    def __init__(self, schema: JSON) -> None:
        """Compile a schema without references; `from_openapi` makes one."""
        properties: dict[str, JSON] = schema["properties"]
        required = schema.get("required", ())
        self.fields: Mapping[str, InputField] = MappingProxyType(
            {
                name: _field(name, properties[name], name in required)
                for name in sorted(properties, key=lambda k: properties[k].get("x-order", math.inf))
            }
        )
        self._takes_others = "patternProperties" in schema or (
            schema.get("additionalProperties", _NOTHING) != _NOTHING
        )
        self._validator = _compile(schema)

    @classmethod
    def from_openapi(cls, openapi_schema: Mapping[str, Any]) -> "InputSchema":
        """Read the schema of a model's inputs.

        Raises:
            ValueError: there is none, or it is not one that can be checked against: it is no JSON
                schema, refers to something outside itself, refers to itself, or is too large.
        """
        try:
            schema = _Resolver(openapi_schema).resolve({"$ref": "#/components/schemas/Input"})
            inputs = schema.get("properties", {})
            if not inputs:
                raise ValueError("the schema lists no inputs")
            return cls(schema | {"properties": {k: _not_null(one) for k, one in inputs.items()}})
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"the schema is malformed: {error!r}") from error

    def problems(self, inputs: Mapping[str, Any]) -> list[InputProblem]:
        """What is wrong with `inputs`, at most one problem an input; empty where nothing is."""
        given = without_nulls(inputs)
        found: dict[str, str] = {}
        if not self._takes_others:
            for name in given.keys() - self.fields.keys():
                found[name] = self._unknown(name)
        for name in self.fields:
            if self.fields[name].required and name not in given:
                found[name] = f"{name} is required by this model"
        for name in given.keys() - found.keys():
            if why := _unsendable(given[name]):
                found[name] = f"{name} {why}"
        checked = {name: value for name, value in given.items() if name not in found}
        for name, error in _first_errors(self._validator.iter_errors(checked)).items():
            found.setdefault(name, _sentence(error))
        order = [*self.fields, *given, ""]
        return [InputProblem(name, found.pop(name)) for name in order if name in found]

    @property
    def seed_range(self) -> tuple[int, int] | None:
        """The least and the greatest seed to choose, both inclusive; None without such an input.

        Never below 0, since models that take -1 as a seed mean by it that they choose one.
        """
        seed = self.fields.get("seed")
        if seed is None or seed.type != "integer":
            return None
        low = max(0, math.ceil(seed.minimum or 0))
        high = MAX_SEED if seed.maximum is None else min(math.floor(seed.maximum), MAX_SEED)
        return (low, high) if low <= high else None

    def format_value(self, format: str) -> str | None:  # noqa: A002
        """What to give `output_format` for an image format (`jpg` → `jpeg` where it says so).

        None where the model has no such input, or none of its values means that format.
        """
        field = self.fields.get(self.format_field)
        wanted = image_format(format)
        for choice in (field and field.choices) or ():
            if wanted and isinstance(choice, str) and image_format(choice) == wanted:
                return choice
        return None

    @property
    def default_format(self) -> str | None:
        """The format delivered where a task names none, as `image_format` names it, if known."""
        field = self.fields.get(self.format_field)
        if field is None or not isinstance(field.default, str):
            return None
        return image_format(field.default)

    def count(self, inputs: Mapping[str, Any]) -> int:
        """How many images `inputs`, which have no problems, ask for; at least 1."""

        def value(name: str) -> Any:
            given = inputs.get(name)
            return self.fields[name].default if given is None else given

        # Seedream makes one image, whatever max_images says, unless it may make a sequence.
        sequence = "sequential_image_generation"
        if sequence in self.fields and value(sequence) != "auto":
            return 1
        for name in COUNT_FIELDS:
            if name in self.fields:
                asked = value(name)
                return max(1, int(asked)) if _is_integer(asked) else 1
        return 1

    def _unknown(self, name: str) -> str:
        alike = next((group for group in _SAME_MEANING if name in group), ())
        hint = _did_you_mean(next((one for one in alike if one in self.fields), None))
        hint = hint or _did_you_mean(_nearest(name, self.fields))
        return (
            f"{_shown(name)} is not an input of this model{hint or '.'} "
            f"Its inputs: {_listed(self.fields)}"
        )


def without_nulls(inputs: Mapping[str, Any]) -> JSON:
    """The inputs that are given: a value of None stands for none at all."""
    return {name: value for name, value in inputs.items() if value is not None}


_MAX_NODES = 10_000
"""A schema has some hundreds of parts; references could make a small one unfold without end."""

_MAX_DEPTH = 30
"""Of a schema, and of a value given for it."""

_NOTHING: JSON = {"not": {}}
_ANNOTATIONS = {"title", "description", "default", "example", "examples", "deprecated", "x-order"}
_IN_CONTEXT = {"properties", "patternProperties", "items", "prefixItems", "contains"}
_IN_CONTEXT |= {"minContains", "maxContains", "if", "then", "else"}
_IN_CONTEXT |= {"additionalProperties", "unevaluatedItems", "unevaluatedProperties"}
"""Keywords whose meaning depends on those beside them."""

_SUBSCHEMA = {"items", "contains", "not", "propertyNames", "if", "then", "else"}
_SUBSCHEMA |= {"additionalProperties", "unevaluatedItems", "unevaluatedProperties"}
_SUBSCHEMA_LIST = {"anyOf", "oneOf", "prefixItems"}
_SUBSCHEMA_MAP = {"properties", "patternProperties", "dependentSchemas"}


class _Resolver:
    """Makes a schema that stands alone: nothing is ever looked up outside the document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._nodes = 0

    def resolve(self, node: Any, depth: int = 0) -> JSON:
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise ValueError("the schema is too large, or refers to itself")
        if isinstance(node, bool):
            return {} if node else _NOTHING
        own: JSON = {}
        parts: list[JSON] = []
        for key, value in node.items():
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
    """One schema that means `own` and all parts, flat as far as no keyword is in the way."""
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
    return kept | {"anyOf": [_constraints(schema), {"type": "null"}]}


def _not_null(schema: JSON) -> JSON:
    """The same without null: an input that is null is not given at all."""
    if isinstance(schema.get("type"), list):
        types = [one for one in schema["type"] if one != "null"]
        return schema | {"type": types[0] if len(types) == 1 else types}
    for key in ("anyOf", "oneOf"):
        branches = [one for one in schema.get(key, ()) if one.get("type") != "null"]
        if len(branches) == 1:
            rest = {name: value for name, value in schema.items() if name != key}
            return _merged(rest, branches)
    return schema


def _constraints(schema: JSON) -> JSON:
    return {key: value for key, value in schema.items() if key not in _ANNOTATIONS}


def _compile(schema: JSON) -> "Validator":
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import SchemaError

    bare = _constraints(schema)
    bare["properties"] = {name: _constraints(one) for name, one in bare["properties"].items()}
    try:
        Draft202012Validator.check_schema(bare)
    except SchemaError as error:
        raise ValueError(f"the schema is no JSON schema: {error.message[:200]}") from error
    formats = FormatChecker(formats=())
    formats.checks("uri")(_is_url)
    return Draft202012Validator(bare, format_checker=formats)


def _is_url(value: object) -> bool:
    # Two letters at least before the colon: `C:\cat.png` is a path on somebody's machine.
    return not isinstance(value, str) or bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:[^\s\\]", value))


def _field(name: str, schema: JSON, required: bool) -> InputField:
    kind = " or ".join(dict.fromkeys(_kinds(schema))) or "any"
    minimum, maximum = schema.get("minimum"), schema.get("maximum")
    if kind == "integer" and "exclusiveMinimum" in schema:
        minimum = math.floor(schema["exclusiveMinimum"]) + 1
    if kind == "integer" and "exclusiveMaximum" in schema:
        maximum = math.ceil(schema["exclusiveMaximum"]) - 1
    description = schema.get("description", "")
    return InputField(
        name=name,
        type=kind,
        # What pydantic writes on every enum says nothing about this one.
        description="" if description == "An enumeration." else str(description),
        default=schema.get("default"),
        choices=_choices(schema),
        minimum=minimum,
        maximum=maximum,
        required=required,
    )


def _kinds(schema: JSON) -> Iterator[str]:
    branches = schema.get("anyOf") or schema.get("oneOf") or ()
    types = schema.get("type", ())
    for one in [types] if isinstance(types, str) else types:
        yield "file" if one == "string" and schema.get("format") == "uri" else one
    if not types:
        for branch in branches:
            yield from _kinds(branch)


def _choices(schema: JSON) -> tuple[Any, ...] | None:
    if "const" in schema:
        return (schema["const"],)
    if "enum" in schema:
        return tuple(choice for choice in schema["enum"] if choice is not None)
    branches = [_choices(one) for one in schema.get("anyOf", ())]
    if not branches or None in branches:
        return None
    return tuple(choice for one in branches for choice in one or ())


def _is_integer(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _unsendable(value: object, depth: int = 0) -> str | None:
    """Why no request can carry a value, whatever the model takes."""
    match value:
        case str() if not value.isascii() and _SURROGATE.search(value):
            return "contains half a character, an unpaired surrogate"
        case None | str() | bool():
            return None
        case int() if value.bit_length() > 64:
            return "is a number of more than 64 bits"
        case float() if not math.isfinite(value):
            return "is not a finite number"
        case int() | float():
            return None
        case list() | dict() if depth > _MAX_DEPTH:
            return f"is nested more than {_MAX_DEPTH} deep"
        case list() | dict():
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            return next(filter(None, (_unsendable(one, depth + 1) for one in parts)), None)
    return "is nothing that JSON can hold"


_MAX_ERRORS = 200
"""Errors looked at in one check: a list of a million wrong items is no wronger."""


def _first_errors(errors: Iterable["ValidationError"]) -> dict[str, "ValidationError"]:
    """For each input the error that says most; those of the inputs as a whole under ''."""
    first: dict[str, ValidationError] = {}
    for error in islice(errors, _MAX_ERRORS):
        name = str(error.absolute_path[0]) if error.absolute_path else ""
        if name or error.validator != "required":
            first[name] = min(first.get(name, error), error, key=_weight)
    return first


def _weight(error: "ValidationError") -> int:
    return {"enum": 0, "const": 0, "type": 1}.get(str(error.validator), 2)


_MAX_LISTED = 15
_MAX_SHOWN = 60

_SAME_MEANING = (
    (*COUNT_FIELDS, "n"),
    ("image", "input_image", "image_input", "input_images", "images", "image_prompt"),
)
"""Inputs that models name differently."""

_WANTED = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "file": "a URL",
}


def _sentence(error: "ValidationError") -> str:
    if not error.absolute_path:
        return f"the inputs together are not what this model takes ({error.validator})"
    head, *rest = error.absolute_path
    field = str(head) + "".join(f"[{_shown(part)}]" for part in rest)
    value: Any = error.instance
    limit: Any = error.validator_value
    shown = f"{field} {_shown(value)}"
    match error.validator:
        case "enum":
            choices = [choice for choice in limit if choice is not None]
            hint = _did_you_mean(_nearest(value, choices))
            return f"{shown} is not one of {_listed(choices)}{hint}"
        case "const":
            return f"{shown} is not {_shown(limit)}, the only value this model takes"
        case "type":
            return _type_sentence(field, value, error.schema)
        case "format":
            return f"{shown} is not a URL: give an https:// link or a data: URI"
        case "minimum":
            return f"{shown} is less than {_shown(limit)}, the least this model takes"
        case "maximum":
            return f"{shown} is more than {_shown(limit)}, the most this model takes"
        case "exclusiveMinimum":
            return f"{shown} is not more than {_shown(limit)}, as this model wants"
        case "exclusiveMaximum":
            return f"{shown} is not less than {_shown(limit)}, as this model wants"
        case "multipleOf":
            return f"{shown} is not a multiple of {_shown(limit)}"
        case "minLength" | "maxLength" | "minItems" | "maxItems":
            unit = ("character" if isinstance(value, str) else "item") + "s" * (len(value) != 1)
            bound = "least" if len(value) < limit else "most"
            return f"{field} has {len(value)} {unit}, this model takes at {bound} {limit}"
        case "pattern":
            return f"{shown} does not match the pattern {limit}"
        case "anyOf" | "oneOf":
            return f"{shown} is not {' or '.join(map(_form, limit))}"
    return f"{shown} is not what this model takes ({error.validator})"


def _type_sentence(field: str, value: object, schema: Any) -> str:
    shown = f"{field} {_shown(value)}"
    kinds = list(_kinds(schema))
    kind = kinds[0] if len(kinds) == 1 else ""
    if isinstance(value, str) and (meant := _read_as(kind, value)) is not None:
        return f"{shown} is text, {_WANTED[kind]} is wanted{_did_you_mean(meant)}"
    if isinstance(value, str) and kind == "array":
        return f"{shown} is not a list: did you mean a list that holds it?"
    if kind == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{shown} is a number, text is wanted{_did_you_mean(_plain(value))}"
    return f"{shown} is not {_form(schema)}"


def _form(schema: JSON) -> str:
    """What a schema takes, in words."""
    if choices := _choices(schema):
        return f"one of {_listed(choices)}"
    names = [_WANTED.get(kind, kind) for kind in dict.fromkeys(_kinds(schema))]
    return " or ".join(names) or "of another kind"


def _read_as(kind: str, text: str) -> object:
    """The value that text stands for, or None if it stands for none of this kind."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.strip().lower())
    if kind not in ("integer", "number"):
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    if kind == "integer":
        return int(number) if number.is_integer() else None
    return number if math.isfinite(number) else None


def _nearest(value: object, choices: Collection[Any]) -> Any:
    """The choice that was most likely meant, or None."""
    text = _alike(_plain(value)) if isinstance(value, (str, int, float)) else ""
    if not text or len(text) > _MAX_SHOWN:
        return None
    found = {_alike(_plain(choice)): choice for choice in reversed(list(choices))}
    if text in found:
        return found[text]
    # Numbers that look alike mean different things: 2:1 is no slip for 1:1.
    if not any(character.isalpha() for character in text):
        return None
    return next((found[near] for near in difflib.get_close_matches(text, found, 1, 0.7)), None)


def _alike(text: str) -> str:
    """What spellings of one thing have in common: `16x9` and `16:9`, `Aspect-Ratio`, `2 K`."""
    text = re.sub(r"(?<=\d)\s*[x×*/:,_-]\s*(?=\d)", ":", text.casefold())
    return re.sub(r"[\s_-]", "", text)


def _did_you_mean(value: object) -> str:
    return "" if value is None else f": did you mean {_shown(value)}?"


def _listed(values: Collection[Any]) -> str:
    items = [_short(_plain(value)) for value in islice(values, _MAX_LISTED)]
    return ", ".join(items + ["…"] * (len(values) > _MAX_LISTED))


def _shown(value: object) -> str:
    text = _short(_plain(value))
    return f"'{text}'" if isinstance(value, str) else text


def _short(text: str) -> str:
    """At most 60 characters, all of them printable."""
    text = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _plain(value: object) -> str:
    """A value as JSON writes it, text without its quotes, `4.0` as `4`."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=repr)
