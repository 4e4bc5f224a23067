"""Simulated accounts: allowed rates, and statistics."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from replicate_mcp.simulator.settings import SimulatorSettings, ThrottleWording

_MAX_HISTORY = 200_000
"""Maximum number of changes kept per account, about 20 MB."""
_COUNTED = (
    "created",
    "started",
    "succeeded",
    "failed",
    "canceled",
    "aborted",
    "throttled",
    "creations_seen",
    "other_calls",
    "faults",
)
_LOW_CREDIT_RATE, _LOW_CREDIT_BURST = 6.0, 1


class TokenBucket:
    """Token bucket of requests per minute with a burst, refilled continuously."""

    def __init__(self, per_minute: float, burst: int, now: float) -> None:
        self.per_minute = per_minute
        self.burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take a token and return 0, or take none and return the seconds until one is available."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_minute / 60)
        self._at = now
        if self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            return 0
        return (1 - self._tokens) * 60 / self.per_minute

    @property
    def remaining(self) -> int:
        """Number of requests possible now."""
        return max(0, int(self._tokens))

    @property
    def refill_seconds(self) -> int:
        """Whole seconds until the next token, at least 1."""
        return max(1, math.ceil((1 - min(1, self._tokens)) * 60 / self.per_minute))


@dataclass
class Account:
    """Account that Replicate limits and bills; several tokens can belong to one."""

    name: str
    creations: TokenBucket
    others: TokenBucket
    out_of_credit: bool = False
    low_credit: bool = False
    requests_per_minute: float | None = None
    burst: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    in_flight: int = 0
    max_in_flight: int = 0
    busy_seconds: float = 0.0
    first_creation: float | None = None
    last_creation: float | None = None
    last_end: float | None = None
    changes: deque[tuple[float, int]] = field(
        default_factory=lambda: deque(maxlen=_MAX_HISTORY), repr=False
    )
    _changed_at: float = 0.0

    @classmethod
    def opened(cls, name: str, settings: SimulatorSettings, now: float) -> "Account":
        """Return a new account with the default rates of the settings."""
        others = TokenBucket(settings.other_requests_per_minute, settings.other_burst, now)
        creations = TokenBucket(settings.requests_per_minute, settings.burst, now)
        return cls(name, creations, others)

    def set_rates(self, settings: SimulatorSettings, now: float) -> None:
        """Apply changed rates with full buckets; the account's own rates override the defaults."""
        rate = self.requests_per_minute or settings.requests_per_minute
        burst = self.burst or settings.burst
        if self.low_credit:
            rate, burst = min(rate, _LOW_CREDIT_RATE), min(burst, _LOW_CREDIT_BURST)
        self.creations = TokenBucket(rate, burst, now)
        self.others = TokenBucket(settings.other_requests_per_minute, settings.other_burst, now)

    def wording(self, settings: SimulatorSettings) -> SimulatorSettings:
        """Return the settings for this account's 429s, which announce low credit."""
        if self.low_credit and settings.throttle_wording is ThrottleWording.PLAIN:
            return settings.model_copy(update={"throttle_wording": ThrottleWording.ANNOUNCED})
        return settings

    def prediction_created(self, now: float) -> None:
        """Count a prediction that is now in flight."""
        self.counts["created"] += 1
        self.first_creation = now if self.first_creation is None else self.first_creation
        self.last_creation = now
        self._change(now, 1)
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def prediction_left(self, now: float) -> None:
        """Count a prediction that is no longer in flight."""
        self.last_end = now
        self._change(now, -1)

    def _change(self, now: float, by: int) -> None:
        self.busy_seconds += self.in_flight * (now - self._changed_at)
        self._changed_at = now
        self.in_flight += by
        self.changes.append((now, self.in_flight))

    def stats(self, now: float, limit: int | None) -> dict[str, Any]:
        """Return the statistics; with `limit`, also the mean share of it in use.

        The mean covers the time from the first creation to the last end, or to `now` while any
        prediction is in flight.
        """
        self.busy_seconds += self.in_flight * (now - self._changed_at)
        self._changed_at = now
        until = now if self.in_flight else self.last_end
        span = 0.0
        if self.first_creation is not None and until is not None:
            span = until - self.first_creation
        mean = self.busy_seconds / span if span > 0 else 0.0
        return {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            **self.counts,
            "busy_seconds": self.busy_seconds,
            "mean_in_flight": mean,
            "utilisation": mean / limit if limit else None,
            "first_creation": self.first_creation,
            "last_creation": self.last_creation,
            "last_end": self.last_end,
            "requests_per_minute": self.creations.per_minute,
            "burst": self.creations.burst,
            "out_of_credit": self.out_of_credit,
            "low_credit": self.low_credit,
        }
