"""Learning an account's unknown rate from the responses to its creations."""

import heapq
import math
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.semaphores.adaptive_rate import (
    INCREASE_FACTOR,
    Throttling,
    on_sent,
    on_throttled,
)
from replicate_mcp.semaphores.rate_limit import Rate, full_burst

NOW = 100_000.0
FULL = Rate.initial(600, NOW)
A_SECOND = Throttling(retry_after=1)


def test_429_pauses_creations_for_retry_after() -> None:
    assert (
        on_throttled(FULL, Throttling(retry_after=10), sent_at=NOW).next_available_at() >= NOW + 10
    )


def test_429_without_retry_after_pauses_longer_while_nothing_is_accepted() -> None:
    rate, pauses = FULL, []
    for _ in range(4):
        rate = on_throttled(on_sent(rate, 1), Throttling(), sent_at=rate.at)
        pauses.append(rate.paused_until - rate.at)
        rate = rate.refilled_at(rate.next_available_at() + 0.001)
    assert pauses == pytest.approx([1, 2, 4, 8], abs=0.01)
    rate = on_throttled(on_sent(on_sent(rate, 1), 1), Throttling(), sent_at=rate.at)
    assert rate.paused_until - rate.at == pytest.approx(1), "one was accepted since"


def test_429_with_a_lower_rate_sets_it() -> None:
    rate = on_throttled(FULL, Throttling(10, per_minute=6, burst=1), sent_at=NOW)
    assert rate.per_minute == pytest.approx(6 * 0.9)
    assert rate.burst == 1


def test_429_without_rate_sets_the_recently_accepted_rate() -> None:
    rate = FULL
    for second in range(5):
        rate = on_sent(rate.refilled_at(NOW + second), 2)
    rate = on_sent(rate.refilled_at(NOW + 5), 1)
    learned = on_throttled(rate, A_SECOND, sent_at=NOW + 5)
    assert learned.per_minute == pytest.approx(120)
    assert learned.burst == 1


def test_429_for_creation_sent_before_state_loss_leaves_a_usable_rate() -> None:
    learned = on_throttled(FULL.refilled_at(NOW + 2), A_SECOND, sent_at=NOW - 1)
    assert 60 <= learned.per_minute < FULL.per_minute


def test_creations_accepted_long_ago_do_not_count() -> None:
    rate = on_sent(FULL, 500)
    rate = on_sent(rate.refilled_at(NOW + 3_600), 5)
    assert (
        on_throttled(rate.refilled_at(NOW + 3_602), A_SECOND, sent_at=NOW + 3_600).per_minute == 120
    )


def test_burst_of_429s_for_earlier_creations_is_one_episode() -> None:
    rate = on_sent(FULL, 60).refilled_at(NOW + 1)
    for _ in range(58):
        rate = on_throttled(rate, Throttling(), sent_at=NOW)
    assert rate.per_minute == pytest.approx(120), "two of sixty were accepted in a second"
    assert rate.paused_until == NOW + 2
    assert rate.episode_at == NOW + 1


def test_lowered_rate_grows_to_below_the_failed_rate_and_later_to_full() -> None:
    rate = on_throttled(on_sent(FULL, 2), A_SECOND, sent_at=NOW)
    low = rate.per_minute
    rate = on_sent(rate.refilled_at(NOW + 2), 1)
    assert rate.per_minute == low
    rate = on_sent(rate, 1)
    assert rate.per_minute == pytest.approx(low * INCREASE_FACTOR)
    for _ in range(100):
        rate = on_sent(rate, 1)
    assert rate.per_minute == pytest.approx(540)
    assert rate.burst == 1
    rate = rate.refilled_at(NOW + 700)
    for _ in range(100):
        rate = on_sent(rate, 1)
    assert (rate.per_minute, rate.burst) == (600, full_burst(600))


