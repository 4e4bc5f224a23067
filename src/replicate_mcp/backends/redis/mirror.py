"""What this process has at a Redis server, kept here too: it is said again when it was forgotten.

A server that was restarted, failed over or emptied may have forgotten everything, or remember an
older state. What counts is what each living process says that it has.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicate_mcp.backends.redis.encoding import (
    Row,
    attempt_fingerprint,
    encode_batch,
    encode_entry,
    encode_inputs,
)
from replicate_mcp.batches.backend import Attempt, NewBatch
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.semaphores.permit_store import QueueEntry

ENDED_BATCH_TTL_SECONDS = 3600.0
"""For how long an ended batch is kept, in case that a server comes back with an older state: by
then it has saved a newer one (by default, within the hour in which anything changed)."""

MAX_ENDED_BATCH_BYTES = 32 * 1024**2
"""What ended batches take at most in this process's memory, with their results."""


@dataclass(slots=True)
class MirroredEntry:
    """An entry in the queue; `wanted` counts its starts that wait or are offered."""

    entry: QueueEntry
    wanted: int

    def encode(self) -> dict[str, Any]:
        """As the server takes it."""
        return encode_entry(self.entry, self.wanted)


@dataclass(slots=True)
class MirroredPermit:
    """A permit that this process holds; without `task`, a context's. Times are the server's."""

    entry: str
    semaphores: Sequence[str]
    account: str | None
    limited: bool
    taken_at: float
    task: int | None = None
    cancel_after: int = 0
    fingerprint: str = ""
    ends_by: float = 0.0
    images: int = 0
    prediction: str | None = None
    model: str = ""
    inputs: str = ""
    sent_at: float = 0.0

    @classmethod
    def decode(cls, fields: Sequence[Any]) -> "MirroredPermit":
        """One that the server told of, as `permits.told` in Lua has it."""
        (
            _, entry, semaphores, account, limited, taken_at, task, cancel_after, alike, ends_by,
            images, prediction, model, inputs, sent_at,
        ) = fields  # fmt: skip
        return cls(
            entry, semaphores, account or None, bool(limited), float(taken_at), int(task),
            int(cancel_after), alike, float(ends_by), int(images), prediction or None, model,
            inputs, float(sent_at),
        )  # fmt: skip

    def encode(self, permit: int) -> dict[str, Any]:
        """As the server takes it."""
        record: dict[str, Any] = {
            "entry": self.entry, "semaphores": self.semaphores, "account": self.account,
            "limited": self.limited or None, "taken_at": self.taken_at,
        }  # fmt: skip
        fields: dict[str, Any] = {"permit": str(permit), "record": record}
        if self.task is not None:
            record |= {
                "task": self.task, "cancel_after": self.cancel_after,
                "fingerprint": self.fingerprint or None,
                "ends_by": self.ends_by, "images": self.images, "prediction": self.prediction,
            }  # fmt: skip
            fields["about"] = {"model": self.model, "inputs": self.inputs, "sent_at": self.sent_at}
        fields["record"] = {name: value for name, value in record.items() if value is not None}
        return fields


@dataclass(slots=True)
class MirroredBatch:
    """A batch that this process runs, or ran lately, with the results that it wrote.

    Attributes:
        left: whether others ended its waiting tasks, since this process was thought to be gone.
        closed_at: when it ended, or was left; on this process's own clock.
    """

    batch: NewBatch
    created_at: float
    rows: dict[int, Row] = field(default_factory=dict)
    canceled: bool = False
    taken_over: bool = False
    closed_at: float | None = None

    def encode(self) -> dict[str, Any]:
        """As the server takes it."""
        return {**encode_batch(self.batch), "created_at": self.created_at}

    def size(self) -> int:
        """Return about how many bytes of memory its tasks and results take."""
        texts = [text for task in self.batch.tasks for text in (task.prompt, task.output_filename)]
        texts += [failure.error for failure in self.batch.failures]
        return sum(map(sys.getsizeof, texts)) + sum(
            sys.getsizeof(row[2]) for row in self.rows.values()
        )


