"""Detection of dead processes that shared a file: each process holds a lock while it lives."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform.files import lock_file_mode


class LifeLock:
    """A process's lock beside a shared file; the system releases it when the process dies.

    Args:
        location: the path of the shared file.
        holder: the id of this process.

    Raises:
        BackendUnavailable: locks do not work there.
    """

    def __init__(self, location: str, holder: str) -> None:
        self._location = location
        self._lock = FileLock(self._path(holder), mode=lock_file_mode())
        try:
            self._lock.acquire(blocking=False)
        except (OSError, Timeout) as error:
            raise BackendUnavailable(
                f"The lock {self._lock.lock_file} cannot be held ({error}): set "
                "REPLICATE_MCP_BACKEND to sqlite:///a/path/on/a/local/disk, or to memory."
            ) from error

    def dead(self, others: Sequence[str]) -> list[str]:
        """Return the processes that are dead, as far as their locks can be opened.

        Windows retries a lock to which access is denied for half a second: call this in a thread.
        """
        return [other for other in others if is_dead(self._location, other)]

    def clear(self, other: str) -> None:
        """Remove the lock file of a dead process."""
        _unlink(self._path(other))

    def release(self) -> None:
        """Release the lock and remove its file."""
        self._lock.release()
        _unlink(self._lock.lock_file)

    def _path(self, holder: str) -> str:
        return _lock_file(self._location, holder)


def is_dead(location: str, holder: str) -> bool:
    """Return whether a process that shared a file is dead, as far as its lock can be opened."""
    path = _lock_file(location, holder)
    lock = FileLock(path)
    try:
        if not Path(path).exists():  # It has left; acquiring the lock would create the file anew.
            return True
        lock.acquire(blocking=False)
    except (Timeout, OSError):
        return False
    lock.release()
    return True


def _lock_file(location: str, holder: str) -> str:
    return f"{location}.{holder}.lock"


def _unlink(path: str) -> None:
    # On Windows the file stays while another process has it open, which is harmless.
    with suppress(OSError):
        Path(path).unlink()
