"""Configuration file of another program, replaced atomically with a backup."""

import contextlib
import os
import secrets
import stat
from datetime import datetime
from pathlib import Path

from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import files

PRIVATE_MODE = 0o600
"""Mode of files with secrets, and of all new files and backups: accessible to the owner only."""


class ConfigFile:
    """Configuration file and its content when it was read.

    Attributes:
        path: path of the file, with links resolved.
        text: text without a byte order mark; empty if the file is missing.
        has_mark: whether the file begins with a byte order mark, which not every host accepts.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidInput: the file cannot be read.
        """
        self.path = path.resolve()
        try:
            self._bytes: bytes | None = self.path.read_bytes()
            text = (self._bytes or b"").decode("utf-8")
        except FileNotFoundError:
            self._bytes, text = None, ""
        except UnicodeDecodeError:
            raise InvalidInput(f"{self.path} is not UTF-8 text; nothing was changed.") from None
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be read: {error.strerror}.") from None
        self.has_mark = text.startswith("\ufeff")
        self.text = text.removeprefix("\ufeff")

    def replace(self, text: str, *, holds_secret: bool) -> Path | None:
        """Replace the file's text, writing no byte order mark; return the backup's path, if any.

        Args:
            text: new text of the file.
            holds_secret: whether to remove other users' permissions; otherwise the mode is kept.

        Raises:
            InvalidInput: the file cannot be written, or has changed since it was read.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check_unchanged()
            mode = PRIVATE_MODE
            backup = None
            if self._bytes is not None:
                mode = stat.S_IMODE(self.path.stat().st_mode)
                # The old text may hold secrets too, of this server or of others.
                backup = self._write_beside(self._bytes, mode & PRIVATE_MODE)
                backup = self._replace(backup, self._backup_path())
                if holds_secret:
                    mode &= PRIVATE_MODE
            written = self._write_beside(text.encode(), mode)
            try:
                self._check_unchanged()
                self._replace(written, self.path)
            except BaseException:
                files.remove_file(written)
                raise
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written: {error.strerror}.") from None
        return backup

    def is_open_to_others(self) -> bool:
        """Return whether the file's mode gives other users any permission."""
        return files.is_readable_by_others(self.path)

    @staticmethod
    def _replace(written: Path, target: Path) -> Path:
        try:
            return files.retry_while_held(lambda: written.replace(target))
        except BaseException:  # the file may hold secrets
            files.remove_file(written)
            raise

    def _check_unchanged(self) -> None:
        now = None
        with contextlib.suppress(FileNotFoundError):
            now = self.path.read_bytes()
        if now != self._bytes:
            raise InvalidInput(
                f"{self.path} has been changed by another program just now; nothing was written. "
                "Try again."
            )

    def _write_beside(self, content: bytes, mode: int) -> Path:
        written = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        # Not `tempfile`: on Windows it tries 10,000 names in a folder that is not writable.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(written, flags, PRIVATE_MODE)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            written.chmod(mode)
        except BaseException:
            files.remove_file(written)
            raise
        return written

    def _backup_path(self) -> Path:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        return self.path.with_name(f"{self.path.name}.{stamp}.bak")
