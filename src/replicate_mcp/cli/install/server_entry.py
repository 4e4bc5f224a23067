"""An entry in a host's configuration: whether it is this server's, and what of it may be shown."""

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from replicate_mcp.cli.install.jsonc_edit import Path as Way
from replicate_mcp.text import printable

_STARTERS = ("uv", "uvx", "pipx")
"""Programs that start this one by the name of its package; npm has another's of that name."""

_FLAG = re.compile(r"-\w|--[a-z-]+")
_REFERENCE = re.compile(r"\$\{[^{}]*\}")


def other_server(entry: Any) -> str | None:
    """What an entry leads to where that is not this server: a host's name, or a program's."""
    if not isinstance(entry, dict):
        return None
    if isinstance(url := entry.get("url"), str):
        try:
            return printable(urlsplit(url).hostname or "a URL")
        except ValueError:
            return "a URL"
    command = entry.get("command")
    if not isinstance(command, str) or _starts_this_one(command, entry.get("args")):
        return None
    return printable(_program(command))


def holds_password(value: str, name: str = "") -> bool:
    """Whether an address may carry one, also where it was not escaped as it should have been.

    Args:
        name: the variable; that of a proxy may have an address without a scheme.
    """
    scheme, sign, rest = value.partition("://")
    if name.lower().endswith("_proxy") and "@" in value:
        return True
    return bool(sign) and scheme != "sqlite" and ("@" in rest or "password" in rest.lower())


def is_shown(way: Way, value: str, *, variables: Collection[str], words: Collection[str]) -> bool:
    """Whether a string of an entry, at that place in it, can be shown to whoever looks on.

    Args:
        variables: which of its `env` are no secrets.
        words: which of its `args` are no secrets.
    """
    match way:
        case ("command" | "type",):
            return True
        case ("args", int()):
            return value in words or _FLAG.fullmatch(value) is not None
        case ("env", name):
            is_plain = name in variables and not holds_password(value, str(name))
            return is_plain or _REFERENCE.fullmatch(value) is not None
    return False


def words_of(entry: Any) -> list[str]:
    """The arguments of an entry, as far as they are words."""
    args = entry.get("args") if isinstance(entry, Mapping) else None
    return [word for word in args if isinstance(word, str)] if isinstance(args, list) else []


def _starts_this_one(command: str, args: Any) -> bool:
    program, words = _program(command), words_of({"args": args})
    # -P keeps modules of the current folder out; without it, an entry is an older one of ours.
    as_module = words[words[:1] == ["-P"] :][:2] == ["-m", "replicate_mcp"]
    if program == "replicate-mcp" or as_module:
        return True
    return program in _STARTERS and any(re.match(r"replicate-mcp\b", word) for word in words)


def _program(command: str) -> str:
    return re.split(r"[\\/]", command)[-1].removesuffix(".exe")