def test_grown_rate_falls_only_by_its_last_step() -> None:
    rate = on_throttled(on_sent(FULL, 2), A_SECOND, sent_at=NOW).refilled_at(NOW + 1)
    for step in range(6):
        rate = on_sent(rate.refilled_at(NOW + 1 + step), 1)
    failed = rate.per_minute
    assert on_throttled(rate, A_SECOND, sent_at=rate.at).per_minute == pytest.approx(
        failed / INCREASE_FACTOR
    )


def test_named_rate_is_not_exceeded_while_its_ceiling_holds() -> None:
    rate = on_throttled(FULL, Throttling(1, per_minute=60, burst=1), sent_at=NOW)
    for _ in range(100):
        rate = on_sent(rate, 1)
    assert rate.per_minute == pytest.approx(54)


def test_failed_burst_recovers_later_although_the_rate_was_not_lowered() -> None:
    rate = on_sent(FULL, 60).refilled_at(NOW + 0.3)
    rate = on_throttled(rate, A_SECOND, sent_at=NOW)
    for _ in range(20):
        rate = on_sent(rate.refilled_at(rate.at + 1), 1)
    assert (rate.per_minute, rate.burst) == (600, 1)
    rate = on_sent(on_sent(rate.refilled_at(NOW + 700), 1), 1)
    assert rate.burst == full_burst(600)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.one_of(
                st.just("time"),
                st.just("spend"),
                st.builds(
                    Throttling,
                    st.one_of(st.none(), st.floats(0, 1e4)),
                    st.one_of(st.none(), st.integers(1, 600)),
                    st.one_of(st.none(), st.integers(1, 60)),
                ),
            ),
        )
    )
)
def test_rate_stays_within_bounds_for_arbitrary_histories(history: list[Any]) -> None:
    rate, now = FULL, NOW
    for passed, what in history:
        now += passed
        rate = rate.refilled_at(now)
        if what == "spend" and rate.tokens >= 1:
            rate = on_sent(rate.consume(1), 1)
        elif isinstance(what, Throttling):
            rate = on_throttled(rate, what, sent_at=now)
        assert 1 <= rate.per_minute <= 600
        assert rate.tokens <= rate.burst
        assert rate.next_available_at() <= now + 300 + 60


class Account:
    """The simulated account: its own bucket, whose parameters are not reported."""

    def __init__(self, per_minute: float, burst: int, by_chance: float = 0) -> None:
        self._bucket = Rate(per_minute, per_minute, burst, burst, NOW)
        self._by_chance, self._random = by_chance, Random(1)

    def refuses(self, now: float) -> bool:
        if self._random.random() < self._by_chance:
            return True
        self._bucket = self._bucket.refilled_at(now)
        if self._bucket.tokens < 1 - 1e-9:
            return True
        self._bucket = self._bucket.consume(1)
        return False

    def resets_in(self) -> int:
        return max(1, math.ceil(self._bucket.next_available_at() - self._bucket.at))


def make(tasks: int, account: Account, rate: Rate, *, limit: int, named: bool) -> tuple[float, int]:
    """Return the duration of a batch of predictions of half a second, and its number of 429s."""
    now, waiting, free, refusals, done = NOW, tasks, limit, 0, 0
    order = count()
    events: list[tuple[float, int, str, float]] = []
    while done < tasks:
        rate = rate.refilled_at(now)
        while waiting and free and rate.tokens >= 1 and rate.paused_until <= now:
            rate, waiting, free = on_sent(rate.consume(1), 1), waiting - 1, free - 1
            heapq.heappush(events, (now + 0.01, next(order), "arrives", now))
        ready = rate.next_available_at() + 1e-6 if waiting and free else math.inf
        if not events or ready < events[0][0]:
            now = ready
            continue
        now, _, what, sent_at = heapq.heappop(events)
        if what == "done":
            done, free = done + 1, free + 1
        elif account.refuses(now):
            reported = Throttling(account.resets_in() if named else None)
            rate = on_throttled(rate.refilled_at(now), reported, sent_at=sent_at)
            refusals, waiting, free = refusals + 1, waiting + 1, free + 1
        else:
            heapq.heappush(events, (now + 0.5, next(order), "done", sent_at))
    return now - NOW, refusals


