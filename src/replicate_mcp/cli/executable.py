"""The command with which other programs start this installation."""

import os
import sys
import sysconfig
from pathlib import Path

from replicate_mcp.errors import InvalidInput

_PASSING = ("archive-v", "environments-v", "builds-v")
"""How the folders of uv's cache begin in which `uvx` keeps a program for a while."""


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
    name = "replicate-mcp.exe" if os.name == "nt" else "replicate-mcp"
    for scheme in (sysconfig.get_default_scheme(), f"{os.name}_user"):
        script = Path(sysconfig.get_path("scripts", scheme)) / name
        if script.is_file():
            return [str(script)]
    return [sys.executable, "-m", "replicate_mcp"]
