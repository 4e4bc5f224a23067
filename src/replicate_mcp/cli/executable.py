"""The command with which other programs start this installation."""

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
"""How the folders of uv's cache begin in which `uvx` keeps a program for a while."""


def as_typed(*words: str) -> str:
    """How the user starts this program again, from the folder they are in."""
    program = sys.argv[0]
    if Path(program).name == "__main__.py":
        return shell.command_line([sys.executable, "-m", "replicate_mcp", *words])
    found = shutil.which(NAME)
    # Windows starts a program without its `.exe`; `uvx` has its folder on the path by itself alone.
    if found and not _is_passing() and _same_program(found, program):
        program = "replicate-mcp"
    return shell.command_line([program, *words])


def own_command() -> list[str]:
    """An absolute path, and words for it where it is not the program itself.

    Raises:
        InvalidInput: this installation is one that its installer may clear away.
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
    # -P: hosts start it in folders of others', whose modules it must not import.
    return [sys.executable, "-P", "-m", "replicate_mcp"]


def _same_program(one: str, other: str) -> bool:
    return Path(one).resolve().with_suffix("") == Path(other).resolve().with_suffix("")


def _is_passing() -> bool:
    """Return whether this installation is in a cache, as those of `uvx` and `pipx run` are."""
    parts = Path(sys.prefix).parts
    return any(part.startswith(_PASSING) for part in parts) or _is_of_pipx_run(parts)


def _is_of_pipx_run(parts: Sequence[str]) -> bool:
    """Return whether `pipx run` made an environment, which it removes after 14 days.

    It is in a folder of its cache: `.cache` below its home, or `Caches` or `Cache` of the system.
    """
    names = {part.lower() for part in parts}
    return "pipx" in names and bool(names & {".cache", "cache", "caches"})
