"""The table of requested images by day, which an account's quota limits."""

import sqlite3
from collections.abc import Mapping

from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.semaphores.daily_quota import day_of


class UsageTable:
    """The table within one transaction, at one time."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._db = connection
        self._now = now

    def beyond_the_day(
        self, attempts: Mapping[int, Attempt], images_per_day: int | None
    ) -> list[int]:
        """Return the offers of one account whose attempts exceed the daily quota.

        An offer that was withdrawn uses none of it.
        """
        if images_per_day is None:
            return []
        marks = ", ".join("?" * len(attempts))
        asked_for = dict(
            self._db.execute(
                "SELECT permit.id, coalesce(usage.images, 0) FROM permit"
                " LEFT JOIN usage ON usage.account = permit.account AND usage.day = ?"
                f" WHERE permit.id IN ({marks}) AND permit.taken_at IS NULL",
                (day_of(self._now), *attempts),
            )
        )
        left = images_per_day - max(asked_for.values(), default=0)
        beyond = []
        for permit, attempt in attempts.items():
            if permit in asked_for and attempt.images > left:
                beyond.append(permit)
            elif permit in asked_for:
                left -= attempt.images
        return beyond

    def count(self, permit: int, images: int) -> None:
        """Add images to the day on which the permit was taken; a negative number subtracts."""
        self._db.execute(
            "INSERT INTO usage (account, day, images)"
            " SELECT account, CAST(taken_at / 86400 AS INTEGER), ? FROM permit"
            " WHERE id = ? AND account IS NOT NULL"
            " ON CONFLICT (account, day) DO UPDATE SET images = images + excluded.images",
            (images, permit),
        )

    def uncount(self, permit: int) -> None:
        """Subtract the permit's images, because none were requested after all."""
        row = self._db.execute("SELECT images FROM permit WHERE id = ?", (permit,)).fetchone()
        if row and row[0]:
            self.count(permit, -row[0])
