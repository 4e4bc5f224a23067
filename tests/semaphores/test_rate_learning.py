"""What creations teach about a rate that nobody announced."""

import heapq
import math
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.semaphores.rate import Rate, full_burst
from replicate_mcp.semaphores.rate_learning import GROWTH, Throttling, sent, throttled

NOW = 100_000.0
FULL = Rate.full(600, NOW)
A_SECOND = Throttling(retry_after=1)


def test_a_429_stops_creations_for_the_time_it_names() -> None:
    assert throttled(FULL, Throttling(retry_after=10), sent_at=NOW).ready_at() >= NOW + 10


def test_a_429_that_names_no_time_stops_them_for_longer_while_nothing_is_accepted() -> None:
    rate, pauses = FULL, []
    for _ in range(4):
        rate = throttled(sent(rate, 1), Throttling(), sent_at=rate.at)
        pauses.append(rate.paused_until - rate.at)
        rate = rate.at_time(rate.ready_at() + 0.001)
    assert pauses == pytest.approx([1, 2, 4, 8], abs=0.01)
    rate = throttled(sent(sent(rate, 1), 1), Throttling(), sent_at=rate.at)
    assert rate.paused_until - rate.at == pytest.approx(1), "one was accepted since"


def test_a_429_that_names_a_lower_rate_sets_it() -> None:
    rate = throttled(FULL, Throttling(10, per_minute=6, burst=1), sent_at=NOW)
    assert rate.per_minute == pytest.approx(6 * 0.9)
    assert rate.burst == 1


def test_a_429_that_names_no_rate_teaches_what_was_accepted_lately() -> None:
    rate = FULL
    for second in range(5):
        rate = sent(rate.at_time(NOW + second), 2)
    rate = sent(rate.at_time(NOW + 5), 1)
    learned = throttled(rate, A_SECOND, sent_at=NOW + 5)
    assert learned.per_minute == pytest.approx(120)
    assert learned.burst == 1


def test_a_429_to_what_was_sent_before_the_state_was_lost_leaves_a_usable_rate() -> None:
    learned = throttled(FULL.at_time(NOW + 2), A_SECOND, sent_at=NOW - 1)
    assert 60 <= learned.per_minute < FULL.per_minute


def test_what_was_accepted_long_ago_does_not_count() -> None:
    rate = sent(FULL, 500)
    rate = sent(rate.at_time(NOW + 3_600), 5)
    assert throttled(rate.at_time(NOW + 3_602), A_SECOND, sent_at=NOW + 3_600).per_minute == 120


def test_a_flood_of_answers_to_what_was_sent_before_is_one_episode() -> None:
    rate = sent(FULL, 60).at_time(NOW + 1)
    for _ in range(58):
        rate = throttled(rate, Throttling(), sent_at=NOW)
    assert rate.per_minute == pytest.approx(120), "two of sixty were accepted in a second"
    assert rate.paused_until == NOW + 2
    assert rate.episode_at == NOW + 1


def test_a_lowered_rate_grows_with_what_is_accepted_to_under_what_failed_and_later_to_all() -> None:
    rate = throttled(sent(FULL, 2), A_SECOND, sent_at=NOW)
    low = rate.per_minute
    rate = sent(rate.at_time(NOW + 2), 1)
    assert rate.per_minute == low
    rate = sent(rate, 1)
    assert rate.per_minute == pytest.approx(low * GROWTH)
    for _ in range(100):
        rate = sent(rate, 1)
    assert rate.per_minute == pytest.approx(540)
    assert rate.burst == 1
    rate = rate.at_time(NOW + 700)
    for _ in range(100):
        rate = sent(rate, 1)
    assert (rate.per_minute, rate.burst) == (600, full_burst(600))


def test_a_rate_that_has_grown_fails_only_by_its_last_step() -> None:
    rate = throttled(sent(FULL, 2), A_SECOND, sent_at=NOW).at_time(NOW + 1)
    for step in range(6):
        rate = sent(rate.at_time(NOW + 1 + step), 1)
    failed = rate.per_minute
    assert throttled(rate, A_SECOND, sent_at=rate.at).per_minute == pytest.approx(failed / GROWTH)


def test_a_rate_that_was_named_is_not_passed_while_its_ceiling_stands() -> None:
    rate = throttled(FULL, Throttling(1, per_minute=60, burst=1), sent_at=NOW)
    for _ in range(100):
        rate = sent(rate, 1)
    assert rate.per_minute == pytest.approx(54)


