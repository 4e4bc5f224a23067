"""Limits on the values that any request can contain, whatever the model accepts."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 30
"""Maximum depth of a schema, and of a value given for it."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Placeholder for a value that could not be read from the request.

    Attributes:
        why: the end of a sentence about it, without a full stop.
    """

    why: str


_SURROGATE = re.compile("[\ud800-\udfff]")


def json_problem(value: object, depth: int = 0) -> str | None:
    """Return why no request can contain `value`, whatever the model accepts; None if one can."""
    match value:
        case Unreadable():
            return value.why
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
        case list() | dict() if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} deep"
        case list() | dict():
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            return next(filter(None, (json_problem(one, depth + 1) for one in parts)), None)
    return "is nothing that JSON can hold"


def nested_values(value: object) -> Iterator[object]:
    """Yield a JSON value and all values inside it, keys included, in no particular order."""
    left: list[Any] = [value]
    while left:
        each = left.pop()
        yield each
        if isinstance(each, Mapping):
            left += each
            left += each.values()
        elif isinstance(each, list):
            left += each


def count_values(value: object) -> int:
    """Return the number of values in a JSON value, including itself and every key."""
    return sum(1 for _ in nested_values(value))
