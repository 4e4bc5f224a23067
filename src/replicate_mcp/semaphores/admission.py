"""Who starts next: the one decision about admission, as a pure function.

Whoever frees room, or wakes at the time that the last decision named, runs it in the same step.
"""

from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from replicate_mcp.semaphores.rate_limit import Rate

OFFER_STALE_SECONDS = 0.05
"""Seconds after which an offer that was not taken keeps its holder from being offered more."""

OFFER_TTL_SECONDS = 0.5
"""Seconds after which an offer that was not taken is withdrawn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One in the queue: a batch, or all the contexts of a process on one semaphore.

    Attributes:
        semaphores: the names of which each of its starts needs one unit, all at once.
        account: whose rate each of its starts uses; None where it creates nothing itself.
        waiting: how many of its starts are waiting.
        running: how many of its permits and offers are out.
        at_most: how many of it may run at once; None for no limit of its own.
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
    """The outcome: whom to make offers, in order, and when to decide again.

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
    """Go round the queue and offer what is free.

    Args:
        queue: the waiting entries in turn; one that was offered something goes to the end.
        free: units of each semaphore that nobody holds (below zero after a limit was lowered).
        rates: each account's rate, as it stands at `now`.
        stalled: holders that have not taken what they were offered.

    An entry starts when all its semaphores and a creation slot of its account are free at once.
    One that does not fit is passed over, but the first in turn keeps what it finds free while it
    waits for the rest, so that nothing starves; only it may, so that nothing deadlocks. An entry
    that cannot start whatever is freed (its holder stalled, its account paused, its own limit
    reached) is not in turn.
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
            # First in turn: nothing before it is left, and what is free now stays its own.
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
    """When a paused or empty bucket next allows a creation that somebody waits for."""
    wanted = {entry.account for entry in queue if waiting[entry.id]}
    times = [
        replace(rate, tokens=slots[account]).next_available_at()
        for account, rate in rates.items()
        if account in wanted
    ]
    return min((at for at in times if at > now), default=None)
