"""The rate of an account: how many creations a minute it is allowed, as a token bucket.

The bucket is a value: every change gives a new one, so that each backend can store it where its
permits live and change it in the same step. What throttling teaches is in `rate_learning.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

REQUESTS_PER_MINUTE = 600.0
"""Replicate's documented limit on prediction creations, per account."""

BURST_HEADROOM_SECONDS = 0.5
"""Seconds of the rate that the full burst keeps unused: the first creations, on new connections,
arrive so much later than those that follow, and only then begins the account's own bucket to
refill. On a busy machine 0.2 s were measured, and once seen to be too few."""


def full_burst(per_minute: float) -> float:
    """The burst of a rate of which nothing else is known, in creations."""
    return max(1.0, per_minute - per_minute / 60 * BURST_HEADROOM_SECONDS)


@dataclass(frozen=True, slots=True)
class Rate:
    """What an account may create, now. Times are in seconds, on the backend's clock.

    Attributes:
        full_per_minute: creations a minute when nothing is wrong; the burst is nearly the same.
        per_minute: the learned rate, at most `full_per_minute`.
        burst: the size of the bucket, in creations.
        tokens: creations that may start at `at`.
        paused_until: nothing starts before.
        episode_at: when the present or last episode of throttling began; 0 before the first.
        pauses: episodes in a row between which nothing was accepted.
        accepted: creations sent since `since` and not refused.
        since: when the counting of `accepted` began: at the last episode, or lately.
        last_sent: when the last creation was sent.
        steady: creations sent since `per_minute` last changed.
        ceiling: the rate that failed; growing back stays under it until `ceiling_until`.
        lowerings: how often the rate was lowered in a row.
        refused: the share of creations lately refused, from 0 to 1.
        by_hand: whether `full_per_minute` was set by hand: what processes declare changes it no
            more.
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
        """A rate of which nothing has been used."""
        burst = full_burst(per_minute)
        return cls(per_minute, per_minute, burst, burst, now)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Rate":
        """A rate as `dataclasses.asdict` gave it, by this version or another.

        What another version kept beside it is left out; the rest begins as it does by default.
        """
        return cls(**{each.name: state[each.name] for each in fields(cls) if each.name in state})

    @property
    def lowered(self) -> bool:
        """Whether throttling has taught less than the full rate."""
        full = self.full_per_minute
        return self.per_minute < full or self.burst < full_burst(full)

    def with_configured(self, per_minute: float, now: float) -> "Rate":
        """The same account under what a process is configured with, unless one was set by hand."""
        return self if self.by_hand else self._under(per_minute, now)

    def with_manual(self, per_minute: float, now: float) -> "Rate":
        """The same account under a rate that was set by hand."""
        return replace(self._under(per_minute, now), by_hand=True)

    def _under(self, per_minute: float, now: float) -> "Rate":
        """Under another full rate; what was learned stays."""
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
        """The bucket as it stands at `now`."""
        rate = self if now >= self.at else self._clock_set_back(now)
        filled = rate.tokens + (now - rate.at) * rate.per_minute / 60
        return replace(rate, tokens=min(rate.burst, filled), at=now)

    def next_available_at(self) -> float:
        """The earliest time at which a creation may start."""
        missing = max(0.0, 1 - self.tokens)
        return max(self.paused_until, self.at + missing * 60 / self.per_minute)

    def consume(self, count: float) -> "Rate":
        """The bucket after `count` offers were made out of it."""
        return replace(self, tokens=self.tokens - count)

    def refund(self, count: int) -> "Rate":
        """The bucket after `count` offers were withdrawn: nothing was created with them."""
        return replace(self, tokens=min(self.burst, self.tokens + count))

    def _clock_set_back(self, now: float) -> "Rate":
        """No time that was noted may lie ahead, or it would hold things up until then."""
        return replace(
            self,
            at=now,
            paused_until=0.0,
            episode_at=min(self.episode_at, now),
            since=min(self.since, now),
            last_sent=min(self.last_sent, now),
            ceiling_until=0.0,
        )
