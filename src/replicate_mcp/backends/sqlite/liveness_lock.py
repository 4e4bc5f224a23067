"""How processes that share a file know who of them lives: each holds a lock while it does."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform.files import lock_file_mode


class LifeLock:
    """One process's lock beside a shared file; the system frees it when the process dies.

    Args:
        location: the shared file.
        holder: the id by which the others know this process.

    Raises:
        BackendUnavailable: locks cannot be held there.
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
        """Return which of the processes are gone, as far as their locks can be opened.

        A lock that Windows denies access to is tried for half a second: call this in a thread.
        """
        return [other for other in others if self._is_dead(other)]

    def _is_dead(self, other: str) -> bool:
        lock = FileLock(self._path(other))
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            return False
        lock.release()
        return True

    def clear(self, other: str) -> None:
        """Take away the file that a dead process has left."""
        _unlink(self._path(other))

    def release(self) -> None:
        """This process leaves."""
        self._lock.release()
        _unlink(self._lock.lock_file)

    def _path(self, holder: str) -> str:
        return f"{self._location}.{holder}.lock"


def _unlink(path: str) -> None:
    # On Windows it stays as long as another process has it open: that does no harm.
    with suppress(OSError):
        Path(path).unlink()
