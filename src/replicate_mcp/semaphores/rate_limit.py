"""The rate of an account: a token bucket of creations a minute.

The bucket is an immutable value, so that each backend can store it beside its permits and change it
in the same transaction. `adaptive_rate.py` adapts it to throttling.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

REQUESTS_PER_MINUTE = 600.0
"""Replicate's documented limit on prediction creations, per account."""

BURST_HEADROOM_SECONDS = 0.5
"""Seconds of the rate that a full burst leaves unused. The first creations, on new connections,
arrive later than those that follow by up to this time, and Replicate's bucket only starts to refill
when they arrive. Measured on a busy machine: 0.2 s, which was once too little."""


def full_burst(per_minute: float) -> float:
    """Return the burst of a rate of which nothing else is known, in creations."""
    return max(1.0, per_minute - per_minute / 60 * BURST_HEADROOM_SECONDS)


@dataclass(frozen=True, slots=True)
class Rate:
    """An account's rate at one moment. Times are in seconds, on the backend's clock.

    Attributes:
        full_per_minute: creations a minute without throttling; the burst is nearly the same.
        per_minute: the learned rate, at most `full_per_minute`.
        burst: the size of the bucket, in creations.
        tokens: creations that may start at `at`.
        at: when the bucket was last refilled.
        paused_until: no creation starts before this time.
        episode_at: when the current or last episode of throttling began; 0 before the first.
        pauses: episodes in a row between which no creation was accepted.
        accepted: creations sent since `since` and not refused.
        since: when the count in `accepted` began: at the last episode, or at the start of a recent
            window.
        last_sent: when the last creation was sent.
        steady: creations sent since `per_minute` last changed.
        ceiling: the rate that failed; the rate grows back to below it until `ceiling_until`.
        ceiling_until: when `ceiling` stops applying.
        lowerings: number of decreases in a row.
        refused: share of recent creations that were refused, from 0 to 1.
        by_hand: whether `full_per_minute` was set manually; the rates that processes declare no
            longer change it.
    """

    full_per_minute: float
    per_minute: float
    burst: float
    tokens: float
    at: float
    paused_until: float = 0.0
    episode_at: float = 0.0
    pauses: int = 0
    accepted: float = 0.0
    since: float = 0.0
    last_sent: float = 0.0
    steady: int = 0
    ceiling: float = 0.0
    ceiling_until: float = 0.0
    lowerings: int = 0
    refused: float = 0.0
    by_hand: bool = False

    @classmethod
    def initial(cls, per_minute: float, now: float) -> "Rate":
        """Return a rate of which nothing has been used."""
        burst = full_burst(per_minute)
        return cls(per_minute, per_minute, burst, burst, now)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Rate":
        """Return a rate from the result of `dataclasses.asdict`, by this version or another.

        Unknown fields of another version are ignored; missing ones get their defaults.
        """
        return cls(**{each.name: state[each.name] for each in fields(cls) if each.name in state})

    @property
    def lowered(self) -> bool:
        """Whether throttling has lowered the rate or the burst."""
        full = self.full_per_minute
        return self.per_minute < full or self.burst < full_burst(full)

    def with_configured(self, per_minute: float, now: float) -> "Rate":
        """Return this rate under a process's configured rate, unless the rate was set manually."""
        return self if self.by_hand else self._under(per_minute, now)

    def with_manual(self, per_minute: float, now: float) -> "Rate":
        """Return this rate under a rate that was set manually."""
        return replace(self._under(per_minute, now), by_hand=True)

    def _under(self, per_minute: float, now: float) -> "Rate":
        """Return this rate under another full rate; what was learned stays."""
        if per_minute == self.full_per_minute:
            return self
        rate, burst = self.refilled_at(now), full_burst(per_minute)
        learned = min(per_minute, rate.per_minute) if rate.lowered else per_minute
        burst = min(burst, rate.burst) if rate.lowered else burst
        return replace(
            rate,
            full_per_minute=per_minute,
            per_minute=learned,
            burst=burst,
            tokens=min(rate.tokens, burst),
        )

    def refilled_at(self, now: float) -> "Rate":
        """Return the bucket as refilled at `now`."""
        rate = self if now >= self.at else self._clock_set_back(now)
        filled = rate.tokens + (now - rate.at) * rate.per_minute / 60
        return replace(rate, tokens=min(rate.burst, filled), at=now)

    def next_available_at(self) -> float:
        """Return the earliest time at which a creation may start."""
        missing = max(0.0, 1 - self.tokens)
        return max(self.paused_until, self.at + missing * 60 / self.per_minute)

    def consume(self, count: float) -> "Rate":
        """Return the bucket after `count` offers."""
        return replace(self, tokens=self.tokens - count)

    def refund(self, count: int) -> "Rate":
        """Return the bucket after `count` offers were withdrawn, with which nothing was created."""
        return replace(self, tokens=min(self.burst, self.tokens + count))

    def _clock_set_back(self, now: float) -> "Rate":
        """Limit all stored times to `now`: one in the future would block creations until then."""
        return replace(
            self,
            at=now,
            paused_until=0.0,
            episode_at=min(self.episode_at, now),
            since=min(self.since, now),
            last_sent=min(self.last_sent, now),
            ceiling_until=0.0,
        )
