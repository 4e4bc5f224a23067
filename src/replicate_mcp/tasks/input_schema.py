"""Validation of a task's inputs against its model's own schema.

The schema is that of the model's version (`latest_version.openapi_schema`): its `Input` has a
property for each input, with `x-order`, `default` and ranges; enums are separate schemas.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from replicate_mcp.tasks.effort import Effort, EffortSpent, metered, spending
from replicate_mcp.tasks.file_urls import is_input_url
from replicate_mcp.tasks.filenames import image_format
from replicate_mcp.tasks.input_conversion import converted_inputs
from replicate_mcp.tasks.json_limits import json_problem
from replicate_mcp.tasks.openapi_schema import (
    COUNT_FIELDS,
    JSON,
    NOTHING,
    InputField,
    Resolver,
    constraints,
    field_of,
    is_count,
    without_null,
)
from replicate_mcp.tasks.validation_messages import (
    error_message,
    is_hinted,
    unknown_input,
)
from replicate_mcp.text import escaped

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

MAX_SEED = 2**31 - 1
"""Largest seed to choose: models store a seed in 32 bits, some of them signed."""


_MAX_IMAGES_COUNTED = 10_000
"""Maximum images counted for one task, far above any model's, for counts that no schema bounds."""


@dataclass(frozen=True, slots=True)
class InputProblem:
    """A problem of one input, as a sentence that names the input and ends without a full stop."""

    field: str
    sentence: str


