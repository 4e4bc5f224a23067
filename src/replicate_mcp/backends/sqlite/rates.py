"""The table of the accounts' rates, each as of its last change."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict

from replicate_mcp.semaphores.rate_limit import Rate


class RateTable:
    """The table within one transaction, at one time."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._db = connection
        self._now = now

    def of(self, accounts: Iterable[str]) -> dict[str, Rate]:
        """Return the current rates of `accounts`; accounts without one are missing."""
        rates = {}
        for account in accounts:
            row = self._db.execute(
                "SELECT state FROM rate WHERE account = ?", (account,)
            ).fetchone()
            if row:
                rates[account] = Rate.from_dict(json.loads(row[0])).refilled_at(self._now)
        return rates

    def store(self, account: str, rate: Rate) -> None:
        """Store an account's rate."""
        self._db.execute(
            "INSERT OR REPLACE INTO rate (account, state) VALUES (?, ?)",
            (account, json.dumps(asdict(rate))),
        )

    def declare(self, account: str, per_minute: float) -> None:
        """Apply a process's declared rate; the learned state stays."""
        self.store(account, self._known(account, per_minute).with_configured(per_minute, self._now))

    def set(self, account: str, per_minute: float) -> None:
        """Apply a rate that was set by hand; the learned state stays."""
        self.store(account, self._known(account, per_minute).with_manual(per_minute, self._now))

    def _known(self, account: str, per_minute: float) -> Rate:
        return self.of([account]).get(account) or Rate.initial(per_minute, self._now)
