"""The permissions of the state file, which holds prompts and results: it is private to its user.

Windows has no modes: a user's own folders are private there.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform import files

_SIDE_FILES = ("", "-wal", "-shm")


def make_private_file(path: Path) -> None:
    """Create the file if it is missing, with its folders, private to its user.

    Existing folders and files are left unchanged.

    Raises:
        BackendUnavailable: it is not a regular file, or it belongs to another user and others can
            write to it.
        OSError: the file or a folder cannot be created.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):  # `parents=True` would create all but the last with 0777.
        files.make_private_folder(folder)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if not path.is_file():
        raise BackendUnavailable(
            f"{path} is {'a folder' if path.is_dir() else 'a device'} and not a file: set "
            "REPLICATE_MCP_BACKEND to sqlite:///a/path/state.db."
        )
    for each, found in _files_with_modes(path):
        if not files.is_owned(found) and found.st_mode & 0o022:
            raise BackendUnavailable(
                f"The state file {each} belongs to another user, and others can write to it: set "
                "REPLICATE_MCP_BACKEND to sqlite:///a/path/of/your/own, or let its owner run "
                f"`chmod 600 {each}`."
            )


def restrict_to_owner(path: Path) -> None:
    """Remove other users' access to a database that we own, and to the files beside it."""
    for each, found in _files_with_modes(path):
        if files.is_owned(found) and found.st_mode & 0o077:
            with suppress(FileNotFoundError):
                each.chmod(0o600)


def _files_with_modes(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for suffix in _SIDE_FILES if files.has_modes() else ():
        each = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError):  # SQLite may remove the others at any time.
            yield each, each.stat()
