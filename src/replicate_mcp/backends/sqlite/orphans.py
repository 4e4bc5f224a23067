"""Whether dead processes left attempts in a state file, read without joining those that use it.

An idle server asks this, so nothing is imported before there is a file, and a lock to test.
"""

from contextlib import closing
from pathlib import Path

_ATTEMPTS = "SELECT holder FROM permit WHERE task IS NOT NULL"
_RESUMABLE = " UNION SELECT holder FROM batch WHERE resumable AND ended_at IS NULL"


def has_orphans(path: Path, *, resumes: bool = False) -> bool:
    """Return whether a state file has attempts to recover: those whose process is dead.

    With `resumes`, batches that this process may resume count as well.

    A missing file has none, and is not created. Where the file cannot be read, the answer is True,
    since opening it says why. Call this in a thread: SQLite may wait for another process.
    """
    try:
        if not path.exists():
            return False
    except OSError:  # Its folder may not be read.
        return True
    import sqlite3

    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            query = _ATTEMPTS + (_RESUMABLE if resumes else "")
            holders = set(connection.execute(query).fetchall())
    except sqlite3.Error:
        return True
    if not holders:
        return False
    from replicate_mcp.backends.sqlite.liveness_lock import is_dead

    return any(is_dead(str(path), holder) for (holder,) in holders)