@pytest.mark.parametrize("named", [True, False], ids=["seconds named", "nothing named"])
@pytest.mark.parametrize(
    ("per_minute", "burst"), [(6, 1), (30, 1), (60, 5), (60, 60), (120, 1), (300, 1), (1200, 20)]
)
def test_silently_lowered_account_rate_is_soon_fully_used(
    per_minute: float, burst: int, named: bool
) -> None:
    tasks, limit = 120, 60
    seconds, refusals = make(
        tasks, Account(per_minute, burst), Rate.initial(60_000, NOW), limit=limit, named=named
    )
    ideal = (tasks - burst) * 60 / per_minute
    assert seconds <= 1.3 * ideal + 3
    assert refusals <= limit + 15


@pytest.mark.parametrize("by_chance", [0.01, 0.05, 0.1, 0.2])
def test_rate_independent_429s_cost_little_more_than_their_pauses(by_chance: float) -> None:
    account = Account(60_000, 60_000, by_chance)
    seconds, refusals = make(1_000, account, Rate.initial(60_000, NOW), limit=60, named=True)
    assert seconds <= 20 + 1.5 * refusals


def test_rate_falls_when_most_creations_are_throttled() -> None:
    rate, lowest = FULL, FULL.per_minute
    for second in range(60):
        rate = on_sent(rate.refilled_at(NOW + 3 * second), 4)
        rate = on_throttled(rate, A_SECOND, sent_at=rate.at)
        lowest = min(lowest, rate.per_minute)
    assert rate.per_minute == 600, "one of four, at any rate: it is not the rate"
    for second in range(60, 120):
        rate = on_sent(rate.refilled_at(NOW + 3 * second), 1)
        rate = on_throttled(rate, A_SECOND, sent_at=rate.at)
    assert rate.per_minute < lowest, "all"


def test_known_rate_causes_no_429s() -> None:
    seconds, refusals = make(1_000, Account(600, 600), Rate.initial(600, NOW), limit=60, named=True)
    assert refusals == 0
    ideal = (1_000 - 600) / 10 + 0.5  # Plus the last prediction.
    assert seconds <= 1.02 * ideal


# Each rule alone.


def at(rate: Rate, seconds: float) -> Rate:
    return rate.refilled_at(NOW + seconds)


@pytest.mark.parametrize(
    ("named", "pause"),
    [(None, 1), (0, 0.1), (0.05, 0.1), (0.1, 0.1), (7, 7), (300, 300), (301, 300), (1e6, 300)],
)
def test_pause_is_retry_after_within_bounds(named: float | None, pause: float) -> None:
    rate = on_throttled(FULL, Throttling(named), sent_at=NOW)
    assert rate.paused_until - NOW == pytest.approx(pause)


def test_pause_without_retry_after_doubles_up_to_its_maximum() -> None:
    rate, pauses = FULL, []
    for _ in range(11):
        rate = on_throttled(on_sent(rate, 1), Throttling(), sent_at=rate.at)
        pauses.append(rate.paused_until - rate.at)
        rate = rate.refilled_at(rate.paused_until + 0.001)
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256], abs=0.01)


def test_rate_lowered_ten_times_grows_again_despite_more_429s() -> None:
    rate, rates = Rate.initial(60_000, NOW), []
    for number in range(14):
        rate = on_sent(at(rate, 5 * number), 3)
        rate = on_throttled(rate, A_SECOND, sent_at=rate.at)
        assert rate.paused_until == rate.at + 1
        rates.append(rate.per_minute)
        rate = replace(rate, refused=0)
    assert rates[1:10] == sorted(set(rates[1:10]), reverse=True)
    assert rates[9:] == sorted(set(rates[9:]))


