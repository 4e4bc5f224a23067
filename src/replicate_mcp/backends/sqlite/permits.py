"""The tables of holders, the queue and permits, and the operations on them."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from replicate_mcp.backends.sqlite.limits import LimitTables
from replicate_mcp.backends.sqlite.rates import RateTable
from replicate_mcp.backends.sqlite.usage import UsageTable
from replicate_mcp.batches.attempt_store import Attempt, AttemptRecord, RecordedAttempts
from replicate_mcp.replicate_api.attempt_matching import (
    SETTLED_WITHIN_SECONDS,
    distinct_cancel_after,
)
from replicate_mcp.semaphores.adaptive_rate import Throttling, on_sent, on_throttled
from replicate_mcp.semaphores.admission import (
    OFFER_STALE_SECONDS,
    OFFER_TTL_SECONDS,
    Entry,
    admit,
)
from replicate_mcp.semaphores.daily_quota import seconds_until_reset
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer, QueueEntry
from replicate_mcp.semaphores.rate_limit import Rate

_ORPHANED = "holder NOT IN (SELECT id FROM holder)"
"""Matches permits whose process is dead."""


class PermitTables:
    """The tables within one transaction, for one holder at one time."""

    def __init__(self, connection: sqlite3.Connection, holder: str, now: float) -> None:
        self._db = connection
        self._holder = holder
        self._now = now
        self.limits = LimitTables(connection, holder, now)
        self._rates = RateTable(connection, now)
        self._usage = UsageTable(connection, now)
        self.ports_to_ring: set[int] = set()

    # Holders

    def add_holder(self, port: int, label: str) -> None:
        """Register this process."""
        self._db.execute(
            "INSERT INTO holder (id, port, label) VALUES (?, ?, ?)", (self._holder, port, label)
        )

    def other_holders(self, *, with_work: bool = False) -> list[str]:
        """Return the other registered processes, living or dead.

        Args:
            with_work: return only those with permits, queue entries or unfinished batches.
        """
        holders = "SELECT id FROM holder WHERE id != ?"
        if with_work:
            holders += (
                " AND (id IN (SELECT holder FROM permit) OR id IN (SELECT holder FROM queue)"
                " OR id IN (SELECT holder FROM batch WHERE ended_at IS NULL))"
            )
        return [holder for (holder,) in self._db.execute(holders, (self._holder,))]

    def remove_holder(self, holder: str) -> None:
        """Remove a process and all its state except the permits of its predictions.

        The entries of batches that another process may resume keep their turn.
        """
        self._withdraw("holder = ?", (holder,))
        waiting = self._db.execute(
            "UPDATE queue SET holder = '', waiting = 0 WHERE entry IN"
            " (SELECT id FROM batch WHERE holder = ? AND ended_at IS NULL AND resumable)",
            (holder,),
        ).rowcount
        self._db.execute("DELETE FROM queue WHERE holder = ?", (holder,))
        self._db.execute("DELETE FROM holder WHERE id = ?", (holder,))
        self._db.execute("DELETE FROM permit WHERE holder = ? AND task IS NULL", (holder,))
        self.limits.forget(holder)
        if waiting:
            ports = self._db.execute("SELECT port FROM holder WHERE id != ?", (self._holder,))
            self.ports_to_ring.update(port for (port,) in ports)

    def release_ended_orphans(self) -> list[tuple[str, int, str | None]]:
        """Release the units of dead holders' predictions that must have ended by now.

        Their attempts stay for recovery, and are deleted once they are settled or too old to be.

        Returns:
            Batch, task and prediction, if known, of the attempts that were deleted.
        """
        self._db.execute(
            f"UPDATE permit SET ends_by = 0 WHERE ends_by > 0 AND ends_by < ? AND {_ORPHANED}",
            (self._now,),
        )
        rows = self._db.execute(
            f"DELETE FROM permit WHERE ends_by = 0 AND {_ORPHANED} AND (taken_at < ? OR EXISTS"
            " (SELECT 1 FROM result WHERE batch = entry AND result.task = permit.task))"
            " RETURNING entry, task,"
            " (SELECT prediction.id FROM prediction WHERE prediction.permit = permit.id)",
            (self._now - SETTLED_WITHIN_SECONDS,),
        )
        return list(rows)

    # The queue

    def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Add an entry to the queue, or starts to an entry."""
        for semaphore in entry.semaphores:
            self.limits.keep_name(semaphore)
        self._db.execute(
            "INSERT INTO queue (entry, holder, semaphore, also, account, waiting, at_most, turn)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(turn), 0) + 1 FROM queue))"
            " ON CONFLICT (entry) DO UPDATE SET waiting = waiting + excluded.waiting"
            " WHERE holder = excluded.holder",
            (
                entry.id, self._holder, entry.semaphores[0], _second(entry.semaphores),
                entry.account, entry.waiting, entry.max_running,
            ),
        )  # fmt: skip
        return self.admit()

    def dequeue(self, entry: str, count: int | None) -> AdmissionResult:
        """Remove `count` starts from an entry of this process, or the whole entry."""
        row = self._db.execute(
            "SELECT waiting FROM queue WHERE entry = ? AND holder = ?", (entry, self._holder)
        ).fetchone()
        if row and count is None:
            self.leave_queue(entry)
        elif row and count is not None:
            offered = max(0, count - row[0])
            self._withdraw(
                "id IN (SELECT id FROM permit WHERE entry = ? AND taken_at IS NULL"
                " ORDER BY id DESC LIMIT ?)",
                (entry, offered),
            )
            self._wait_more(entry, -count)
        return self.admit()

    def leave_queue(self, entry: str) -> None:
        """Remove an entry and its offers."""
        self._withdraw("entry = ?", (entry,))
        self._db.execute("DELETE FROM queue WHERE entry = ?", (entry,))

    def take_over(self, entry: str) -> QueueEntry:
        """Make this process the holder of an entry without one."""
        ((semaphore, also, account, at_most),) = self._db.execute(
            "UPDATE queue SET holder = ? WHERE entry = ?"
            " RETURNING semaphore, also, account, at_most",
            (self._holder, entry),
        ).fetchall()
        semaphores = (semaphore, also) if also else (semaphore,)
        return QueueEntry(entry, semaphores, account, waiting=0, max_running=at_most)

    def accept_offers(self, permits: Iterable[int]) -> tuple[frozenset[int], AdmissionResult]:
        """Turn offers into permits."""
        taken: set[int] = set()
        oldest = self._now
        for permit in permits:
            rows = self._db.execute(
                "UPDATE permit SET taken_at = ? WHERE id = ? AND holder = ? AND taken_at IS NULL"
                " RETURNING offered_at",
                (self._now, permit, self._holder),
            ).fetchall()
            if rows:
                taken.add(permit)
                oldest = min(oldest, rows[0][0])
        # Late acceptance of its offers had stalled this holder: run the admission.
        stalled = self._now - oldest > OFFER_STALE_SECONDS
        return frozenset(taken), self.admit() if stalled else AdmissionResult()

    def record_attempts(
        self, attempts: Mapping[int, Attempt], images_per_day: int | None
    ) -> RecordedAttempts:
        """Turn offers into permits, each with its attempt."""
        beyond = self._usage.beyond_the_day(attempts, images_per_day)
        for permit in beyond:
            self._withdraw("id = ?", (permit,))
        taken, admission = self.accept_offers(attempts)
        chosen: dict[int, int] = {}
        for permit, attempt in attempts.items():
            if permit not in taken:
                continue
            inputs = json.dumps(attempt.inputs, sort_keys=True)
            equal = self._db.execute(
                "SELECT cancel_after FROM permit WHERE inputs = ? AND model = ? AND account ="
                " (SELECT account FROM permit WHERE id = ?)",
                (inputs, attempt.model, permit),
            )
            seconds = distinct_cancel_after(attempt.cancel_after, {used for (used,) in equal})
            chosen[permit] = seconds
            self._db.execute(
                "UPDATE permit SET task = ?, model = ?, inputs = ?, cancel_after = ?, sent_at = ?,"
                " ends_by = ?, images = ? WHERE id = ?",
                (
                    attempt.task, attempt.model, inputs, seconds, attempt.sent_at,
                    self._now + attempt.max_seconds, attempt.images, permit,
                ),
            )  # fmt: skip
            self._usage.count(permit, attempt.images)
        self._note_sent(taken)
        return RecordedAttempts(
            chosen, admission, seconds_until_reset(self._now) if beyond else None
        )

    def requeue(self, permit: int, throttling: Throttling | None) -> AdmissionResult:
        """Release the permit and requeue its task; adapt the rate to a 429."""
        self._usage.uncount(permit)
        rows = self._db.execute(
            "DELETE FROM permit WHERE id = ? RETURNING entry, account, taken_at", (permit,)
        ).fetchall()
        for entry, account, taken_at in rows:
            if self._is_holder_of(entry):
                self._wait_more(entry, 1)
            if throttling and account:
                rate = self._rates.of([account])[account]
                self._rates.store(account, on_throttled(rate, throttling, sent_at=taken_at))
        return self.admit()

    def give_back(self, permit: int) -> tuple[str, int] | None:
        """Release the permit of an attempt that created nothing.

        Returns:
            Batch and task of the attempt; None if there is no such permit.
        """
        self._usage.uncount(permit)
        rows = self._db.execute(
            "DELETE FROM permit WHERE id = ? RETURNING entry, task", (permit,)
        ).fetchall()
        return next(iter(rows), None)

    def free(self, permit: int, *, counts_images: bool = True) -> None:
        """Release a permit; subtract its images from the daily count if none were requested."""
        if not counts_images:
            self._usage.uncount(permit)
        self._db.execute("DELETE FROM permit WHERE id = ?", (permit,))

    def open_attempts(self, account: str, *, orphaned: bool = False) -> list[AttemptRecord]:
        """Return the account's attempts, oldest first; with `orphaned`, only orphaned ones."""
        rows = self._db.execute(
            "SELECT permit.id, entry, task, model, inputs, cancel_after, sent_at, prediction.id"
            " FROM permit LEFT JOIN prediction ON prediction.permit = permit.id"
            " WHERE permit.account = ? AND task IS NOT NULL"
            + (f" AND {_ORPHANED}" if orphaned else "")
            + " ORDER BY permit.id",
            (account,),
        )
        return [
            AttemptRecord(
                permit, batch, task, model, json.loads(inputs), after, sent_at, prediction
            )
            for permit, batch, task, model, inputs, after, sent_at, prediction in rows
        ]

    def adopt(self, permit: int) -> bool:
        """Make this process the holder of an orphaned permit."""
        return bool(
            self._db.execute(
                f"UPDATE permit SET holder = ? WHERE id = ? AND {_ORPHANED}",
                (self._holder, permit),
            ).rowcount
        )

    def abandon(self, permit: int) -> None:
        """Leave a permit without a holder."""
        self._db.execute("UPDATE permit SET holder = '' WHERE id = ?", (permit,))

    # Admission

    def admit(self) -> AdmissionResult:
        """Withdraw expired offers, run the admission, and return this holder's offers."""
        # An offer from the future was made before the clock was set back.
        self._withdraw(
            "(offered_at < ? OR offered_at > ?)",
            (self._now - OFFER_TTL_SECONDS, self._now + 1),
            stalled=True,
        )
        rows = self._db.execute(
            "SELECT entry, holder, semaphore, also, account, waiting, at_most FROM queue"
            " WHERE waiting > 0 ORDER BY turn"
        ).fetchall()
        next_at = self._decide(rows) if rows else None
        offers = self._db.execute(
            "SELECT id, entry FROM permit WHERE holder = ? AND taken_at IS NULL ORDER BY id",
            (self._holder,),
        )
        return AdmissionResult(
            tuple(Offer(permit, entry) for permit, entry in offers),
            None if next_at is None else max(0.0, next_at - self._now),
        )

    def _decide(
        self, rows: Sequence[tuple[str, str, str, str | None, str | None, int, int | None]]
    ) -> float | None:
        limited = [row[0] for row in rows if row[6] is not None]
        running = self._running(limited) if limited else {}
        queue = [
            Entry(entry, holder, (semaphore, also) if also else (semaphore,), account,
                  waiting, running.get(entry, 0), at_most)
            for entry, holder, semaphore, also, account, waiting, at_most in rows
        ]  # fmt: skip
        used = self.limits.in_use()
        limits = self.limits.of({name for entry in queue for name in entry.semaphores})
        free = {name: limit - used[name] for name, limit in limits.items()}
        rates = self._rates.of({entry.account for entry in queue if entry.account})
        offered = self._db.execute(
            "SELECT holder, min(offered_at) FROM permit WHERE taken_at IS NULL GROUP BY holder"
        ).fetchall()
        late = {holder for holder, at in offered if at < self._now - OFFER_STALE_SECONDS}
        decision = admit(queue, free, rates, stalled=late | self._stalled(), now=self._now)
        if decision.grants:
            self._offer(decision.grants, {entry.id: entry for entry in queue}, rates)
        withdrawals = [at + OFFER_TTL_SECONDS + 0.001 for holder, at in offered if holder in late]
        return min([*withdrawals, *([decision.next_at] if decision.next_at else [])], default=None)

    def _offer(
        self, grants: Sequence[str], queue: Mapping[str, Entry], rates: Mapping[str, Rate]
    ) -> None:
        entries = [queue[grant] for grant in grants]
        self._db.executemany(
            "INSERT INTO permit (entry, holder, semaphore, also, account, offered_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (e.id, e.holder, e.semaphores[0], _second(e.semaphores), e.account, self._now)
                for e in entries
            ],
        )
        turn = self._db.execute("SELECT max(turn) FROM queue").fetchone()[0]
        last_turn = {entry.id: turn + place for place, entry in enumerate(entries, 1)}
        counts = Counter(entry.id for entry in entries)
        self._db.executemany(
            "UPDATE queue SET waiting = waiting - ?, turn = ? WHERE entry = ?",
            [(counts[entry], place, entry) for entry, place in last_turn.items()],
        )
        spent = Counter(entry.account for entry in entries if entry.account)
        for account, count in spent.items():
            self._rates.store(account, rates[account].consume(count))
        others = {entry.holder for entry in entries} - {self._holder}
        for holder in others:
            row = self._db.execute("SELECT port FROM holder WHERE id = ?", (holder,)).fetchone()
            if row:
                self.ports_to_ring.add(row[0])

    def _withdraw(self, which: str, values: tuple[object, ...], *, stalled: bool = False) -> None:
        """Withdraw offers that were not accepted: requeue their starts, and refund their slots."""
        rows = self._db.execute(
            f"DELETE FROM permit WHERE taken_at IS NULL AND {which}"
            " RETURNING entry, account, holder",
            values,
        ).fetchall()
        if not rows:
            return
        for entry, count in Counter(entry for entry, _, _ in rows).items():
            self._wait_more(entry, count)
        returned = Counter(account for _, account, _ in rows if account)
        for account, rate in self._rates.of(returned).items():
            self._rates.store(account, rate.refund(returned[account]))
        if stalled:
            holders = {(holder,) for _, _, holder in rows}
            self._db.executemany("UPDATE holder SET stalled = 1 WHERE id = ?", holders)

    def _stalled(self) -> set[str]:
        """Return the holders whose offers expired; this one resumes, as its transaction shows."""
        holders = {row[0] for row in self._db.execute("SELECT id FROM holder WHERE stalled")}
        if self._holder in holders:
            holders.discard(self._holder)
            self._db.execute("UPDATE holder SET stalled = 0 WHERE id = ?", (self._holder,))
        return holders

    # Small reads and writes

    def _is_holder_of(self, entry: str) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM queue WHERE entry = ? AND holder = ?", (entry, self._holder)
        )
        return found.fetchone() is not None

    def _wait_more(self, entry: str, count: int) -> None:
        self._db.execute(
            "UPDATE queue SET waiting = max(0, waiting + ?) WHERE entry = ?", (count, entry)
        )

    def _running(self, entries: Sequence[str]) -> dict[str, int]:
        marks = ", ".join("?" * len(entries))
        return dict(
            self._db.execute(
                f"SELECT entry, count(*) FROM permit WHERE entry IN ({marks})"
                " AND ends_by IS NOT 0 GROUP BY entry",
                entries,
            )
        )

    def _note_sent(self, permits: Iterable[int]) -> None:
        marks = ", ".join(map(str, permits))
        rows = self._db.execute(
            f"SELECT account, count(*) FROM permit WHERE id IN ({marks}) AND account IS NOT NULL"
            " GROUP BY account"
        ).fetchall()
        for account, count in rows:
            self._rates.store(account, on_sent(self._rates.of([account])[account], count))


def _second(semaphores: Sequence[str]) -> str | None:
    return semaphores[1] if len(semaphores) > 1 else None
