"""How commands and paths are written for the user's shell."""

import shlex
import subprocess
from collections.abc import Sequence

from replicate_mcp.platform.system import IS_WINDOWS


def command_line(words: Sequence[str]) -> str:
    """Return a command as it is typed: quoted for a POSIX shell, or for PowerShell and cmd."""
    return subprocess.list2cmdline(words) if IS_WINDOWS else shlex.join(words)


def set_variable(name: str, value: str) -> str:
    """Return the command that sets an environment variable in the user's shell."""
    if IS_WINDOWS:
        quoted = value.replace("'", "''")
        return f"$env:{name} = '{quoted}'"
    return f"export {name}={shlex.quote(value)}"


def move_command(source: str, target: str) -> str:
    """Return the command that renames a file."""
    return f'move "{source}" "{target}"' if IS_WINDOWS else command_line(["mv", source, target])


def program(name: str) -> str:
    """Return the file name of an installed program."""
    return f"{name}.exe" if IS_WINDOWS else name