def in_a_row(lowerings: int, refused: float = 0.0, **changes: Any) -> Rate:
    """Return a rate that was lowered `lowerings` times in a row, with a creation just sent."""
    return replace(
        FULL, per_minute=100, burst=1, tokens=1, episode_at=NOW - 50, since=NOW - 50,
        last_sent=NOW, accepted=5, lowerings=lowerings, refused=refused,
        ceiling=200, ceiling_until=NOW + 500, **changes,
    )  # fmt: skip


def test_429_only_pauses_after_ten_ineffective_decreases() -> None:
    tenth = on_throttled(in_a_row(9), A_SECOND, sent_at=NOW)
    assert (tenth.per_minute, tenth.lowerings) == (80, 10)
    eleventh = on_throttled(in_a_row(10), A_SECOND, sent_at=NOW)
    assert (eleventh.per_minute, eleventh.lowerings, eleventh.tokens) == (100, 10, 1)
    assert (eleventh.paused_until, eleventh.episode_at) == (NOW + 1, NOW)
    assert eleventh.ceiling_until == NOW, "it may grow again to all of it"


@pytest.mark.parametrize(
    ("refused", "lowered"), [(0.4, False), (0.4499, False), (0.45, True), (0.9, True)]
)
def test_rate_is_lowered_when_half_is_throttled(refused: float, lowered: bool) -> None:
    rate = on_throttled(in_a_row(10, refused), A_SECOND, sent_at=NOW)
    assert (rate.per_minute < 100) is lowered
    assert rate.lowerings == (1 if lowered else 10)
    assert rate.refused == pytest.approx(refused + 0.05)


def test_named_rate_applies_after_any_number_of_decreases() -> None:
    rate = on_throttled(in_a_row(10), Throttling(1, per_minute=50), sent_at=NOW)
    assert (rate.per_minute, rate.lowerings) == (45, 1)


@pytest.mark.parametrize(("ago", "lowerings"), [(599, 5), (600, 1), (900, 1)])
def test_consecutive_decreases_are_counted_within_ten_minutes(ago: float, lowerings: int) -> None:
    rate = on_throttled(replace(in_a_row(4), episode_at=NOW - ago), A_SECOND, sent_at=NOW)
    assert rate.lowerings == lowerings


def test_throttled_share_is_a_moving_average_over_twenty() -> None:
    rate = on_throttled(FULL, A_SECOND, sent_at=NOW)
    assert rate.refused == pytest.approx(1 / 20)
    assert on_sent(rate, 1).refused == pytest.approx(1 / 20 * 19 / 20)
    assert on_sent(rate, 3).refused == pytest.approx(1 / 20 * (19 / 20) ** 3)
    assert on_throttled(replace(rate, refused=0.99), A_SECOND, sent_at=NOW).refused == 1


def test_429_uncounts_its_accepted_creation() -> None:
    rate = on_sent(FULL, 3)
    assert (rate.accepted, rate.last_sent, rate.steady) == (3, NOW, 3)
    assert on_throttled(rate, A_SECOND, sent_at=NOW).accepted == 2
    assert on_throttled(rate, A_SECOND, sent_at=NOW - 1).accepted == 3, "it was not counted"
    assert on_throttled(FULL, A_SECOND, sent_at=NOW).accepted == 0


def test_only_creations_sent_after_an_episode_start_another() -> None:
    first = on_throttled(on_sent(FULL, 9), A_SECOND, sent_at=NOW)
    assert (first.episode_at, first.lowerings) == (NOW, 1)
    later = at(first, 5)
    same = on_throttled(later, Throttling(2), sent_at=NOW)
    assert (same.episode_at, same.lowerings, same.paused_until) == (NOW, 1, NOW + 7)
    another = on_throttled(later, Throttling(2), sent_at=NOW + 0.001)
    assert (another.episode_at, another.lowerings) == (NOW + 5, 2)