class InputSchema:
    """The inputs that a model accepts.

    Attributes:
        fields: its inputs by name, in the order in which the model lists them.
    """

    format_field = "output_format"

    def __init__(
        self, schema: JSON, *, subject: str = "this model", beside: Sequence[str] = ()
    ) -> None:
        """Compile a schema without references, as `from_openapi` makes one."""
        self._subject = subject
        self._beside = beside
        properties: dict[str, JSON] = schema["properties"]
        required = schema.get("required", ())
        self.fields: Mapping[str, InputField] = MappingProxyType(
            {
                name: field_of(name, properties[name], name in required)
                for name in sorted(properties, key=lambda k: properties[k].get("x-order", math.inf))
            }
        )
        self._properties = properties
        self._required = frozenset(name for name, one in self.fields.items() if one.required)
        self._takes_others = schema.get("additionalProperties", NOTHING) != NOTHING
        self._validator = _compile(schema)

    @classmethod
    def from_openapi(
        cls,
        openapi_schema: Mapping[str, Any],
        *,
        subject: str = "this model",
        beside: Sequence[str] = (),
    ) -> "InputSchema":
        """Return the schema of a model's inputs.

        Args:
            openapi_schema: the model's OpenAPI document.
            subject: name for what has these inputs in messages: a model or a tool.
            beside: other fields allowed next to the inputs, for hints.

        Raises:
            ValueError: the document has no inputs, or cannot be checked against: it is not a JSON
                schema, refers to another document or to itself, or is too large.
        """
        try:
            schema = Resolver(openapi_schema).resolve({"$ref": "#/components/schemas/Input"})
            inputs = schema.get("properties", {})
            if not inputs:
                raise ValueError("the schema lists no inputs")
            schema |= {"properties": {name: without_null(one) for name, one in inputs.items()}}
            return cls(schema, subject=subject, beside=beside)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"the schema is malformed: {error!r}") from error

    def problems(
        self, inputs: Mapping[str, Any], effort: "Effort | None" = None
    ) -> list[InputProblem]:
        """Return the problems of `inputs`, at most one per input.

        Args:
            inputs: the values by input.
            effort: limit on the cost of checking, shared by a batch; once it is spent, the
                remaining checks are left to Replicate. None for a new limit.
        """
        with spending(effort or Effort()):
            found = self._problems(without_nulls(inputs))
        order = dict.fromkeys([*self.fields, *found])
        return [InputProblem(name, found[name]) for name in order if name in found]

    def _problems(self, given: JSON) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self._takes_others:
            unknown = (name for name in given if name not in self.fields)
            for name in islice(unknown, _MAX_UNKNOWN):
                found[name] = unknown_input(name, self.fields, self._subject, self._beside)
        for name in self._required:
            if name not in given and not any(is_hinted(name, each) for each in found.values()):
                found[name] = f"{name} is required by {self._subject}"
        if "prompt" in self._required and not str(given.get("prompt", "-")).strip():
            found["prompt"] = "prompt is empty: say what to draw"
        for name in given.keys() - found.keys():
            if why := json_problem(given[name]):
                found[name] = f"{escaped(name)} {why}"
        checked = {
            name: value
            for name, value in given.items()
            if name not in found and (name in self.fields or self._takes_others)
        }
        for name, error in _first_errors(self._validator.iter_errors(checked)).items():
            found.setdefault(name, error_message(error, self._subject))
        return found

    def converted(self, inputs: Mapping[str, Any], effort: "Effort | None" = None) -> JSON:
        """Return `inputs` as the schema accepts them, without those that are null or blank.

        JSON text is parsed if a list or an object is required, and `42.0` becomes 42 if an integer
        is. `problems` reports values that cannot be converted.
        """
        given = without_nulls(inputs)
        return converted_inputs(given, self._properties, self._required, effort or Effort())

    @property
    def seed_range(self) -> tuple[int, int] | None:
        """Smallest and largest seed to choose, both inclusive; None if there is no such input.

        The smallest is never below 0, since -1 asks models that accept it to choose a seed
        themselves.
        """
        seed = self.fields.get("seed")
        if seed is None or seed.type != "integer":
            return None
        low = max(0, math.ceil(seed.minimum or 0))
        high = MAX_SEED if seed.maximum is None else min(math.floor(seed.maximum), MAX_SEED)
        return (low, high) if low <= high else None

    def format_value(self, format: str) -> str | None:  # noqa: A002
        """Return the value of `output_format` for an image format, such as `jpeg` for `jpg`.

        None if the model has no such input, or none of its values is that format.
        """
        field = self.fields.get(self.format_field)
        wanted = image_format(format)
        for choice in (field and field.choices) or ():
            if wanted and isinstance(choice, str) and image_format(choice) == wanted:
                return choice
        return None

    @property
    def default_format(self) -> str | None:
        """Format of a task that names none, as `image_format` returns it; None if unknown."""
        field = self.fields.get(self.format_field)
        if field is None or not isinstance(field.default, str):
            return None
        return image_format(field.default)

    def count(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of images that `inputs` without problems request, at least 1."""

        def value(name: str) -> Any:
            given = inputs.get(name)
            return self.fields[name].default if given is None else given

        # Seedream makes one image, whatever max_images is, unless it may make a sequence.
        sequence = "sequential_image_generation"
        if sequence in self.fields and value(sequence) != "auto":
            return 1
        named = next((name for name in COUNT_FIELDS if name in self.fields), None)
        # The meaning of other names is less certain, so their defaults are ignored.
        others = {
            name: given
            for name, given in inputs.items()
            if name != named and (name in self.fields or self._takes_others)
        }
        counted = _count(value(named)) if named else 1
        return min(counted * count_unchecked(others), _MAX_IMAGES_COUNTED)


def count_unchecked(inputs: Mapping[str, Any]) -> int:
    """Return how many images `inputs` may request, at least 1, by the names of its numbers."""
    # The known names are synonyms; other counts may multiply.
    known = max(_count(inputs.get(name)) for name in COUNT_FIELDS)
    others = (
        _count(value)
        for name, value in inputs.items()
        if name not in COUNT_FIELDS and is_count(name)
    )
    return min(known * math.prod(others), _MAX_IMAGES_COUNTED)


def _count(asked: object) -> int:
    if not isinstance(asked, (int, float)) or not _is_integer(asked):
        return 1
    return min(max(1, int(asked)), _MAX_IMAGES_COUNTED)


def without_nulls(inputs: Mapping[str, Any]) -> JSON:
    """Return the inputs whose value is not None, which stands for an input that is not given."""
    return {name: value for name, value in inputs.items() if value is not None}


def import_validator() -> None:
    """Import the validator now instead of at the first schema."""
    import jsonschema.validators  # noqa: F401


def _compile(schema: JSON) -> "Validator":
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend

    bare = constraints(schema)
    bare["properties"] = {name: constraints(one) for name, one in bare["properties"].items()}
    try:
        Draft202012Validator.check_schema(bare)
    except SchemaError as error:
        raise ValueError(f"the schema is no JSON schema: {error.message[:200]}") from error
    formats = FormatChecker(formats=())
    formats.checks("uri")(_is_url)
    keywords = {
        name: metered(check, squared=name == "uniqueItems")
        for name, check in Draft202012Validator.VALIDATORS.items()
    }
    keywords["multipleOf"] = metered(_multiple_of)
    bounded: type[Validator] = extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]
    return bounded(bare, format_checker=formats)


def _multiple_of(_: object, factor: Any, instance: Any, __: object) -> "Iterator[ValidationError]":
    """Check `multipleOf` with a tolerance for rounding: 0.3 is a multiple of 0.1."""
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, bool) or not isinstance(instance, (int, float)):
        return
    try:
        quotient = instance / factor
        is_multiple = abs(quotient - round(quotient)) <= _ROUNDING * max(1.0, abs(quotient))
    except OverflowError:
        return  # Too large for a float: the check is left to Replicate.
    if isinstance(instance, int) and isinstance(factor, int):
        is_multiple = instance % factor == 0
    if not is_multiple:
        yield ValidationError(f"{instance!r} is not a multiple of {factor!r}")


def _is_url(value: object) -> bool:
    return not isinstance(value, str) or is_input_url(value)


def _is_integer(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


_ROUNDING = 1e-9
"""Relative error up to which a quotient counts as a whole number."""

_MAX_UNKNOWN = 20
"""Maximum number of a task's unknown inputs that are compared with the known ones."""

_MAX_ERRORS = 200
"""Maximum number of errors read in one check; more, of a list of a million, add nothing."""


def _first_errors(errors: Iterable["ValidationError"]) -> dict[str, "ValidationError"]:
    """Return the most informative error of each input; errors of all inputs together under ""."""
    first: dict[str, ValidationError] = {}
    try:
        for error in islice(errors, _MAX_ERRORS):
            name = str(error.absolute_path[0]) if error.absolute_path else ""
            if name or error.validator != "required":
                first[name] = min(first.get(name, error), error, key=_weight)
    except EffortSpent:
        pass  # The errors found so far stand; the remaining checks are left to Replicate.
    return first


def _weight(error: "ValidationError") -> int:
    return {"enum": 0, "const": 0, "type": 1}.get(str(error.validator), 2)
