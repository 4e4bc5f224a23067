"""A mirror of this process's state at a Redis server, from which lost state is restored.

A server that was restarted, failed over or emptied may have lost its state, or have an older one.
The state that each living process sends is authoritative.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from replicate_mcp.backends.redis.decoding import decode_batch, decode_result
from replicate_mcp.backends.redis.encoding import (
    Row,
    attempt_fingerprint,
    encode_batch,
    encode_entry,
    encode_inputs,
    row_of,
)
from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.journal import IdempotencyKey, JournalTask, NewBatch
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.semaphores.rate_limit import Rate

ENDED_BATCH_TTL_SECONDS = 3600.0
"""Seconds for which an ended batch is mirrored, in case the server returns with an older state: by
then it has saved a newer one (by default, within an hour of any change)."""

MAX_ENDED_BATCH_BYTES = 32 * 1024**2
"""Maximum memory of ended batches in this process, with their results."""


RATE_FIELDS = [each.name for each in fields(Rate)]
"""The fields of a rate in the order in which the script decodes it."""


@dataclass(slots=True)
class MirroredEntry:
    """An entry in the queue; `wanted` counts its starts that wait or are offered."""

    entry: QueueEntry
    wanted: int

    def encode(self) -> dict[str, Any]:
        """Encode the entry for the script."""
        return encode_entry(self.entry, self.wanted)


@dataclass(slots=True)
class MirroredPermit:
    """A permit of this process; one without `task` is a context's. Times are the server's."""

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
        """Decode a permit from the fields of `permits.encode` in Lua."""
        (
            _, entry, semaphores, account, limited, taken_at, task, cancel_after, fingerprint,
            ends_by, images, prediction, model, inputs, sent_at,
        ) = fields  # fmt: skip
        return cls(
            entry, semaphores, account or None, bool(limited), float(taken_at), int(task),
            int(cancel_after), fingerprint, float(ends_by), int(images), prediction or None, model,
            inputs, float(sent_at),
        )  # fmt: skip

    def encode(self, permit: int) -> dict[str, Any]:
        """Encode the permit for the script."""
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
    """A batch that this process runs, or ran recently, with the results that it recorded.

    Attributes:
        batch: the batch as it was opened.
        created_at: when it was opened, by the server's clock; seconds since the epoch.
        rows: its results by task.
        canceled: whether it was marked as canceled.
        taken_over: whether others ended its waiting tasks, or resumed it, because this process
            seemed dead.
        entry: its entry in the queue; None once this process creates nothing more of it.
        resumed: how often it had been taken over when this process began to run it.
        elsewhere: tasks that had a permit of another process then.
        closed_at: when it ended or was taken over, on this process's own clock; None while it runs.
    """

    batch: NewBatch
    created_at: float
    rows: dict[int, Row] = field(default_factory=dict)
    canceled: bool = False
    taken_over: bool = False
    entry: QueueEntry | None = None
    resumed: int = 0
    elsewhere: tuple[int, ...] = ()
    closed_at: float | None = None

    @property
    def is_run_elsewhere(self) -> bool:
        """Whether another process may know more of it than this one."""
        return self.taken_over and self.batch.resumable

    def encode(self) -> dict[str, Any]:
        """Encode the batch for the script."""
        fields = encode_batch(self.batch) | {"created_at": self.created_at}
        if self.entry is not None:
            fields["entry"] = encode_entry(self.entry, 0)
        if self.elsewhere:
            fields["elsewhere"] = self.elsewhere
        return fields

    def size(self) -> int:
        """Return the approximate memory size of its tasks and results in bytes."""
        texts = [text for task in self.batch.tasks for text in (task.prompt, task.output_filename)]
        texts += [failure.error for failure in self.batch.failures]
        texts.append(self.batch.inputs)
        return sum(map(sys.getsizeof, texts)) + sum(
            sys.getsizeof(row[2]) for row in self.rows.values()
        )


def decode_complete_batch(reply: Sequence[Any]) -> MirroredBatch:
    """Decode a batch that this process has taken over from the reply of `journal.encode` in Lua."""
    (
        state, deadline, key, digest, inputs, semaphores, account, max_running, elsewhere, tasks,
        rows,
    ) = reply  # fmt: skip
    found = decode_batch(state)
    batch = NewBatch(
        found.id,
        found.caller,
        found.account,
        found.semaphore,
        tuple(JournalTask(**json.loads(task)) for task in tasks),
        IdempotencyKey(key, digest) if key else None,
        inputs=inputs,
        retry=found.retry,
        seconds=float(deadline) - found.created_at,
        resumable=True,
    )
    return MirroredBatch(
        batch,
        found.created_at,
        rows={row[0]: row for row in (row_of(decode_result(text), text) for text in rows)},
        canceled=found.canceled,
        entry=QueueEntry(
            found.id,
            tuple(semaphores),
            account or None,
            waiting=0,
            max_running=int(max_running) if max_running else None,
        ),
        resumed=found.resumed,
        elsewhere=tuple(map(int, elsewhere)),
    )


class Mirror:
    """The state of this process, as of the last call whose reply arrived."""

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        self._clock = clock
        self.declared: dict[str, tuple[int, float | None]] = {}
        self.entries: dict[str, MirroredEntry] = {}
        self.permits: dict[int, MirroredPermit] = {}
        self.batches: dict[str, MirroredBatch] = {}
        self.newest = 0
        self._ended: dict[str, int] = {}  # Sizes in bytes, in the order of their ends.
        self._ended_bytes = 0
        self._set: list[Sequence[str]] = []
        self._rates: dict[str, tuple[str, Sequence[str]]] = {}  # By account, with their digests.
        self._images: list[Sequence[str]] = []

    def accounts(self) -> list[str]:
        """Return the accounts whose rates are mirrored."""
        prefix = "account:"
        return [name.removeprefix(prefix) for name in self.declared if name.startswith(prefix)]

    def rate_digests(self) -> dict[str, str]:
        """Return the digests of the mirrored rates, by account."""
        return {account: digest for account, (digest, _) in self._rates.items()}

    def enqueue(self, kept: MirroredEntry, limits: Iterable[Sequence[str]]) -> None:
        """Add an entry, and declare its semaphores with the server's limits, as the server did."""
        self.entries[kept.entry.id] = kept
        for name, limit in limits:
            self.declared.setdefault(name, (int(limit), None))

    def remove_semaphore(self, name: str) -> None:
        """Remove the declaration of a name, and the entries that use it."""
        self.declared.pop(name, None)
        for entry in [each.entry for each in self.entries.values()]:
            if name in entry.semaphores:
                self.dequeue(entry.id)

    def waiting(self, entry: str) -> int:
        """Return the number of starts that an entry waits for."""
        return self.entries[entry].wanted if entry in self.entries else 0

    def dequeue(self, entry: str) -> None:
        """Remove an entry from the queue for good."""
        self.entries.pop(entry, None)
        if entry in self.batches:
            self.batches[entry].entry = None

    def set_waiting(self, entry: str, wanted: int) -> None:
        """Set the number of starts that an entry waits for."""
        if entry in self.entries:
            self.entries[entry].wanted = max(0, wanted)

    def add_permit(self, permit: int, entry: str, *, taken_at: float) -> None:
        """Add a permit that an offer to an entry has become."""
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
        """Add a permit with its recorded attempt."""
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
        """Replace the set limits, daily images and changed rates by those that `renew` returns.

        A rate is its account, its digest ("" if the server has none), and its fields and values.
        """
        self._set, self._images = list(limits), list(images)
        for account, digest, *rate in rates:
            if digest:
                values = dict(zip(rate[::2], rate[1::2], strict=True))
                self._rates[account] = digest, [values.get(name, "0") for name in RATE_FIELDS]
            else:
                self._rates.pop(account, None)

    def add_results(self, batch: str, rows: Iterable[Row]) -> None:
        """Add recorded results of a batch."""
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
        """Mark a batch as taken over; return False if it was marked before, or is unknown."""
        kept = self.batches.get(batch)
        if kept is None or kept.taken_over:
            return False
        kept.taken_over = True
        self._close(batch)
        return True

    def take_over(self, kept: MirroredBatch, entry: QueueEntry) -> None:
        """Add a batch that this process has taken over, with its entry."""
        self.drop_batch(entry.id)  # It may have run the batch before.
        self.batches[entry.id] = kept
        self.entries[entry.id] = MirroredEntry(entry, 0)

    def running(self) -> list[str]:
        """Return the batches that have not ended, as far as this process knows."""
        return [batch for batch, kept in self.batches.items() if kept.closed_at is None]

    def drop_expired(self) -> None:
        """Drop batches that ended more than `ENDED_BATCH_TTL_SECONDS` ago."""
        while self._ended:
            oldest = next(iter(self._ended))
            closed_at = self.batches[oldest].closed_at
            if closed_at is None or closed_at >= self._clock() - ENDED_BATCH_TTL_SECONDS:
                return
            self.drop_batch(oldest)

    def drop_batch(self, batch: str) -> None:
        """Drop a batch that has ended, or that others run."""
        self._ended_bytes -= self._ended.pop(batch, 0)
        self.batches.pop(batch, None)

    def _close(self, batch: str) -> None:
        """Mark a batch as ended, and drop the oldest ended ones if all take too much memory."""
        kept = self.batches[batch]
        self.entries.pop(batch, None)
        self._ended_bytes -= self._ended.pop(batch, 0)
        kept.closed_at = self._clock()
        self._ended[batch] = kept.size()
        self._ended_bytes += self._ended[batch]
        while self._ended_bytes > MAX_ENDED_BATCH_BYTES:
            self.drop_batch(next(iter(self._ended)))

    def encode(self) -> Mapping[str, Any]:
        """Encode the state, except for results, for the command `register`."""
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
            "rates": [
                {"account": account, "values": list(values)}
                for account, (_, values) in self._rates.items()
            ],
            "images": [
                {"account": account, "day": int(day), "count": int(count)}
                for account, day, count in self._images
            ],
            "permits": [kept.encode(permit) for permit, kept in self.permits.items()],
            "entries": [kept.encode() for kept in self.entries.values()],
            "batches": {
                batch: -1 if kept.taken_over else kept.resumed
                for batch, kept in self.batches.items()
            },
        }
