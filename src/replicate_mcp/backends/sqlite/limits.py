"""The tables of limits: declared and set limits, and the usage of each semaphore."""

import sqlite3
from collections import Counter
from collections.abc import Collection

from replicate_mcp.backends.sqlite.rates import RateTable
from replicate_mcp.errors import UnknownSemaphore
from replicate_mcp.semaphores.names import (
    account_of,
    check_removable,
    is_account,
    unknown_semaphore,
)
from replicate_mcp.semaphores.permit_store import HolderUsage, SemaphoreState
from replicate_mcp.semaphores.rate_limit import Rate

_HELD = "permit WHERE ends_by IS NOT 0"
"""Permits and offers that take units."""


class LimitTables:
    """The tables within one transaction, for one holder at one time."""

    def __init__(self, connection: sqlite3.Connection, holder: str, now: float) -> None:
        self._db = connection
        self._holder = holder
        self._now = now
        self._rates = RateTable(connection, now)

    # Declared and set limits

    def declare_limit(self, semaphore: str, limit: int, per_minute: float) -> None:
        """Declare this process's limit and rate for an account."""
        self._declare(semaphore, limit)
        self._rates.declare(account_of(semaphore), per_minute)

    def set_rate(self, semaphore: str, per_minute: float) -> None:
        """Set an account's rate by hand."""
        self._rates.set(account_of(semaphore), per_minute)

    def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Register a name; its first limit stays."""
        self._db.execute(
            "INSERT OR IGNORE INTO semaphore (name, units) VALUES (?, ?)", (semaphore, limit)
        )
        self._declare(semaphore, self.known(semaphore))
        return next(state for state in self.states() if state.name == semaphore)

    def resize(self, semaphore: str, limit: int, *, by_admin: bool) -> None:
        """Set a limit by hand."""
        self.known(semaphore)
        self._db.execute(
            "INSERT INTO semaphore (name, units, by_admin) VALUES (?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET units = excluded.units, by_admin = max(by_admin, excluded.by_admin)",
            (semaphore, limit, by_admin),
        )

    def unset(self, semaphore: str) -> None:
        """Remove a limit that was set by hand: the declarations of living processes apply."""
        self.known(semaphore)
        (declared,) = self._db.execute(
            "SELECT min(units) FROM declaration WHERE name = ?", (semaphore,)
        ).fetchone()
        if is_account(semaphore):
            self._db.execute("DELETE FROM semaphore WHERE name = ?", (semaphore,))
        else:
            # A registered name keeps a limit of its own: later registrations do not change it.
            self._db.execute(
                "UPDATE semaphore SET by_admin = 0, units = coalesce(?, units) WHERE name = ?",
                (declared, semaphore),
            )
            self._forget_unused()

    def remove(self, semaphore: str) -> None:
        """Remove a name that is not in use."""
        self.known(semaphore)
        state = next(state for state in self.states() if state.name == semaphore)
        (others,) = self._db.execute(
            "SELECT count(*) FROM declaration WHERE name = ? AND holder != ?",
            (semaphore, self._holder),
        ).fetchone()
        # A batch without a process waits for it, whichever process takes it over.
        (batches,) = self._db.execute(
            "SELECT count(*) FROM queue WHERE holder = '' AND ? IN (semaphore, also)", (semaphore,)
        ).fetchone()
        waiting = state.waiting + batches
        check_removable(semaphore, in_use=state.in_use, waiting=waiting, processes=others)
        self._db.execute("DELETE FROM declaration WHERE name = ?", (semaphore,))
        self._db.execute("DELETE FROM semaphore WHERE name = ?", (semaphore,))
        self._db.execute("DELETE FROM queue WHERE ? IN (semaphore, also)", (semaphore,))

    def keep_name(self, semaphore: str) -> None:
        """Declare a name that an entry waits for, so that it lives as long as this process."""
        self._db.execute(
            "INSERT OR IGNORE INTO declaration (holder, name, units) VALUES (?, ?, ?)",
            (self._holder, semaphore, self.known(semaphore)),
        )

    def forget(self, holder: str) -> None:
        """Remove a process's declarations, and the names that only it kept alive."""
        self._db.execute("DELETE FROM declaration WHERE holder = ?", (holder,))
        self._forget_unused()

    def _forget_unused(self) -> None:
        """Remove unused names that were not set by an admin."""
        self._db.execute(
            "DELETE FROM semaphore WHERE NOT by_admin"
            " AND name NOT IN (SELECT name FROM declaration)"
            f" AND name NOT IN (SELECT semaphore FROM {_HELD})"
            f" AND name NOT IN (SELECT also FROM {_HELD} AND also IS NOT NULL)"
            " AND name NOT IN (SELECT semaphore FROM queue)"
            " AND name NOT IN (SELECT also FROM queue WHERE also IS NOT NULL)"
        )

    def _declare(self, semaphore: str, limit: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO declaration (holder, name, units) VALUES (?, ?, ?)",
            (self._holder, semaphore, limit),
        )

    # Queries

    def all(self) -> dict[str, int]:
        """Return every name's limit: the one that was set, else the lowest declared one."""
        limits = dict(self._db.execute("SELECT name, min(units) FROM declaration GROUP BY name"))
        limits.update(self._db.execute("SELECT name, units FROM semaphore"))
        return limits

    def of(self, names: Collection[str]) -> dict[str, int]:
        """Return the limits of `names`, without reading all others; unknown names are missing."""
        marks = ", ".join("?" * len(names))
        limits = dict(
            self._db.execute(
                # By holder, which the primary key begins with: there are few holders.
                "SELECT name, min(units) FROM holder CROSS JOIN declaration"
                f" ON declaration.holder = holder.id WHERE name IN ({marks}) GROUP BY name",
                tuple(names),
            )
        )
        limits.update(
            self._db.execute(
                f"SELECT name, units FROM semaphore WHERE name IN ({marks})", tuple(names)
            )
        )
        return limits

    def known(self, semaphore: str) -> int:
        """Return a name's limit.

        Raises:
            UnknownSemaphore: the name is not registered.
        """
        limits = self.of([semaphore])
        if semaphore not in limits:
            raise UnknownSemaphore(unknown_semaphore(semaphore, self.all()))
        return limits[semaphore]

    def in_use(self) -> Counter[str]:
        """Return the units in use of each name, by permits or by offers."""
        used: Counter[str] = Counter()
        for semaphore, also, count in self._db.execute(
            f"SELECT semaphore, also, count(*) FROM {_HELD} GROUP BY semaphore, also"
        ):
            used[semaphore] += count
            if also:
                used[also] += count
        return used

    def states(self) -> list[SemaphoreState]:
        """Return the state of every semaphore."""
        used = self.in_use()
        waiting: Counter[str] = Counter()
        for semaphore, also, count in self._db.execute(
            "SELECT semaphore, also, waiting FROM queue"
        ):
            waiting[semaphore] += count
            if also:
                waiting[also] += count
        limits = self.all()
        rates = self._rates.of([account_of(name) for name in limits if is_account(name)])
        return [
            self._state(name, limit, used[name], waiting[name], rates.get(account_of(name)))
            for name, limit in sorted(limits.items())
        ]

    def usage_by_holder(self) -> list[HolderUsage]:
        """Return the units in use and the waiting starts by holder and semaphore."""
        labels = dict(self._db.execute("SELECT id, label FROM holder"))
        in_use: Counter[tuple[str, str]] = Counter()
        waiting: Counter[tuple[str, str]] = Counter()
        for table, what, counted in (
            (_HELD, "count(*)", in_use),
            ("queue WHERE holder != ''", "sum(waiting)", waiting),
        ):
            for holder, semaphore, also, count in self._db.execute(
                f"SELECT holder, semaphore, also, {what} FROM {table}"
                " GROUP BY holder, semaphore, also"
            ):
                for name in filter(None, (semaphore, also)):
                    counted[name, labels.get(holder, "")] += count
        return [
            HolderUsage(label, name, in_use[name, label], waiting[name, label])
            for name, label in sorted(in_use.keys() | waiting.keys())
        ]

    def _state(
        self, name: str, limit: int, used: int, waiting: int, rate: Rate | None
    ) -> SemaphoreState:
        if rate is None or not is_account(name):
            return SemaphoreState(name, limit, used, waiting)
        paused = rate.paused_until - self._now
        return SemaphoreState(
            name, limit, used, waiting, rate.per_minute, paused if paused > 0 else None
        )
