"""How many creations an account may start."""

import json
from dataclasses import asdict, replace

import pytest

from replicate_mcp.semaphores.rate import BURST_HEADROOM_SECONDS, REQUESTS_PER_MINUTE, Rate, full_burst

NOW = 100_000.0
LOWERED = replace(Rate.initial(600, NOW), per_minute=6, burst=1, tokens=0, paused_until=NOW + 30)


def test_the_bucket_begins_full_and_refills_evenly() -> None:
    rate = Rate.initial(600, NOW)
    rate = rate.consume(rate.tokens)
    assert rate.next_available_at() == pytest.approx(NOW + 0.1)
    assert rate.refilled_at(NOW + 1).tokens == pytest.approx(10)
    assert rate.refilled_at(NOW + 3_600).tokens == 600 - 10 * BURST_HEADROOM_SECONDS


def test_a_slot_that_was_not_used_returns() -> None:
    assert Rate.initial(60, NOW).consume(10).refund(4).tokens == 54 - 1 * BURST_HEADROOM_SECONDS


def test_a_rate_is_restored_as_it_was_also_from_another_version() -> None:
    state = json.loads(json.dumps(asdict(LOWERED)))
    assert Rate.from_dict(state) == LOWERED
    del state["since"]
    assert Rate.from_dict({**state, "of_another_version": 1}) == LOWERED


def test_another_configured_rate_replaces_one_of_which_nothing_was_learned() -> None:
    assert Rate.initial(600, NOW).with_configured(6_000, NOW).per_minute == 6_000
    assert LOWERED.with_configured(6_000, NOW).per_minute == 6
    assert LOWERED.with_configured(3, NOW).per_minute == 3


def test_another_configured_rate_ends_no_pause() -> None:
    declared = LOWERED.with_configured(300, NOW + 1)
    assert declared.next_available_at() >= NOW + 30
    assert declared.burst == 1


def test_a_clock_that_goes_back_stops_nothing_for_long() -> None:
    assert Rate.initial(600, NOW).consume(595).refilled_at(NOW - 3_600).next_available_at() <= NOW - 3_600 + 1
    assert LOWERED.refilled_at(NOW - 3_600).next_available_at() <= NOW - 3_600 + 10


def test_the_full_burst_keeps_half_a_second_of_the_rate_unused_and_is_one_at_least() -> None:
    assert [full_burst(rate) for rate in (600, 60, 1.0, 0.5)] == [595, 59.5, 1.0, 1.0]
    assert (REQUESTS_PER_MINUTE, BURST_HEADROOM_SECONDS) == (600, 0.5)


def test_a_rate_is_lowered_where_it_or_its_burst_is_less_than_the_full_one() -> None:
    full = Rate.initial(600, NOW)
    assert not full.lowered
    assert replace(full, per_minute=599).lowered
    assert replace(full, burst=594).lowered
    assert not replace(full, tokens=0).lowered


@pytest.mark.parametrize(
    ("tokens", "paused_for", "ready_in"),
    [(1, 0, 0), (0.4, 0, 0.6), (-1, 0, 2), (5, 0, 0), (5, 3, 3), (0, 0.5, 1)],
)
def test_a_creation_may_start_when_there_is_a_slot_and_no_pause(
    tokens: float, paused_for: float, ready_in: float
) -> None:
    rate = replace(Rate.initial(60, NOW), tokens=tokens, paused_until=NOW + paused_for)
    assert rate.next_available_at() == pytest.approx(NOW + ready_in)


def test_slots_that_return_fill_the_bucket_and_no_more() -> None:
    rate = Rate.initial(60, NOW)
    assert rate.consume(10).refund(4).tokens == 53.5
    assert rate.consume(2).refund(4).tokens == 59.5
    assert rate.consume(1.5).consume(2).tokens == 56


def test_another_full_rate_changes_what_may_start_at_once() -> None:
    rate = Rate.initial(600, NOW).consume(595).refilled_at(NOW + 1)
    slower = rate.with_configured(60, NOW + 2)
    assert (slower.full_per_minute, slower.per_minute, slower.burst) == (60, 60, 59.5)
    assert slower.tokens == pytest.approx(20), "by the rate that applied until now"
    assert Rate.initial(600, NOW).with_configured(60, NOW).tokens == 59.5
    faster = Rate.initial(60, NOW).with_configured(600, NOW)
    assert (faster.tokens, faster.burst) == (59.5, 595)
    assert faster.refilled_at(NOW + 60).tokens == 595
    assert Rate.initial(600, NOW).with_configured(600, NOW + 5).at == NOW


def test_a_lowered_rate_stays_under_another_full_one() -> None:
    lowered = replace(Rate.initial(600, NOW), per_minute=30, burst=5, tokens=2)
    for full, expected in ((60, (30, 5)), (6, (6, 5)), (6_000, (30, 5)), (2, (2, 1.9833333))):
        rate = lowered.with_configured(full, NOW)
        assert (rate.per_minute, rate.burst) == pytest.approx(expected)
        assert rate.tokens == pytest.approx(min(2, expected[1]))
        assert rate.full_per_minute == full


def test_a_rate_that_was_set_by_hand_is_changed_by_hand_alone() -> None:
    by_hand = Rate.initial(600, NOW).with_manual(60, NOW)
    assert by_hand.by_hand
    assert by_hand.with_configured(300, NOW) == by_hand
    assert by_hand.with_manual(300, NOW).per_minute == 300
    assert Rate.initial(600, NOW).with_manual(600, NOW).with_configured(6, NOW).per_minute == 600
    assert not Rate.initial(600, NOW).with_configured(6, NOW).by_hand


def test_no_time_lies_ahead_of_a_clock_that_was_set_back() -> None:
    later = replace(
        LOWERED, episode_at=NOW - 1, since=NOW - 2, last_sent=NOW - 3, ceiling_until=NOW + 600,
        accepted=7, steady=1, pauses=2, lowerings=3, refused=0.25, tokens=-2,
    )  # fmt: skip
    before = NOW - 3_600
    assert later.refilled_at(before) == replace(
        later, at=before, paused_until=0, episode_at=before, since=before, last_sent=before,
        ceiling_until=0,
    )  # fmt: skip
    assert later.refilled_at(NOW - 2.5).last_sent == NOW - 3
    assert later.refilled_at(NOW).paused_until == NOW + 30, "the same moment is none"


def test_a_bucket_refills_up_to_its_burst() -> None:
    rate = replace(Rate.initial(60, NOW), tokens=-3, burst=2)
    assert [rate.refilled_at(NOW + seconds).tokens for seconds in (0, 1, 4, 5, 9)] == [-3, -2, 1, 2, 2]


def test_a_rate_of_which_nothing_is_known_has_nothing_else_noted() -> None:
    known = {"full_per_minute": 60, "per_minute": 60, "burst": 59.5, "tokens": 59.5, "at": NOW}
    noted = asdict(Rate.initial(60, NOW))
    assert {name: noted.pop(name) for name in known} == known
    assert set(noted.values()) == {0}
