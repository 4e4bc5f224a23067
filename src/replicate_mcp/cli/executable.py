"""The command with which other programs start this installation."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from replicate_mcp.errors import InvalidInput

NAME = "replicate-mcp.exe" if os.name == "nt" else "replicate-mcp"

_PASSING = ("archive-v", "environments-v", "builds-v")
"""How the folders of uv's cache begin in which `uvx` keeps a program for a while."""


def as_typed(*words: str) -> str:
    """How the user starts this program again, from the folder they are in."""
    program = sys.argv[0]
    if Path(program).name == "__main__.py":
        return subprocess.list2cmdline([sys.executable, "-m", "replicate_mcp", *words])
    found = shutil.which(NAME)
    if found and Path(found).resolve() == Path(program).resolve():
        program = "replicate-mcp"
    return subprocess.list2cmdline([program, *words])


def own_command() -> list[str]:
    """An absolute path, and words for it where it is not the program itself.

    Raises:
        InvalidInput: this installation is one that its installer may clear away.
    """
    parts = Path(sys.prefix).parts
    if any(part.startswith(_PASSING) for part in parts) or ("pipx" in parts and ".cache" in parts):
        raise InvalidInput(
            "This is a passing installation, which may be cleared away: install the package to "
            "stay (`uv tool install`, `pipx install`, or pip in a virtual environment), and run "
            "that one's `replicate-mcp install`."
        )
    for scheme in (sysconfig.get_default_scheme(), f"{os.name}_user"):
        script = Path(sysconfig.get_path("scripts", scheme)) / NAME
        if script.is_file():
            return [str(script)]
    # -P: hosts start it in folders of others', whose modules it must not import.
    return [sys.executable, "-P", "-m", "replicate_mcp"]