class Mirror:
    """What this process has, as of the last step whose answer arrived."""

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        self._clock = clock
        self.declared: dict[str, tuple[int, float | None]] = {}
        self.entries: dict[str, MirroredEntry] = {}
        self.permits: dict[int, MirroredPermit] = {}
        self.batches: dict[str, MirroredBatch] = {}
        self.newest = 0
        self._ended: dict[str, int] = {}  # With the bytes of each, in the order of their ends.
        self._ended_bytes = 0
        self._set: list[Sequence[str]] = []
        self._rates: list[Sequence[str]] = []
        self._images: list[Sequence[str]] = []

    def accounts(self) -> list[str]:
        """Whose rates are kept."""
        prefix = "account:"
        return [name.removeprefix(prefix) for name in self.declared if name.startswith(prefix)]

    def enqueue(self, kept: MirroredEntry, limits: Iterable[Sequence[str]]) -> None:
        """An entry waits; the server counts its semaphores, with these limits, as declared here."""
        self.entries[kept.entry.id] = kept
        for name, limit in limits:
            self.declared.setdefault(name, (int(limit), None))

    def remove_semaphore(self, name: str) -> None:
        """Drop what is declared of a name, and the entries that wait for none of it."""
        self.declared.pop(name, None)
        for entry in [each.entry for each in self.entries.values()]:
            if name in entry.semaphores:
                del self.entries[entry.id]

    def waiting(self, entry: str) -> int:
        """For how many starts an entry waits."""
        return self.entries[entry].wanted if entry in self.entries else 0

    def set_waiting(self, entry: str, wanted: int) -> None:
        """An entry waits for so many starts now."""
        if entry in self.entries:
            self.entries[entry].wanted = max(0, wanted)

    def add_permit(self, permit: int, entry: str, *, taken_at: float) -> None:
        """An offer to one of the entries became a permit."""
        kept = self.entries.get(entry)
        if kept is None or permit in self.permits:
            return
        kept.wanted = max(0, kept.wanted - 1)
        self.permits[permit] = MirroredPermit(
            entry,
            kept.entry.semaphores,
            kept.entry.account,
            kept.entry.max_running is not None,
            taken_at,
        )

    def add_attempt(self, permit: int, attempt: Attempt, seconds: int, now: float) -> None:
        """One did, with its attempt noted."""
        self.add_permit(permit, attempt.batch, taken_at=now)
        if kept := self.permits.get(permit):
            kept.task, kept.cancel_after, kept.images = attempt.task, seconds, attempt.images
            kept.model, kept.inputs = attempt.model, encode_inputs(attempt)
            kept.fingerprint, kept.sent_at = attempt_fingerprint(attempt), attempt.sent_at
            kept.ends_by = now + attempt.max_seconds

    def set_shared_limits(
        self,
        limits: Sequence[Sequence[str]],
        rates: Sequence[Sequence[str]],
        images: Sequence[Sequence[str]],
    ) -> None:
        """Limits that were set, rates that were learned, and the day's images, as `renew` tells."""
        self._set, self._rates, self._images = list(limits), list(rates), list(images)

    def add_results(self, batch: str, rows: Iterable[Row]) -> None:
        """Results of a batch were written."""
        kept = self.batches.get(batch)
        if kept is None:
            return
        for row in rows:
            kept.rows.setdefault(row[0], row)
        if (
            len(kept.rows) + len(kept.batch.failures) >= len(kept.batch.tasks)
            and kept.closed_at is None
        ):
            self._close(batch)

    def mark_taken_over(self, batch: str) -> bool:
        """Others ended a batch's waiting tasks; False where that is known already."""
        kept = self.batches[batch]
        if kept.taken_over:
            return False
        kept.taken_over = True
        self._close(batch)
        return True

    def running(self) -> list[str]:
        """Batches that have not ended, as far as this process knows."""
        return [batch for batch, kept in self.batches.items() if kept.closed_at is None]

    def drop_expired(self) -> None:
        """Drop batches that ended long ago."""
        while self._ended:
            oldest = next(iter(self._ended))
            closed_at = self.batches[oldest].closed_at
            if closed_at is None or closed_at >= self._clock() - ENDED_BATCH_TTL_SECONDS:
                return
            self.drop_batch(oldest)

    def drop_batch(self, batch: str) -> None:
        """Drop a batch that has ended."""
        self._ended_bytes -= self._ended.pop(batch, 0)
        self.batches.pop(batch, None)

    def _close(self, batch: str) -> None:
        """Note that a batch has ended; the oldest such ones go where all take too much memory."""
        kept = self.batches[batch]
        self.entries.pop(batch, None)
        self._ended_bytes -= self._ended.pop(batch, 0)
        kept.closed_at = self._clock()
        self._ended[batch] = kept.size()
        self._ended_bytes += self._ended[batch]
        while self._ended_bytes > MAX_ENDED_BATCH_BYTES:
            self.drop_batch(next(iter(self._ended)))

    def encode(self) -> Mapping[str, Any]:
        """All of it but the results, as `register` takes it."""
        return {
            "newest": str(self.newest),
            "declared": [
                {"semaphore": name, "limit": limit}
                | ({} if per_minute is None else {"per_minute": per_minute})
                for name, (limit, per_minute) in self.declared.items()
            ],
            "set": [
                {"name": name, "units": int(units), "by_admin": bool(by_admin), "at": float(at)}
                for name, units, by_admin, at in self._set
            ],
            "rates": [{"account": rate[0], "values": list(rate[1:])} for rate in self._rates],
            "images": [
                {"account": account, "day": int(day), "count": int(count)}
                for account, day, count in self._images
            ],
            "permits": [kept.encode(permit) for permit, kept in self.permits.items()],
            "entries": [kept.encode() for kept in self.entries.values()],
            "batches": list(self.batches),
        }