def test_further_429s_of_an_episode_never_shorten_its_pause() -> None:
    first = on_throttled(FULL, Throttling(60), sent_at=NOW)
    for named in (None, 1, 0):
        rate = on_throttled(at(first, 1), Throttling(named), sent_at=NOW)
        assert rate.paused_until == NOW + 60
    assert on_throttled(at(first, 1), Throttling(1e6), sent_at=NOW).paused_until == NOW + 301


def test_429_of_an_episode_without_retry_after_does_not_extend_the_pause() -> None:
    first = on_throttled(FULL, Throttling(0.5), sent_at=NOW)
    for named, pause in ((None, 0.5), (0, 0.5), (0.25, 0.5), (0.75, 1)):
        rate = on_throttled(at(first, 0.25), Throttling(named), sent_at=NOW)
        assert rate.paused_until == NOW + pause


def test_429_of_an_episode_ignores_creations_counted_since() -> None:
    first = on_throttled(at(on_sent(FULL, 60), 10), A_SECOND, sent_at=NOW)
    recounted = replace(at(first, 30), since=NOW + 15, accepted=2)
    assert on_throttled(recounted, A_SECOND, sent_at=NOW).per_minute == first.per_minute


def test_further_429s_of_an_episode_refine_the_accepted_rate() -> None:
    first = on_throttled(at(on_sent(FULL, 60), 10), A_SECOND, sent_at=NOW)
    assert first.per_minute == pytest.approx(59 * 60 / 10)
    assert on_throttled(first, A_SECOND, sent_at=NOW).per_minute == pytest.approx(58 * 60 / 10)
    named = on_throttled(first, Throttling(1, per_minute=6), sent_at=NOW)
    assert named.per_minute == first.per_minute, "it was named once"
    recounted = replace(first, since=first.at + 1)
    assert on_throttled(recounted, A_SECOND, sent_at=NOW).per_minute == first.per_minute


@pytest.mark.parametrize(
    ("reported", "burst"), [(None, 1), (0, 1), (0.5, 1), (1, 1), (2, 2), (30, 30)]
)
def test_burst_after_a_429_is_the_named_one(reported: float | None, burst: float) -> None:
    rate = on_throttled(FULL, Throttling(1, per_minute=60, burst=reported), sent_at=NOW)
    assert (rate.burst, rate.tokens, rate.steady) == (burst, 0, 0)


def test_named_rate_is_used_minus_a_tenth_and_is_the_ceiling_for_ten_minutes() -> None:
    rate = on_throttled(on_sent(FULL, 500), Throttling(1, per_minute=60), sent_at=NOW)
    assert (rate.per_minute, rate.ceiling) == pytest.approx((54, 60))
    assert rate.ceiling_until == NOW + 600


def test_learned_rate_is_at_least_one_a_minute_and_never_above_the_previous() -> None:
    slow = Rate.initial(3, NOW)
    assert on_throttled(slow, Throttling(1, per_minute=0.5), sent_at=NOW).per_minute == 1
    assert on_throttled(slow, Throttling(1, per_minute=600), sent_at=NOW).per_minute == 3


def test_accepted_rate_uses_at_least_one_second_and_one_creation() -> None:
    fast = on_throttled(at(on_sent(FULL, 5), 0.5), A_SECOND, sent_at=NOW)
    assert fast.per_minute == 4 * 60
    assert on_throttled(at(on_sent(FULL, 5), 4), A_SECOND, sent_at=NOW).per_minute == 60
    assert on_throttled(at(on_sent(FULL, 1), 4), A_SECOND, sent_at=NOW).per_minute == 15


def test_accepted_rate_above_the_configured_one_becomes_the_ceiling() -> None:
    rate = replace(Rate.initial(60, NOW), since=NOW - 1, last_sent=NOW, accepted=10)
    assert on_throttled(rate, A_SECOND, sent_at=NOW).ceiling == pytest.approx(9 * 60 / 0.9)
    less = replace(rate, accepted=1)
    assert on_throttled(less, A_SECOND, sent_at=NOW).ceiling == pytest.approx(60 / 0.9)
    much_less = replace(rate, since=NOW - 10, accepted=1)
    assert on_throttled(much_less, A_SECOND, sent_at=NOW).ceiling == 60


