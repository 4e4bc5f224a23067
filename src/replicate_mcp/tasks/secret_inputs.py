"""Detection of inputs that are secrets, which the journal does not keep."""

import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"(?:.*_)?(?:api_key|access_key|token|secret|password)", re.IGNORECASE)
_REPLICATE_TOKEN = re.compile(r"(?<![A-Za-z0-9])r8_\w{10,}", re.ASCII)


def is_secret(name: str, value: Any) -> bool:
    """Return whether an input is a secret: its name says so, or it contains a Replicate token."""
    if isinstance(value, str) and value and _NAME.fullmatch(name[:100]):
        return True
    left: list[Any] = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            if _REPLICATE_TOKEN.search(each):
                return True
        elif isinstance(each, Mapping):
            left += each
            left += each.values()
        elif isinstance(each, list):
            left += each
    return False


def is_secret_schema(schema: Mapping[str, Any]) -> bool:
    """Return whether a model's schema marks an input as a secret, as Cog's `Secret` does."""
    marks = schema.get("x-cog-secret"), schema.get("writeOnly")
    return schema.get("format") == "password" or True in marks
