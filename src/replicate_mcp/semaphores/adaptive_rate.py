"""What creations teach about an account's rate: those that are accepted, and those that are not.

A rate is lowered once an episode of throttling: to what the message names, else to what was
accepted lately. The rate that failed is a ceiling, under which it grows back step by step. The
bucket is empty when an episode begins, so what is accepted from then to the next one tells the
rate that there is.

Not every 429 is about the rate: others may use the account too, or the model has no room for a
moment. Where lowering has changed nothing, 429s only pause creations, until they are too many.
"""

from dataclasses import dataclass, replace

from replicate_mcp.semaphores.rate_limit import Rate, full_burst

RECENT_SECONDS = 10.0
RECENT_CREATIONS = 10
"""Over what accepted creations are counted: so many seconds or so many of them, what is longer."""

CEILING_SECONDS = 600.0
"""For how long a rate that failed stays out of reach."""

CEILING_SHARE = 0.9
"""The share of a failed or a named rate that is used: a bucket of one forgives no early arrival."""

INCREASE_FACTOR = 1.25
"""By how much a lowered rate grows at a step."""

GROWTH_CREATIONS = 2
"""How many creations a lowered rate must see without throttling before it grows a step."""

DECREASE_FACTOR = 2.5
"""By how much a lowered rate falls where hardly anything was accepted: a chance 429 more must not
bring it to nothing."""

MAX_CONSECUTIVE_DECREASES = 10
"""So many in a row find any rate that there is: where 429s go on after them, it is not the rate."""

MAX_THROTTLED_SHARE = 0.5
THROTTLED_SHARE_SAMPLE = 20
"""The share of creations refused that lowers the rate all the same: a moving mean over so many."""

FIRST_PAUSE = 1.0
"""Seconds of the pause after a 429 that names none; twice as long where it was of no use."""

MIN_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 300.0
"""Bounds on a pause, in seconds: a 429 may name none, or one that no batch should wait for."""

SLOWEST_PER_MINUTE = 1.0


@dataclass(frozen=True, slots=True)
class Throttling:
    """What a 429 to a creation said.

    Attributes:
        retry_after: seconds to wait; None where it named none.
        per_minute, burst: the lowered rate it named, if it did.
    """

    retry_after: float | None = None
    per_minute: float | None = None
    burst: float | None = None


def on_sent(rate: Rate, count: int) -> Rate:
    """`count` creations are sent, with the bucket at that time; a lowered rate may grow by it."""
    rate = _reset_old_counts(rate)
    rate = replace(
        rate,
        accepted=rate.accepted + count,
        last_sent=rate.at,
        steady=rate.steady + count,
        refused=rate.refused * (1 - 1 / THROTTLED_SHARE_SAMPLE) ** count,
    )
    return _grown(rate) if rate.lowered and rate.steady >= GROWTH_CREATIONS else rate


def on_throttled(rate: Rate, throttling: Throttling, *, sent_at: float) -> Rate:
    """A creation sent at `sent_at` was answered with 429, with the bucket at the answer's time.

    Only a creation sent after the present episode began opens another: the flood of answers to
    what was already on its way counts once, and only says more exactly what was accepted.
    """
    if not rate.since:
        # The state is new or was lost: nothing tells what was accepted before.
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
        # Where more was accepted than the rate allows, it was the burst that failed.
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
    """The count of accepted creations, begun anew at an episode and after a time of none."""
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
    """What was accepted lately, in creations a minute; at least one is, in whatever time."""
    return max(1.0, rate.accepted) * 60 / max(1.0, rate.at - rate.since)


def _learned(rate: Rate, throttling: Throttling) -> float:
    if throttling.per_minute is not None:
        return throttling.per_minute * CEILING_SHARE
    if not rate.lowered:
        return _accepted(rate)
    # A rate that has grown, and was not refused at once, fails only by its last step.
    less = rate.per_minute / (
        INCREASE_FACTOR if rate.accepted >= GROWTH_CREATIONS else DECREASE_FACTOR
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
