"""Messages about invalid inputs, which say what is wrong and what would be valid."""

import json
import math
import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.effort import may_compare
from replicate_mcp.tasks.json_text import begins_like_json, read_json_text
from replicate_mcp.tasks.openapi_schema import COUNT_FIELDS, JSON, choices_of, kinds_of
from replicate_mcp.tasks.recommended_models import CATALOGUE
from replicate_mcp.text import escaped

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_MAX_LISTED = 15
_MAX_SHOWN = 60

_IMAGE_FIELDS = ("image", "input_image", "image_input", "input_images", "images", "image_prompt")

INPUT_SYNONYMS = (
    (*COUNT_FIELDS, "n"),
    _IMAGE_FIELDS,
    ("prompt", "text", "instruction", "instructions", "text_prompt", "prompt_text", "caption"),
    ("output_filename", "filename", "file_name", "output_file", "output_name"),
    ("model", "model_name", "model_id"),
)
"""Groups of input names that models and clients use for the same thing."""

_EDITING = [known.name for known in CATALOGUE if known.alias and "editing" in known.good_at]

_TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "file": "a URL",
}


def unknown_input(name: str, fields: Collection[str], subject: str, beside: Sequence[str]) -> str:
    """Return the message about an input that `subject` does not have, without a full stop.

    Args:
        name: the unknown input.
        fields: the inputs of `subject`.
        subject: name for what has the inputs: a model or a tool.
        beside: other fields allowed next to the inputs.
    """
    if name in beside and name != "input":
        return f"{quoted(name)} is not an input of {subject}: it goes beside input, not into it"
    known = [one for one in (*fields, *beside) if one != name]
    alike = next((group for group in INPUT_SYNONYMS if name in group), ())
    meant = next((one for one in alike if one in known), None)
    hint = did_you_mean(nearest(name, known) if meant is None else meant)
    text = f"{quoted(name)} is not an input of {subject}{hint or '.'} Its inputs: {listed(fields)}"
    if name in _IMAGE_FIELDS and not hint:
        text += f". Models that edit images: {', '.join(_EDITING)} (more with find_models)"
    return text


def is_hinted(name: str, sentence: str) -> bool:
    """Return whether `sentence`, about an unknown input, suggests `name` instead."""
    return f"{did_you_mean(name)} Its inputs: " in sentence


def error_message(error: "ValidationError", subject: str) -> str:
    """Return the message about an invalid value, without a full stop."""
    if not error.absolute_path:
        return f"the inputs together are not what {subject} takes ({error.validator})"
    head, *rest = error.absolute_path
    field = str(head) + "".join(f"[{quoted(part)}]" for part in rest)
    value: Any = error.instance
    limit: Any = error.validator_value
    shown = f"{field} {quoted(value)}"
    if isinstance(value, str) and (fault := _json_fault(field, value, error.schema)):
        return fault
    match error.validator:
        case "enum":
            choices = [choice for choice in limit if choice is not None]
            hint = did_you_mean(nearest(value, choices))
            return f"{shown} is not one of {listed(choices)}{hint}"
        case "const":
            return f"{shown} is not {quoted(limit)}, the only value {subject} takes"
        case "type":
            return _type_sentence(field, value, error.schema)
        case "format":
            if begins_like_json(value):
                return f"{shown} is JSON text, not one URL: give the URL alone"
            return f"{shown} is not a URL: give an https:// link or a data: URI"
        case "minimum":
            return f"{shown} is less than {quoted(limit)}, the least {subject} takes"
        case "maximum":
            return f"{shown} is more than {quoted(limit)}, the most {subject} takes"
        case "exclusiveMinimum":
            return f"{shown} is not more than {quoted(limit)}, as {subject} requires"
        case "exclusiveMaximum":
            return f"{shown} is not less than {quoted(limit)}, as {subject} requires"
        case "multipleOf":
            return f"{shown} is not a multiple of {quoted(limit)}"
        case "minLength" | "maxLength" | "minItems" | "maxItems":
            unit = ("character" if isinstance(value, str) else "item") + "s" * (len(value) != 1)
            bound = "least" if len(value) < limit else "most"
            return f"{field} has {len(value)} {unit}, {subject} takes at {bound} {limit}"
        case "anyOf" | "oneOf":
            return f"{shown} is not {' or '.join(map(_form, limit))}"
    return f"{shown} is not what {subject} takes ({error.validator})"


