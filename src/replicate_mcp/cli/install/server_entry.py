"""Recognition of this server's entry in a host's configuration, and of secrets in it."""

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from replicate_mcp.cli.install.jsonc_edit import Path as Way
from replicate_mcp.text import printable

_STARTERS = ("uv", "uvx", "pipx")
"""Programs that run this package by its name; npm has an unrelated package of that name."""

_FLAG = re.compile(r"-\w|--[a-z-]+")
_REFERENCE = re.compile(r"\$\{[^{}]*\}")


def other_server(entry: Any) -> str | None:
    """Return the host or program that an entry starts, or None if it starts this server."""
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
    """Return whether a URL may contain a password, even an unescaped one.

    Args:
        value: URL or other value of the variable.
        name: variable name; a proxy's URL may lack a scheme.
    """
    scheme, sign, rest = value.partition("://")
    if name.lower().endswith("_proxy") and "@" in value:
        return True
    return bool(sign) and scheme != "sqlite" and ("@" in rest or "password" in rest.lower())


def is_shown(way: Way, value: str, *, variables: Collection[str], words: Collection[str]) -> bool:
    """Return whether a string at the path `way` within an entry may be shown.

    Args:
        way: path within the entry.
        value: the string.
        variables: names in `env` that are not secret.
        words: values in `args` that are not secret.
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
    """Return the arguments of an entry that are strings."""
    args = entry.get("args") if isinstance(entry, Mapping) else None
    return [word for word in args if isinstance(word, str)] if isinstance(args, list) else []


def _starts_this_one(command: str, args: Any) -> bool:
    program, words = _program(command), words_of({"args": args})
    # -P keeps modules of the current folder out; older entries of this server lack it.
    as_module = words[words[:1] == ["-P"] :][:2] == ["-m", "replicate_mcp"]
    if program == "replicate-mcp" or as_module:
        return True
    return program in _STARTERS and any(re.match(r"replicate-mcp\b", word) for word in words)


def _program(command: str) -> str:
    return re.split(r"[\\/]", command)[-1].removesuffix(".exe")
