"""The table of images asked for by day, of which an account may have a cap."""

import sqlite3
from collections.abc import Mapping

from replicate_mcp.batches.backend import Attempt
from replicate_mcp.semaphores.daily_cap import day_of


class UsageTable:
    """One step's view of the table, at one time."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._db = connection
        self._now = now

    def fitting(self, attempts: Mapping[int, Attempt], images_per_day: int | None) -> list[int]:
        """The offers of one account whose attempts still fit into the day, in their order."""
        if images_per_day is None or not attempts:
            return list(attempts)
        row = self._db.execute(
            "SELECT images FROM usage WHERE day = ? AND account ="
            " (SELECT account FROM permit WHERE id = ?)",
            (day_of(self._now), next(iter(attempts))),
        ).fetchone()
        left = images_per_day - (row[0] if row else 0)
        fitting = []
        for permit, attempt in attempts.items():
            if attempt.images <= left:
                left -= attempt.images
                fitting.append(permit)
        return fitting

    def count(self, permit: int, images: int) -> None:
        """Count images on the day on which the permit was taken; a negative number, off it."""
        self._db.execute(
            "INSERT INTO usage (account, day, images)"
            " SELECT account, CAST(taken_at / 86400 AS INTEGER), ? FROM permit"
            " WHERE id = ? AND account IS NOT NULL"
            " ON CONFLICT (account, day) DO UPDATE SET images = images + excluded.images",
            (images, permit),
        )

    def uncount(self, permit: int) -> None:
        """Nothing was asked for with that permit after all."""
        row = self._db.execute("SELECT images FROM permit WHERE id = ?", (permit,)).fetchone()
        if row and row[0]:
            self.count(permit, -row[0])
