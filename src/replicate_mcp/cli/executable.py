"""Command with which other programs start this installation."""

import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import shell
from replicate_mcp.platform.processes import script_schemes

NAME = shell.program("replicate-mcp")

_PASSING = ("archive-v", "environments-v", "builds-v")
"""Prefixes of the folders in uv's cache that hold the temporary environments of `uvx`."""


def as_typed(*words: str) -> str:
    """Return the command that starts this program again from the user's current folder."""
    program = sys.argv[0]
    if Path(program).name == "__main__.py":
        return shell.command_line([sys.executable, "-m", "replicate_mcp", *words])
    found = shutil.which(NAME)
    # Windows starts a program without its `.exe`; `uvx` puts its folder on PATH only for itself.
    if found and not _is_passing() and _same_program(found, program):
        program = "replicate-mcp"
    return shell.command_line([program, *words])


def own_command() -> list[str]:
    """Return the command that starts this program: an absolute path, and arguments if needed.

    Raises:
        InvalidInput: this is a temporary installation, which its installer may remove.
    """
    if _is_passing():
        raise InvalidInput(
            "This is a passing installation, which may be cleared away: install the package to "
            "stay (`uv tool install`, `pipx install`, or pip in a virtual environment), and run "
            "that one's `replicate-mcp install`."
        )
    for scheme in script_schemes(sysconfig.get_default_scheme()):
        script = Path(sysconfig.get_path("scripts", scheme)) / NAME
        if script.is_file():
            return [str(script)]
    # -P: hosts start the server in arbitrary folders, whose modules must not be imported.
    return [sys.executable, "-P", "-m", "replicate_mcp"]


def _same_program(one: str, other: str) -> bool:
    return Path(one).resolve().with_suffix("") == Path(other).resolve().with_suffix("")


def _is_passing() -> bool:
    """Return whether this installation is in the cache of `uvx` or `pipx run`."""
    parts = Path(sys.prefix).parts
    return any(part.startswith(_PASSING) for part in parts) or _is_of_pipx_run(parts)


def _is_of_pipx_run(parts: Sequence[str]) -> bool:
    """Return whether `parts` lead to an environment of `pipx run`, removed after 14 days.

    It is in pipx's cache folder: `.cache` in its home, or the system's `Caches` or `Cache`.
    """
    names = {part.lower() for part in parts}
    return "pipx" in names and bool(names & {".cache", "cache", "caches"})
