"""Adaptation of an account's rate to the responses to its creations.

An episode of throttling lowers the rate once: to the rate that the 429 names, else to the rate at
which creations were accepted recently. The rate that failed becomes a ceiling, below which the rate
grows back in steps. The bucket is empty when an episode begins, so the creations accepted between
two episodes measure the rate that Replicate allows.

Not every 429 is about the rate: others may use the account, too, or the model may be at capacity
for a moment. Once lowering the rate has had no effect, a 429 only pauses creations, until the share
of refused creations is too large.
"""

from dataclasses import dataclass, replace

from replicate_mcp.semaphores.rate_limit import Rate, full_burst

RECENT_SECONDS = 10.0
RECENT_CREATIONS = 10
"""Window in which accepted creations are counted: `RECENT_SECONDS`, or the time of
`RECENT_CREATIONS` at the current rate, whichever is longer."""

CEILING_SECONDS = 600.0
"""Seconds for which the rate stays below one that failed."""

CEILING_SHARE = 0.9
"""Share of a failed or named rate that is used: a bucket of one tolerates no early arrival."""

INCREASE_FACTOR = 1.25
"""Factor by which a lowered rate grows in one step."""

INCREASE_CREATIONS = 2
"""Creations without throttling after which a lowered rate grows by one step."""

DECREASE_FACTOR = 2.5
"""Factor by which a lowered rate falls if hardly any creation was accepted; a further 429 by chance
must not reduce it to almost zero."""

MAX_CONSECUTIVE_DECREASES = 10
"""Decreases in a row that reach any possible rate: the rate is not the cause of further 429s."""

MAX_THROTTLED_SHARE = 0.5
THROTTLED_SHARE_SAMPLE = 20
"""Share of refused creations at which the rate is lowered all the same, as a moving mean over
`THROTTLED_SHARE_SAMPLE` creations."""

FIRST_PAUSE = 1.0
"""Seconds of the pause after a 429 without `Retry-After`; doubled each time nothing is accepted
after it."""

MIN_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 300.0
"""Bounds of a pause: a 429 may name none, or one longer than a batch should wait."""

SLOWEST_PER_MINUTE = 1.0


@dataclass(frozen=True, slots=True)
class Throttling:
    """Details of a 429 in response to a creation.

    Attributes:
        retry_after: seconds to wait; None if the response named none.
        per_minute: the reduced rate, in creations a minute; None if the response named none.
        burst: the reduced burst, in creations; None if the response named none.
    """

    retry_after: float | None = None
    per_minute: float | None = None
    burst: float | None = None


def on_sent(rate: Rate, count: int) -> Rate:
    """Count `count` creations, sent when the bucket was last refilled; a lowered rate may grow."""
    rate = _reset_old_counts(rate)
    rate = replace(
        rate,
        accepted=rate.accepted + count,
        last_sent=rate.at,
        steady=rate.steady + count,
        refused=rate.refused * (1 - 1 / THROTTLED_SHARE_SAMPLE) ** count,
    )
    return _grown(rate) if rate.lowered and rate.steady >= INCREASE_CREATIONS else rate


