"""The table of Replicate's cached responses."""

import sqlite3

from replicate_mcp.backends.space import MEMO_BYTES, memo_size


class CacheTable:
    """The table within one transaction, at one time."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._db = connection
        self._now = now

    def forget_old(self) -> None:
        """Delete expired responses."""
        self._db.execute("DELETE FROM memo WHERE expires_at < ?", (self._now,))

    def get(self, key: str) -> str | None:
        """Return a cached response; None if missing or expired."""
        row = self._db.execute(
            "SELECT value FROM memo WHERE key = ? AND expires_at > ?", (key, self._now)
        ).fetchone()
        return str(row[0]) if row else None

    def set(self, key: str, value: str, seconds: float) -> None:
        """Cache a response for `seconds`; delete the oldest if all together are too large."""
        size = memo_size(key, value)
        if size is None:
            return
        self._db.execute("DELETE FROM memo WHERE expires_at < ? OR key = ?", (self._now, key))
        (taken,) = self._db.execute("SELECT coalesce(sum(bytes), 0) FROM memo").fetchone()
        while taken + size > MEMO_BYTES:
            ((freed,),) = self._db.execute(
                "DELETE FROM memo WHERE number = (SELECT min(number) FROM memo) RETURNING bytes"
            ).fetchall()
            taken -= freed
        self._db.execute(
            "INSERT INTO memo (key, value, expires_at, bytes) VALUES (?, ?, ?, ?)",
            (key, value, self._now + seconds, size),
        )
