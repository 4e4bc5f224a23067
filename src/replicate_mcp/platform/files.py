"""Private files and folders, and files that other programs hold open for a moment."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from replicate_mcp.platform.system import IS_WINDOWS

T = TypeVar("T")

HELD_RETRY_SECONDS = 1.0
"""Time for which an operation on a file is retried on Windows: virus scanners and indexers open
new files, which cannot be renamed, replaced or removed until they are closed."""

HELD_PAUSE_SECONDS = 0.05


def has_modes() -> bool:
    """Return whether files have POSIX modes; on Windows a user's own folders are private anyway."""
    return not IS_WINDOWS


def make_private_folder(path: Path) -> None:
    """Create one folder that only its user can open, unless it exists.

    No mode is set on Windows: in a folder that an administrator creates, 0700 would lock the user
    out (https://github.com/python/cpython/issues/157876).
    """
    if has_modes():
        path.mkdir(mode=0o700, exist_ok=True)
    else:
        path.mkdir(exist_ok=True)


def lock_file_mode() -> int:
    """Return the mode for a `filelock.FileLock` that only its user can open.

    On Windows the mode restricts nothing, for the same reason as in `make_private_folder`.
    """
    return 0o600 if has_modes() else 0o666


def is_readable_by_others(path: Path) -> bool:
    """Return whether the mode of an existing file gives other users any permission."""
    return has_modes() and path.exists() and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def is_owned(found: os.stat_result) -> bool:
    """Return whether a file belongs to this process's user."""
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def remove_file(path: Path) -> None:
    """Remove a file if it exists; on Windows also a read-only one, or one held for a moment."""

    def remove() -> None:
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            if IS_WINDOWS:
                path.chmod(stat.S_IWRITE)
            raise

    retry_while_held(remove)


def retry_while_held(step: Callable[[], T]) -> T:
    """Return `step()`; on Windows retry it while another program holds the file.

    Blocks for up to `HELD_RETRY_SECONDS`: call it in a thread where that matters.

    Raises:
        PermissionError: the file is still held, or was never accessible.
    """
    end = time.monotonic() + HELD_RETRY_SECONDS
    while True:
        try:
            return step()
        except PermissionError:
            if not IS_WINDOWS or time.monotonic() > end:
                raise
        time.sleep(HELD_PAUSE_SECONDS)
