"""Diff of a configuration change with all secrets masked, those of other servers included."""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from replicate_mcp.cli.install.jsonc_edit import COMMENT, Node, NotJson, read, scalars
from replicate_mcp.cli.install.jsonc_edit import Path as Way

WIDEST = 160
"""Maximum length of a printed line."""

TOKEN = "REPLICATE_API_TOKEN"  # noqa: S105 - the setting's name

_STRING_OR_COMMENT = re.compile(rf'"(?:[^"\\]|\\.)*"|{COMMENT.pattern}', re.DOTALL)
_LINE_END = re.compile(r"\r\n|\n|\r")
_TOKEN = re.compile(r"r8_\w+")


IsShown = Callable[[Way, str], bool]
"""Function that returns whether a string at a path within an entry may be shown."""


def difference(
    path: Path, before: str, after: str, *, ours: Sequence[Way], is_shown: IsShown
) -> str:
    """Return a unified diff with masked strings.

    Args:
        path: path of the file, for the headings.
        before: old text.
        after: new text.
        ours: paths of the entries whose strings may be shown; of others only keys are shown.
        is_shown: returns whether a string of such an entry may be shown.
    """
    kept = {node.value for _, node in _scalars(after)}

    def hidden(way: Way, value: str) -> str:
        # Old and new values need different masks, or the diff would not show the change.
        whose = "your" if value in kept else "the old"
        return f"({whose} token, hidden)" if way[-1] == TOKEN else f"({whose} text, hidden)"

    old, new = (_lines(_masked(text, ours, is_shown, hidden)) for text in (before, after))
    lines = difflib.unified_diff(old, new, f"{path} (now)", f"{path} (after)", n=2, lineterm="")
    return "\n".join(line if len(line) <= WIDEST else line[: WIDEST - 1] + "…" for line in lines)


def _lines(text: str) -> list[str]:
    """Split at CR and LF only; `str.splitlines` also splits at characters that keys may contain."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def _scalars(text: str) -> Sequence[tuple[Way, Node]]:
    try:
        return list(scalars(read(text)))
    except NotJson:
        return ()  # an empty file


def _masked(
    text: str, ours: Sequence[Way], is_shown: IsShown, hidden: Callable[[Way, str], str]
) -> str:
    shown: dict[int, str] = {}
    for way, node in _scalars(text):
        if not isinstance(node.value, str):
            continue
        entry = next((each for each in ours if way[: len(each)] == each), None)
        if entry is None:
            shown[node.start] = '"…"'
        elif not is_shown(way[len(entry) :], node.value):
            shown[node.start] = f'"{hidden(way, node.value)}"'

    def mask(match: re.Match[str]) -> str:
        if match.group().startswith("//"):
            return "// …"
        if match.group().startswith("/*"):
            return "/* … */"
        return shown.get(match.start(), _TOKEN.sub("r8_…", match.group()))

    return _STRING_OR_COMMENT.sub(mask, text)
