"""A change to a configuration as a diff that tells no secrets, neither ours nor others'."""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from replicate_mcp.access import fingerprint
from replicate_mcp.cli.json_text import COMMENT, NotJson, read, scalars
from replicate_mcp.cli.json_text import Path as Way

WIDEST = 160
"""Characters of a line that are shown."""

_STRING_OR_COMMENT = re.compile(rf'"(?:[^"\\]|\\.)*"|{COMMENT.pattern}', re.DOTALL)
_TOKEN = re.compile(r"r8_\w+")


IsShown = Callable[[Way, str], bool]
"""Whether a string, at that place in an entry, is no secret."""


def difference(
    path: Path, before: str, after: str, *, ours: Sequence[Way], is_shown: IsShown
) -> str:
    """What changes, line by line.

    Args:
        ours: the entries of which something is shown; of all others only the keys are.
        is_shown: says what of these.
    """
    old, new = (_masked(text, ours, is_shown).splitlines() for text in (before, after))
    lines = difflib.unified_diff(old, new, str(path), f"{path} (new)", n=2, lineterm="")
    return "\n".join(line if len(line) <= WIDEST else line[: WIDEST - 1] + "…" for line in lines)


def _masked(text: str, ours: Sequence[Way], is_shown: IsShown) -> str:
    try:
        root = read(text)
    except NotJson:
        return ""  # An empty file.
    shown: dict[int, str] = {}
    for way, node in scalars(root):
        if not isinstance(node.value, str):
            continue
        entry = next((each for each in ours if way[: len(each)] == each), None)
        if entry is None:
            shown[node.start] = '"…"'
        elif not is_shown(way[len(entry) :], node.value):
            shown[node.start] = f'"… (fingerprint {fingerprint(node.value)[:4]}…)"'

    def mask(match: re.Match[str]) -> str:
        if match.group().startswith("//"):
            return "// …"
        if match.group().startswith("/*"):
            return "/* … */"
        return shown.get(match.start(), _TOKEN.sub("r8_…", match.group()))

    return _STRING_OR_COMMENT.sub(mask, text)
