"""The table of the accounts' rates: each is kept as it was when it last changed."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict

from replicate_mcp.semaphores.rate_limit import Rate


class RateTable:
    """One step's view of the table, at one time."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._db = connection
        self._now = now

    def of(self, accounts: Iterable[str]) -> dict[str, Rate]:
        """The rates of those accounts that have one, as they stand now."""
        rates = {}
        for account in accounts:
            row = self._db.execute(
                "SELECT state FROM rate WHERE account = ?", (account,)
            ).fetchone()
            if row:
                rates[account] = Rate.from_dict(json.loads(row[0])).refilled_at(self._now)
        return rates

    def store(self, account: str, rate: Rate) -> None:
        """Keep an account's rate."""
        self._db.execute(
            "INSERT OR REPLACE INTO rate (account, state) VALUES (?, ?)",
            (account, json.dumps(asdict(rate))),
        )

    def declare(self, account: str, per_minute: float) -> None:
        """What a process says the account is allowed; what was learned of it stays."""
        self.store(account, self._known(account, per_minute).with_configured(per_minute, self._now))

    def set(self, account: str, per_minute: float) -> None:
        """What was set by hand; what was learned stays."""
        self.store(account, self._known(account, per_minute).with_manual(per_minute, self._now))

    def _known(self, account: str, per_minute: float) -> Rate:
        return self.of([account]).get(account) or Rate.initial(per_minute, self._now)
