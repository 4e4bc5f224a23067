"""Admission: the pure function that decides which waiting entries start next.

It runs in the same transaction as each release, and at the time that the last decision named.
"""

from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from replicate_mcp.semaphores.rate_limit import Rate

OFFER_STALE_SECONDS = 0.05
"""Seconds after which a holder with an offer it has not accepted receives no further offers."""

OFFER_TTL_SECONDS = 0.5
"""Seconds after which an offer that was not accepted is withdrawn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the queue: a batch, or all the contexts of a process on one semaphore.

    Attributes:
        semaphores: names of the semaphores of which each start needs one unit, all at the same
            time.
        account: the account whose rate each start uses; None if it creates no prediction.
        waiting: number of its starts that wait.
        running: number of its permits and offers.
        max_running: maximum of `running`; None for no limit of its own.
    """

    id: str
    holder: str
    semaphores: tuple[str, ...]
    account: str | None
    waiting: int
    running: int = 0
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of `admit`: the offers, in order, and when to decide again.

    Attributes:
        grants: entry ids, one for each offer.
        next_at: the earliest time at which the passing of time alone can admit more; None if never.
    """

    grants: tuple[str, ...]
    next_at: float | None


def admit(
    queue: Sequence[Entry],
    free: Mapping[str, int],
    rates: Mapping[str, Rate],
    *,
    stalled: Set[str] = frozenset(),
    now: float,
) -> Decision:
    """Offer free units to the waiting entries, round-robin.

    An entry starts when all its semaphores and a creation slot of its account are free at the same
    time. An entry that does not fit is skipped, but the first of them reserves what is free for it
    while it waits for the rest, so that no entry starves; no other entry reserves anything, so that
    no deadlock arises. An entry that cannot start whatever is freed (its holder stalled, its
    account paused, its own limit reached) is not considered.

    Args:
        queue: the waiting entries in order; an entry that received an offer moves to the end.
        free: free units of each semaphore (negative after its limit was lowered).
        rates: each account's rate, refilled at `now`.
        stalled: holders that have not accepted earlier offers.
        now: seconds, on the backend's clock.
    """
    left = dict(free)
    slots = {account: rate.tokens for account, rate in rates.items()}
    paused = {account for account, rate in rates.items() if rate.paused_until > now}
    waiting = {entry.id: entry.waiting for entry in queue}
    running = {entry.id: entry.running for entry in queue}
    in_turn = deque(
        entry for entry in queue if entry.holder not in stalled and entry.account not in paused
    )
    grants: list[str] = []
    reserved = False
    while in_turn:
        entry = in_turn.popleft()
        done = entry.max_running is not None and running[entry.id] >= entry.max_running
        if done or not waiting[entry.id]:
            continue
        slot = entry.account is None or slots.get(entry.account, 0.0) >= 1
        if slot and all(left.get(name, 0) > 0 for name in entry.semaphores):
            for name in entry.semaphores:
                left[name] -= 1
            if entry.account is not None:
                slots[entry.account] -= 1
            waiting[entry.id] -= 1
            running[entry.id] += 1
            grants.append(entry.id)
            in_turn.append(entry)
        elif not reserved:
            # Every entry before it has been served, so the units free now are reserved for this
            # one.
            reserved = True
            for name in entry.semaphores:
                left[name] = max(0, left.get(name, 0) - 1)
            if entry.account is not None and slot:
                slots[entry.account] -= 1
    return Decision(tuple(grants), _next_time(queue, waiting, rates, slots, now))


def _next_time(
    queue: Sequence[Entry],
    waiting: Mapping[str, int],
    rates: Mapping[str, Rate],
    slots: Mapping[str, float],
    now: float,
) -> float | None:
    """Return when a paused or empty bucket next allows a creation that an entry waits for."""
    wanted = {entry.account for entry in queue if waiting[entry.id]}
    times = [
        replace(rate, tokens=slots[account]).next_available_at()
        for account, rate in rates.items()
        if account in wanted
    ]
    return min((at for at in times if at > now), default=None)
