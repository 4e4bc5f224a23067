"""Detection of inputs that are secrets, which the journal does not keep."""

import re
from collections.abc import Mapping
from typing import Any

from replicate_mcp.tasks.json_limits import nested_values

_NAME = re.compile(r"(?:.*_)?(?:api_key|access_key|token|secret|password)", re.IGNORECASE)
_REPLICATE_TOKEN = re.compile(r"(?<![A-Za-z0-9])r8_\w{10,}", re.ASCII)


def is_secret(name: str, value: Any) -> bool:
    """Return whether an input is a secret: its name says so, or it contains a Replicate token."""
    if isinstance(value, str) and value and _NAME.fullmatch(name[:100]):
        return True
    return any(
        isinstance(each, str) and _REPLICATE_TOKEN.search(each) for each in nested_values(value)
    )


def is_secret_schema(schema: Mapping[str, Any]) -> bool:
    """Return whether a model's schema marks an input as a secret, as Cog's `Secret` does."""
    marks = schema.get("x-cog-secret"), schema.get("writeOnly")
    return schema.get("format") == "password" or True in marks
