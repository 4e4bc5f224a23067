"""The state file's modes: it holds prompts and results, which are for its user alone.

On Windows there are no modes: a user's own folders are private there.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform import files

_SIDE_FILES = ("", "-wal", "-shm")


def make_private_file(path: Path) -> None:
    """Create the file where there is none, with its folders, and let its user alone read it.

    Folders that are there already are left as they are.

    Raises:
        BackendUnavailable: the file belongs to another user, and others can write to it.
        OSError: the file or a folder cannot be made.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):  # `parents=True` would give all but the last one 0777.
        files.make_private_folder(folder)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if files.has_modes():
        for suffix in _SIDE_FILES:
            with suppress(FileNotFoundError):  # SQLite removes the others when it likes.
                _restrict(path.with_name(path.name + suffix))


def _restrict(path: Path) -> None:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if files.is_owned(found):
        if mode & 0o077:
            path.chmod(0o600)
    elif mode & 0o022:
        raise BackendUnavailable(
            f"The state file {path} belongs to another user, and others can write to it: set "
            "REPLICATE_MCP_BACKEND to sqlite:///a/path/of/your/own, or let its owner run "
            f"`chmod 600 {path}`."
        )
