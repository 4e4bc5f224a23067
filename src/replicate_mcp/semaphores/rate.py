"""The rate of an account: how many creations a minute it is allowed, and what throttling teaches.

A token bucket that is a value: every change gives a new one, so that each backend can store it
where its permits live and change it in the same step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

REQUESTS_PER_MINUTE = 600.0
"""Replicate's documented limit on prediction creations, per account."""

RECENT_SECONDS = 10
"""The window in which accepted creations are counted, to guess a rate that nobody announced."""

CEILING_SECONDS = 600.0
"""For how long a rate that failed stays out of reach."""

CEILING_SHARE = 0.9
"""The share of a failed or a named rate that is used: a bucket of one forgives no early arrival."""

GROWTH = 1.25
"""By how much a lowered rate grows at a step."""

GROWTH_CREATIONS = 2
"""How many creations a lowered rate must see without throttling before it grows a step."""

FIRST_PAUSE = 1.0
"""Seconds of the first pause after a 429 that names none; each further one is twice as long."""

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 300.0
"""Bounds on a pause, in seconds: a 429 may name none, or one that no batch should wait for."""

SLOWEST_PER_MINUTE = 1.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What an account may create, now.

    Attributes:
        full_per_minute: creations a minute when nothing is wrong; the burst is the same.
        per_minute: the learned rate, at most `full_per_minute`.
        burst: the size of the bucket, in creations.
        tokens: creations that may start at `at` (seconds, the backend's clock).
        paused_until: nothing starts before.
        episode_at: when the present or last episode of throttling began.
        steady: creations sent since `per_minute` last changed.
        ceiling: the rate that growing back stays under until `ceiling_until`.
        idle: seconds of all pauses before the present or last one.
        sent: creations sent lately and not refused, as (whole second, count), on a clock that
            stands still while creations are paused: a pause says nothing about the rate.
    """

    full_per_minute: float
    per_minute: float
    burst: float
    tokens: float
    at: float
    paused_until: float = 0.0
    pauses: int = 0
    episode_at: float = 0.0
    steady: int = 0
    ceiling: float = 0.0
    ceiling_until: float = 0.0
    idle: float = 0.0
    sent: tuple[tuple[int, int], ...] = ()

    @classmethod
    def full(cls, per_minute: float, now: float) -> "Rate":
        """A rate of which nothing has been used."""
        burst = max(1.0, per_minute)
        return cls(per_minute, per_minute, burst, burst, now)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Rate":
        """A rate as `dataclasses.asdict` gave it, by this version or another.

        What another version kept beside it is left out; the rest begins as it does by default.
        """
        known = {field.name: state[field.name] for field in fields(cls) if field.name in state}
        known["sent"] = tuple((second, count) for second, count in known.get("sent", ()))
        return cls(**known)

    def declared(self, per_minute: float, now: float) -> "Rate":
        """The same account under another configured rate."""
        if per_minute == self.full_per_minute:
            return self
        burst = max(1.0, per_minute)
        if self._lowered():
            burst = min(burst, self.burst)
            learned = min(per_minute, self.per_minute)
        else:
            learned = per_minute
        rate = self.at_time(now)
        return replace(
            rate,
            full_per_minute=per_minute,
            per_minute=learned,
            burst=burst,
            tokens=min(rate.tokens, burst),
        )

    def _lowered(self) -> bool:
        full = self.full_per_minute
        return self.per_minute < full or self.burst < max(1.0, full)

    def at_time(self, now: float) -> "Rate":
        """The bucket as it stands at `now`."""
        rate = self if now >= self.at else self._clock_set_back(now)
        filled = rate.tokens + (now - rate.at) * rate.per_minute / 60
        return replace(rate, tokens=min(rate.burst, filled), at=now)

    def ready_at(self) -> float:
        """The earliest time at which a creation may start."""
        missing = max(0.0, 1 - self.tokens)
        return max(self.paused_until, self.at + missing * 60 / self.per_minute)

    def spent(self, count: int) -> "Rate":
        """The bucket after `count` offers were made out of it."""
        return replace(self, tokens=self.tokens - count)

    def given_back(self, count: int) -> "Rate":
        """The bucket after `count` offers were withdrawn: nothing was created with them."""
        return replace(self, tokens=min(self.burst, self.tokens + count))

    def noted_sent(self, count: int) -> "Rate":
        """`count` creations are about to be sent, at `at`; a lowered rate may grow by it."""
        second = int(self._active(self.at))
        recent = [(s, n) for s, n in self.sent if s > second - RECENT_SECONDS]
        if recent and recent[-1][0] == second:
            recent[-1] = (second, recent[-1][1] + count)
        else:
            recent.append((second, count))
        return replace(self, sent=tuple(recent), steady=self.steady + count)._grown()

    def throttled(
        self,
        *,
        sent_at: float,
        retry_after: float | None,
        per_minute: float | None,
        burst: float | None,
    ) -> "Rate":
        """What a 429 to a creation sent at `sent_at` teaches; called with the bucket at `at`.

        Only a creation sent after the present episode began opens another: the flood of answers
        to what was already on its way counts once, and only says more exactly what was accepted.
        """
        rate = self._accepted_less(sent_at)
        accepted = rate._accepted_per_minute()
        learned = accepted if per_minute is None else per_minute * CEILING_SHARE
        learned = max(SLOWEST_PER_MINUTE, min(learned, rate.per_minute))
        if self.episode_at and sent_at <= self.episode_at:
            until = min(rate.at + (retry_after or 0.0), rate.at + LONGEST_PAUSE)
            return replace(
                rate,
                per_minute=learned if per_minute is None else rate.per_minute,
                paused_until=max(rate.paused_until, until),
            )
        pauses = rate.pauses + 1 if rate._lowered() else 1
        backoff = FIRST_PAUSE * 2 ** min(pauses - 1, 8)
        pause = backoff if retry_after is None else max(retry_after, SHORTEST_PAUSE)
        return replace(
            rate,
            per_minute=learned,
            burst=burst if burst is not None else 1.0,
            tokens=0.0,
            paused_until=rate.at + min(pause, LONGEST_PAUSE),
            pauses=pauses,
            episode_at=rate.at,
            idle=rate.idle + rate._pause(),
            steady=0,
            # A rate that refuses less than it accepts has not failed by being too high.
            ceiling=max(rate.per_minute, accepted / CEILING_SHARE)
            if per_minute is None
            else per_minute,
            ceiling_until=rate.at + CEILING_SECONDS,
        )

    def _clock_set_back(self, now: float) -> "Rate":
        return replace(
            self,
            at=now,
            paused_until=0.0,
            episode_at=min(self.episode_at, now),
            ceiling_until=min(self.ceiling_until, now + CEILING_SECONDS),
        )

    def _pause(self) -> float:
        return max(0.0, self.paused_until - self.episode_at) if self.episode_at else 0.0

    def _active(self, moment: float) -> float:
        """A clock that stands still while creations are paused."""
        if moment <= self.episode_at:
            return moment - self.idle
        return max(moment - self._pause(), self.episode_at) - self.idle

    def _accepted_less(self, sent_at: float) -> "Rate":
        second = int(self._active(sent_at))
        return replace(
            self, sent=tuple((s, n - 1 if s == second and n else n) for s, n in self.sent)
        )

    def _accepted_per_minute(self) -> float:
        """What was accepted in the last `RECENT_SECONDS` in which creations were allowed."""
        now = self._active(self.at)
        recent = [(s, n) for s, n in self.sent if s > now - RECENT_SECONDS]
        if not recent:
            return self.per_minute / 2
        seconds = max(1.0, min(RECENT_SECONDS, now - recent[0][0]))
        return sum(n for _, n in recent) * 60 / seconds

    def _grown(self) -> "Rate":
        if not self._lowered() or self.steady < GROWTH_CREATIONS:
            return self
        top = self.full_per_minute
        if self.at < self.ceiling_until:
            top = min(top, self.ceiling * CEILING_SHARE)
        grown = max(self.per_minute, min(top, self.per_minute * GROWTH))
        full = grown == self.full_per_minute
        return replace(
            self,
            per_minute=grown,
            burst=max(1.0, grown) if full else self.burst,
            pauses=0 if full else self.pauses,
            steady=0,
        )