def test_a_burst_that_failed_comes_back_later_though_the_rate_was_not_lowered() -> None:
    rate = sent(FULL, 60).at_time(NOW + 0.3)
    rate = throttled(rate, A_SECOND, sent_at=NOW)
    for _ in range(20):
        rate = sent(rate.at_time(rate.at + 1), 1)
    assert (rate.per_minute, rate.burst) == (600, 1)
    rate = sent(sent(rate.at_time(NOW + 700), 1), 1)
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
def test_whatever_happens_the_rate_stays_between_its_bounds(history: list[Any]) -> None:
    rate, now = FULL, NOW
    for passed, what in history:
        now += passed
        rate = rate.at_time(now)
        if what == "spend" and rate.tokens >= 1:
            rate = sent(rate.spent(1), 1)
        elif isinstance(what, Throttling):
            rate = throttled(rate, what, sent_at=now)
        assert 1 <= rate.per_minute <= 600
        assert rate.tokens <= rate.burst
        assert rate.ready_at() <= now + 300 + 60


class Account:
    """What is on the other side: a bucket of its own, of which nobody tells."""

    def __init__(self, per_minute: float, burst: int, by_chance: float = 0) -> None:
        self._bucket = Rate(per_minute, per_minute, burst, burst, NOW)
        self._by_chance, self._random = by_chance, Random(1)

    def refuses(self, now: float) -> bool:
        if self._random.random() < self._by_chance:
            return True
        self._bucket = self._bucket.at_time(now)
        if self._bucket.tokens < 1 - 1e-9:
            return True
        self._bucket = self._bucket.spent(1)
        return False

    def resets_in(self) -> int:
        return max(1, math.ceil(self._bucket.ready_at() - self._bucket.at))


def make(tasks: int, account: Account, rate: Rate, *, limit: int, named: bool) -> tuple[float, int]:
    """Seconds for a batch whose predictions take half a second, and how many 429s it meets."""
    now, waiting, free, refusals, done = NOW, tasks, limit, 0, 0
    order = count()
    events: list[tuple[float, int, str, float]] = []
    while done < tasks:
        rate = rate.at_time(now)
        while waiting and free and rate.tokens >= 1 and rate.paused_until <= now:
            rate, waiting, free = sent(rate.spent(1), 1), waiting - 1, free - 1
            heapq.heappush(events, (now + 0.01, next(order), "arrives", now))
        ready = rate.ready_at() + 1e-6 if waiting and free else math.inf
        if not events or ready < events[0][0]:
            now = ready
            continue
        now, _, what, sent_at = heapq.heappop(events)
        if what == "done":
            done, free = done + 1, free + 1
        elif account.refuses(now):
            told = Throttling(account.resets_in() if named else None)
            rate = throttled(rate.at_time(now), told, sent_at=sent_at)
            refusals, waiting, free = refusals + 1, waiting + 1, free + 1
        else:
            heapq.heappush(events, (now + 0.5, next(order), "done", sent_at))
    return now - NOW, refusals


@pytest.mark.parametrize("named", [True, False], ids=["seconds named", "nothing named"])
@pytest.mark.parametrize(
    ("per_minute", "burst"), [(6, 1), (30, 1), (60, 5), (60, 60), (120, 1), (300, 1), (1200, 20)]
)
def test_an_account_that_was_lowered_without_a_word_is_soon_used_as_it_allows(
    per_minute: float, burst: int, named: bool
) -> None:
    tasks, limit = 120, 60
    seconds, refusals = make(
        tasks, Account(per_minute, burst), Rate.full(60_000, NOW), limit=limit, named=named
    )
    ideal = (tasks - burst) * 60 / per_minute
    assert seconds <= 1.3 * ideal + 3
    assert refusals <= limit + 15


@pytest.mark.parametrize("by_chance", [0.01, 0.05, 0.1, 0.2])
def test_429s_that_come_at_any_rate_cost_hardly_more_than_their_pauses(by_chance: float) -> None:
    account = Account(60_000, 60_000, by_chance)
    seconds, refusals = make(1_000, account, Rate.full(60_000, NOW), limit=60, named=True)
    assert seconds <= 20 + 1.5 * refusals


def test_a_rate_falls_all_the_same_where_most_is_refused() -> None:
    rate, lowest = FULL, FULL.per_minute
    for second in range(60):
        rate = sent(rate.at_time(NOW + 3 * second), 4)
        rate = throttled(rate, A_SECOND, sent_at=rate.at)
        lowest = min(lowest, rate.per_minute)
    assert rate.per_minute == 600, "one of four, at any rate: it is not the rate"
    for second in range(60, 120):
        rate = sent(rate.at_time(NOW + 3 * second), 1)
        rate = throttled(rate, A_SECOND, sent_at=rate.at)
    assert rate.per_minute < lowest, "all"


def test_a_rate_that_is_known_meets_no_429() -> None:
    seconds, refusals = make(1_000, Account(600, 600), Rate.full(600, NOW), limit=60, named=True)
    assert refusals == 0
    ideal = (1_000 - 600) / 10 + 0.5  # with the last prediction
    assert seconds <= 1.02 * ideal
