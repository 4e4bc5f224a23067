"""Extraction of a batch's first prompt from the beginning of its tasks as JSON."""

import json
import re

SHOWN_CHARACTERS = 200
"""Maximum length of a prompt in a list of batches."""

READ_CHARACTERS = 2_000
"""Length of the JSON to read: an escaped character takes at most twelve."""

_FIRST_STRING = re.compile(r'(?:\[\[|\{"prompt":\s*)"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')


def first_prompt(written: str) -> str | None:
    """Return the beginning of the first prompt; None if the first task has no prompt.

    Args:
        written: the first `READ_CHARACTERS` of a list of tasks, or of one task.
    """
    found = _FIRST_STRING.match(written)
    if found is None:
        return None
    prompt: str = json.loads(f'"{found[1]}"', strict=False)
    return prompt.encode(errors="replace").decode()[:SHOWN_CHARACTERS]
