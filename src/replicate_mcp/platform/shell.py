"""Commands for the user's shell: PowerShell on Windows, a POSIX shell elsewhere."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from replicate_mcp.platform.system import IS_WINDOWS

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_/\\:.][A-Za-z0-9_/\\:.=+-]*|--?[A-Za-z0-9-]+")
"""Words that PowerShell takes literally; it splits words such as `-x.y`."""

_SINGLE_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
"""Characters that end a quoted string in PowerShell."""


def is_posix() -> bool:
    """Return whether commands are for a POSIX shell, on Windows those of Git Bash and MSYS2."""
    return not IS_WINDOWS or bool(os.environ.get("MSYSTEM"))


def command_line(words: Sequence[str]) -> str:
    """Return a command for the user to type, with words quoted as the shell needs it."""
    if is_posix():
        return shlex.join(words)
    line = " ".join(map(_powershell_word, words))
    # PowerShell prints a quoted string unless `&` marks it as a command.
    return f"& {line}" if line.startswith("'") else line


def set_variables(values: Mapping[str, str]) -> str:
    """Return the command that sets environment variables in the user's shell."""
    if is_posix():
        return " ".join(["export", *(f"{name}={shlex.quote(values[name])}" for name in values)])
    return "; ".join(f"$env:{name} = {_quoted(value)}" for name, value in values.items())


def install_command(*packages: str) -> str:
    """Return the command that installs packages into this Python's environment.

    uv's environments have no pip.
    """
    if find_spec("pip") is None:
        return command_line(["uv", "pip", "install", "--python", sys.executable, *packages])
    return command_line([sys.executable, "-m", "pip", "install", *packages])


def move_command(source: str, target: str) -> str:
    """Return the command that renames a file."""
    return command_line(["mv" if is_posix() else "move", source, target])


def program(name: str) -> str:
    """Return the file name of an installed program."""
    return f"{name}.exe" if IS_WINDOWS else name


def _powershell_word(word: str) -> str:
    return word if _PLAIN_WORD.fullmatch(word) else _quoted(word)


def _quoted(text: str) -> str:
    return "'" + _SINGLE_QUOTES.sub(r"\1\1", text) + "'"
