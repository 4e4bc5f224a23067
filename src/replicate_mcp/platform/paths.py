"""Locations of users' and programs' files."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from replicate_mcp.platform.system import IS_WINDOWS

EXAMPLE_FILE = "C:/Users/you/state.db" if IS_WINDOWS else "home/you/state.db"
"""Absolute path without its first slash, for error messages."""

EXAMPLE_FOLDER = r"C:\Users\you\Pictures" if IS_WINDOWS else "/home/you/Pictures"


@dataclass(frozen=True, slots=True)
class Machine:
    """What determines the locations of programs' files.

    Attributes:
        platform: value of `sys.platform`.
        home: the user's home folder.
        environ: environment variables.
    """

    platform: str
    home: Path
    environ: Mapping[str, str]

    @classmethod
    def current(cls, home: Path) -> "Machine":
        """Return this machine, with `home` as the user's home folder."""
        return cls(sys.platform, home, os.environ)

    @property
    def settings(self) -> Path:
        """Folder of the user's settings, in which each program has its own."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        if self.platform == "win32":
            return Path(self.environ.get("APPDATA") or self.home / "AppData" / "Roaming")
        return Path(self.environ.get("XDG_CONFIG_HOME") or self.home / ".config")


def state_folder(application: str) -> Path:
    """Return the folder of an application's state, the same for all processes of the user.

    On Windows it is outside AppData: a packaged host such as Claude Desktop redirects AppData for
    the programs that it starts (https://github.com/anthropics/claude-code/issues/93152).

    Raises:
        RuntimeError: the user has no home folder.
    """
    if IS_WINDOWS:
        return Path.home() / f".{application}"
    from platformdirs import user_state_path

    return user_state_path(application, appauthor=False)


def begins_with_a_drive(path: str) -> bool:
    """Return whether a path begins with a drive, which only Windows has."""
    return IS_WINDOWS and bool(Path(path).drive)