def _json_fault(field: str, text: str, schema: Any) -> str:
    """Return why text that begins like JSON is no list or object; "" if that is not the problem."""
    if not {"array", "object"} & set(kinds_of(schema)) or not begins_like_json(text):
        return ""
    try:
        read_json_text(text, field)
    except InvalidInput as error:
        return str(error).removesuffix(".")
    return ""


def _type_sentence(field: str, value: object, schema: Any) -> str:
    shown = f"{field} {quoted(value)}"
    kinds = list(kinds_of(schema))
    kind = kinds[0] if len(kinds) == 1 else ""
    if isinstance(value, str) and (meant := _read_as(kind, value)) is not None:
        return f"{shown} is text, not {_TYPE_WORDS[kind]}{did_you_mean(meant)}"
    if isinstance(value, str) and kind == "array":
        return f"{shown} is not a list: did you mean a list that holds it?"
    if kind == "file" and isinstance(value, list):
        meant = value[0] if len(value) == 1 and isinstance(value[0], str) else None
        return f"{shown} is a list, not one URL{did_you_mean(meant)}"
    if kind == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{shown} is a number, not text{did_you_mean(_plain(value))}"
    return f"{shown} is not {_form(schema)}"


def _form(schema: JSON) -> str:
    """Return what a schema accepts, in words."""
    if choices := choices_of(schema):
        return f"one of {listed(choices)}"
    names = [_TYPE_WORDS.get(kind, kind) for kind in dict.fromkeys(kinds_of(schema))]
    return " or ".join(names) or "of another kind"


def _read_as(kind: str, text: str) -> object:
    """Return the value that `text` represents; None if it represents none of this kind."""
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


def nearest(value: object, choices: Collection[Any]) -> Any:
    """Return the choice that was most likely meant; None if absent."""
    text = _normalise(_plain(value)) if isinstance(value, (str, int, float)) else ""
    if not text or len(text) > _MAX_SHOWN or not may_compare(len(choices)):
        return None
    found = {_normalise(_plain(choice)): choice for choice in reversed(list(choices))}
    if text in found:
        return found[text]
    # Numbers with similar digits mean different things: 2:1 is not a typing error for 1:1.
    if not any(character.isalpha() for character in text):
        return None
    from difflib import get_close_matches

    return next((found[near] for near in get_close_matches(text, found, 1, 0.7)), None)


def _normalise(text: str) -> str:
    """Return a form that spellings of one value share: `16x9`, `16:9`; `Aspect-Ratio`; `2 K`."""
    text = re.sub(r"(?<=\d)\s*[x×*/:,_-]\s*(?=\d)", ":", text.casefold())
    return re.sub(r"[\s_-]", "", text)


def did_you_mean(value: object) -> str:
    """Return the hint at the end of a sentence; "" for None."""
    return "" if value is None else f": did you mean {quoted(value)}?"


def listed(values: Collection[Any]) -> str:
    """Return the first values, separated by commas."""
    items = [_short(_plain(value)) for value in islice(values, _MAX_LISTED)]
    return ", ".join(items + ["…"] * (len(values) > _MAX_LISTED))


def quoted(value: object) -> str:
    """Return a value for use in a sentence: text in quotes, and anything long truncated."""
    text = _short(_plain(value))
    return f"'{text}'" if isinstance(value, str) else text


def _short(text: str) -> str:
    """Return `text` truncated to 60 characters, all of them printable."""
    text = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
    return escaped(text)


def _plain(value: object) -> str:
    """Return a value in JSON's spelling, text without its quotes, and `4.0` as `4`."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = ""
    for piece in _ENCODER.iterencode(value):  # Stop once there is more than is shown.
        text += piece
        if len(text) > _MAX_PLAIN:
            break
    return text


_MAX_PLAIN = 1_000
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=repr)