@pytest.mark.parametrize(("accepted", "per_minute"), [(2, 40), (3, 80), (9, 80)])
def test_lowered_rate_falls_by_its_last_step_after_two_accepted_else_further(
    accepted: float, per_minute: float
) -> None:
    rate = replace(in_a_row(1), accepted=accepted, since=NOW - 90)
    assert on_throttled(rate, A_SECOND, sent_at=NOW).per_minute == pytest.approx(per_minute)


def test_lowered_rate_falls_to_the_accepted_rate_when_higher() -> None:
    rate = replace(in_a_row(1), accepted=16, since=NOW - 10)
    assert on_throttled(rate, A_SECOND, sent_at=NOW).per_minute == pytest.approx(90)


# Recently accepted creations.


def test_accepted_count_resets_with_a_new_episode() -> None:
    rate = replace(FULL, since=NOW - 9, episode_at=NOW - 3, accepted=7, last_sent=NOW - 4)
    counted = on_sent(rate, 2)
    assert (counted.accepted, counted.since) == (2, NOW - 3)
    same = replace(rate, episode_at=NOW - 9)
    assert on_sent(same, 2).accepted == 9


@pytest.mark.parametrize(
    ("per_minute", "silent", "accepted"),
    [(600, 10, 7 + 2), (600, 10.01, 2), (6, 100, 7 + 2), (6, 100.01, 2)],
)
def test_accepted_count_resets_after_ten_seconds_or_ten_creation_intervals_without_creations(
    per_minute: float, silent: float, accepted: float
) -> None:
    rate = replace(
        Rate.initial(per_minute, NOW), since=NOW - silent, last_sent=NOW - silent, accepted=7
    )
    counted = on_sent(rate, 2)
    assert counted.accepted == accepted
    assert counted.since == (NOW if accepted == 2 else NOW - silent)


def test_accepted_count_over_twenty_seconds_keeps_the_share_of_the_last_ten() -> None:
    rate = replace(FULL, since=NOW - 20, last_sent=NOW - 1, accepted=40)
    assert (on_sent(rate, 2).accepted, on_sent(rate, 2).since) == (42, NOW - 20)
    counted = on_sent(replace(rate, since=NOW - 25), 2)
    assert (counted.accepted, counted.since) == pytest.approx((40 * 10 / 25 + 2, NOW - 10))


# Growth.


def lowered(per_minute: float, *, steady: int = 0, **changes: Any) -> Rate:
    return replace(
        FULL, per_minute=per_minute, burst=1, steady=steady, last_sent=NOW, since=NOW, **changes
    )


def test_lowered_rate_grows_by_a_quarter_every_second_creation() -> None:
    assert on_sent(lowered(100), 1).per_minute == 100
    assert on_sent(lowered(100, steady=1), 1).per_minute == 125
    grown = on_sent(lowered(100), 2)
    assert (grown.per_minute, grown.steady) == (125, 0)
    assert on_sent(FULL, 9).steady == 9, "there is nothing to grow"


def test_rate_grows_to_below_its_ceiling_while_that_holds() -> None:
    under = lowered(100, ceiling=120, ceiling_until=NOW + 0.001)
    assert on_sent(under, 2).per_minute == pytest.approx(108)
    assert on_sent(replace(under, ceiling_until=NOW), 2).per_minute == 125
    assert on_sent(lowered(100, ceiling=90, ceiling_until=NOW + 9), 2).per_minute == 100


def test_burst_recovers_with_the_full_rate_once_no_ceiling_holds() -> None:
    assert on_sent(lowered(599), 2).burst == full_burst(600)
    assert on_sent(lowered(100), 2).burst == 1
    ceiling = lowered(599, ceiling=6_000, ceiling_until=NOW + 9)
    assert (on_sent(ceiling, 2).per_minute, on_sent(ceiling, 2).burst) == (600, 1)
