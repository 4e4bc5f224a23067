"""How many creations an account may start, and what throttling teaches."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.semaphores.rate import GROWTH, Rate

NOW = 100_000.0


def test_the_bucket_begins_full_and_refills_evenly() -> None:
    rate = Rate.full(600, NOW).spent(600)
    assert rate.ready_at() == pytest.approx(NOW + 0.1)
    assert rate.at_time(NOW + 1).tokens == pytest.approx(10)
    assert rate.at_time(NOW + 3_600).tokens == 600


def test_a_slot_that_was_not_used_returns() -> None:
    assert Rate.full(60, NOW).spent(10).given_back(4).tokens == 54


def test_a_429_stops_creations_for_the_time_it_names() -> None:
    rate = Rate.full(600, NOW).throttled(sent_at=NOW, retry_after=10, per_minute=None, burst=None)
    assert rate.ready_at() >= NOW + 10


def test_a_429_that_names_a_lower_rate_sets_it() -> None:
    rate = Rate.full(600, NOW).throttled(sent_at=NOW, retry_after=10, per_minute=6, burst=1)
    assert rate.per_minute == pytest.approx(6 * 0.9)
    assert rate.burst == 1


def test_a_429_that_names_no_rate_teaches_what_was_accepted_lately() -> None:
    rate = Rate.full(600, NOW)
    for second in range(5):
        rate = rate.at_time(NOW + second).noted_sent(2)
    rate = rate.at_time(NOW + 5).noted_sent(1)
    learned = rate.throttled(sent_at=NOW + 5, retry_after=1, per_minute=None, burst=None)
    assert learned.per_minute == pytest.approx(120)
    assert learned.burst == 1


def test_a_flood_of_answers_to_what_was_sent_before_is_one_episode() -> None:
    rate = Rate.full(600, NOW).noted_sent(60).at_time(NOW + 1)
    for _ in range(58):
        rate = rate.throttled(sent_at=NOW, retry_after=None, per_minute=None, burst=None)
    assert rate.per_minute == pytest.approx(120), "two of sixty were accepted in a second"
    assert rate.paused_until == NOW + 2
    assert rate.episode_at == NOW + 1


def test_a_lowered_rate_grows_with_what_is_accepted_to_under_what_failed_and_later_to_all() -> None:
    rate = Rate.full(600, NOW).throttled(sent_at=NOW, retry_after=1, per_minute=None, burst=None)
    low = rate.per_minute
    rate = rate.at_time(NOW + 2).noted_sent(1)
    assert rate.per_minute == low
    rate = rate.noted_sent(1)
    assert rate.per_minute == pytest.approx(low * GROWTH)
    for _ in range(100):
        rate = rate.noted_sent(1)
    assert rate.per_minute == pytest.approx(540)
    rate = rate.at_time(NOW + 700)
    for _ in range(100):
        rate = rate.noted_sent(1)
    assert (rate.per_minute, rate.burst) == (600, 600)


def test_a_rate_that_was_named_is_not_passed_while_its_ceiling_stands() -> None:
    rate = Rate.full(600, NOW).throttled(sent_at=NOW, retry_after=1, per_minute=60, burst=1)
    for _ in range(100):
        rate = rate.noted_sent(1)
    assert rate.per_minute == pytest.approx(54)


def test_a_rate_is_restored_as_it_was_also_from_another_version() -> None:
    rate = Rate.full(600, NOW).spent(3).noted_sent(2)
    state = json.loads(json.dumps(asdict(rate)))
    assert Rate.restored(state) == rate
    del state["idle"]
    assert Rate.restored({**state, "of_another_version": 1}) == rate


def test_another_configured_rate_replaces_one_of_which_nothing_was_learned() -> None:
    assert Rate.full(600, NOW).declared(6_000, NOW).per_minute == 6_000
    learned = Rate.full(600, NOW).throttled(sent_at=NOW, retry_after=1, per_minute=6, burst=1)
    assert learned.declared(6_000, NOW).per_minute == pytest.approx(5.4)


def test_another_configured_rate_ends_no_pause() -> None:
    learned = Rate.full(600, NOW).throttled(sent_at=NOW, retry_after=30, per_minute=6, burst=1)
    declared = learned.declared(300, NOW + 1)
    assert declared.ready_at() >= NOW + 30
    assert declared.burst == 1


def test_a_burst_that_was_lost_comes_back_though_the_rate_was_not_lowered() -> None:
    rate = Rate.full(600, NOW).noted_sent(60).at_time(NOW + 0.3)
    rate = rate.throttled(sent_at=NOW, retry_after=1, per_minute=None, burst=None)
    assert (rate.per_minute, rate.burst) == (600, 1)
    rate = rate.at_time(NOW + 700).noted_sent(1).noted_sent(1)
    assert rate.burst == 600


def test_a_clock_that_goes_back_stops_nothing_for_long() -> None:
    rate = Rate.full(600, NOW).spent(600)
    assert rate.at_time(NOW - 3_600).ready_at() <= NOW - 3_600 + 1


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.one_of(
                st.just("time"),
                st.just("spend"),
                st.tuples(st.one_of(st.none(), st.floats(0, 1e4)), st.integers(1, 600)),
            ),
        )
    )
)
def test_whatever_happens_the_rate_stays_between_its_bounds(history: list[Any]) -> None:
    rate, now = Rate.full(600, NOW), NOW
    for passed, what in history:
        now += passed
        rate = rate.at_time(now)
        if what == "spend" and rate.tokens >= 1:
            rate = rate.spent(1).noted_sent(1)
        elif isinstance(what, tuple):
            rate = rate.throttled(sent_at=now, retry_after=what[0], per_minute=what[1], burst=1)
        assert 1 <= rate.per_minute <= 600
        assert rate.tokens <= rate.burst
        assert rate.ready_at() <= now + 300 + 60