def on_throttled(rate: Rate, throttling: Throttling, *, sent_at: float) -> Rate:
    """Return the rate after a 429 in response to a creation.

    Only a creation sent after the current episode began starts another one: the 429s of all
    creations that were already in flight count as one, and only make the measured rate more exact.

    Args:
        rate: the rate, refilled when the 429 arrived.
        throttling: details of the 429.
        sent_at: when the refused creation was sent, on the backend's clock.
    """
    if not rate.since:
        # The state is new or was lost, so earlier accepted creations are unknown.
        rate = replace(rate, since=rate.at)
    if sent_at >= rate.since:
        rate = replace(rate, accepted=max(0.0, rate.accepted - 1))
    rate = replace(rate, refused=min(1.0, rate.refused + 1 / THROTTLED_SHARE_SAMPLE))
    if rate.episode_at and sent_at <= rate.episode_at:
        return _same_episode(rate, throttling)
    pauses = rate.pauses + 1 if rate.episode_at and rate.accepted < 1 else 0
    pause = (
        FIRST_PAUSE * 2.0 ** min(pauses, 8)
        if throttling.retry_after is None
        else throttling.retry_after
    )
    pause = min(max(pause, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
    rate = replace(rate, pauses=pauses, paused_until=rate.at + pause)
    in_a_row = rate.lowerings if rate.at < rate.episode_at + CEILING_SECONDS else 0
    if (
        in_a_row == MAX_CONSECUTIVE_DECREASES
        and rate.refused < MAX_THROTTLED_SHARE
        and throttling.per_minute is None
    ):
        return replace(rate, episode_at=rate.at, ceiling_until=rate.at)
    return replace(_lowered(rate, throttling), lowerings=in_a_row % MAX_CONSECUTIVE_DECREASES + 1)


def _lowered(rate: Rate, throttling: Throttling) -> Rate:
    failed = rate.per_minute if throttling.per_minute is None else throttling.per_minute
    return replace(
        rate,
        per_minute=_between_bounds(rate, _learned(rate, throttling)),
        burst=max(1.0, throttling.burst or 1.0),
        tokens=0.0,
        episode_at=rate.at,
        steady=0,
        # If more creations were accepted than the rate allows, the burst failed, not the rate.
        ceiling=failed if throttling.per_minute else max(failed, _accepted(rate) / CEILING_SHARE),
        ceiling_until=rate.at + CEILING_SECONDS,
    )


def _same_episode(rate: Rate, throttling: Throttling) -> Rate:
    pause = min(throttling.retry_after or 0.0, MAX_PAUSE_SECONDS)
    still_counting = rate.since <= rate.episode_at and throttling.per_minute is None
    return replace(
        rate,
        per_minute=_between_bounds(rate, _accepted(rate)) if still_counting else rate.per_minute,
        paused_until=max(rate.paused_until, rate.at + pause),
    )


def _reset_old_counts(rate: Rate) -> Rate:
    """Restart the count of accepted creations after an episode, and after a time without any."""
    window = max(RECENT_SECONDS, RECENT_CREATIONS * 60 / rate.per_minute)
    if rate.episode_at > rate.since:
        return replace(rate, accepted=0.0, since=rate.episode_at)
    if rate.at - rate.last_sent > window:
        return replace(rate, accepted=0.0, since=rate.at)
    counted = rate.at - rate.since
    if counted > 2 * window:
        return replace(rate, accepted=rate.accepted * window / counted, since=rate.at - window)
    return rate


def _accepted(rate: Rate) -> float:
    """Return the recently accepted creations a minute, counting at least one."""
    return max(1.0, rate.accepted) * 60 / max(1.0, rate.at - rate.since)


def _learned(rate: Rate, throttling: Throttling) -> float:
    if throttling.per_minute is not None:
        return throttling.per_minute * CEILING_SHARE
    if not rate.lowered:
        return _accepted(rate)
    # A rate that has grown without an immediate 429 exceeds the limit by its last step at most.
    less = rate.per_minute / (
        INCREASE_FACTOR if rate.accepted >= INCREASE_CREATIONS else DECREASE_FACTOR
    )
    return max(_accepted(rate), less)


def _between_bounds(rate: Rate, per_minute: float) -> float:
    return max(SLOWEST_PER_MINUTE, min(per_minute, rate.per_minute))


def _grown(rate: Rate) -> Rate:
    top = rate.full_per_minute
    under_a_ceiling = rate.at < rate.ceiling_until
    if under_a_ceiling:
        top = min(top, rate.ceiling * CEILING_SHARE)
    per_minute = max(rate.per_minute, min(top, rate.per_minute * INCREASE_FACTOR))
    full = per_minute == rate.full_per_minute and not under_a_ceiling
    return replace(
        rate,
        per_minute=per_minute,
        burst=full_burst(per_minute) if full else rate.burst,
        steady=0,
    )
