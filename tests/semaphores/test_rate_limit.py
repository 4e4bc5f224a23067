"""The rate limit: how many creations an account may start."""

import json
from dataclasses import asdict, replace

import pytest

from replicate_mcp.semaphores.rate_limit import (
    BURST_HEADROOM_SECONDS,
    REQUESTS_PER_MINUTE,
    Rate,
    full_burst,
)

NOW = 100_000.0
LOWERED = replace(Rate.initial(600, NOW), per_minute=6, burst=1, tokens=0, paused_until=NOW + 30)


def test_bucket_starts_full_and_refills_evenly() -> None:
    rate = Rate.initial(600, NOW)
    rate = rate.consume(rate.tokens)
    assert rate.next_available_at() == pytest.approx(NOW + 0.1)
    assert rate.refilled_at(NOW + 1).tokens == pytest.approx(10)
    assert rate.refilled_at(NOW + 3_600).tokens == 600 - 10 * BURST_HEADROOM_SECONDS


def test_unused_slot_is_refunded() -> None:
    assert Rate.initial(60, NOW).consume(10).refund(4).tokens == 54 - 1 * BURST_HEADROOM_SECONDS


def test_rate_round_trips_also_from_another_version() -> None:
    state = json.loads(json.dumps(asdict(LOWERED)))
    assert Rate.from_dict(state) == LOWERED
    del state["since"]
    assert Rate.from_dict({**state, "of_another_version": 1}) == LOWERED


def test_new_configured_rate_replaces_an_unlearned_one() -> None:
    assert Rate.initial(600, NOW).with_configured(6_000, NOW).per_minute == 6_000
    assert LOWERED.with_configured(6_000, NOW).per_minute == 6
    assert LOWERED.with_configured(3, NOW).per_minute == 3


def test_new_configured_rate_does_not_end_a_pause() -> None:
    declared = LOWERED.with_configured(300, NOW + 1)
    assert declared.next_available_at() >= NOW + 30
    assert declared.burst == 1


def test_clock_set_back_does_not_stop_creations_for_long() -> None:
    assert (
        Rate.initial(600, NOW).consume(595).refilled_at(NOW - 3_600).next_available_at()
        <= NOW - 3_600 + 1
    )
    assert LOWERED.refilled_at(NOW - 3_600).next_available_at() <= NOW - 3_600 + 10


def test_full_burst_leaves_half_a_second_of_headroom_and_is_at_least_one() -> None:
    assert [full_burst(rate) for rate in (600, 60, 1.0, 0.5)] == [595, 59.5, 1.0, 1.0]
    assert (REQUESTS_PER_MINUTE, BURST_HEADROOM_SECONDS) == (600, 0.5)


def test_rate_counts_as_lowered_when_it_or_its_burst_is_below_the_full_one() -> None:
    full = Rate.initial(600, NOW)
    assert not full.lowered
    assert replace(full, per_minute=599).lowered
    assert replace(full, burst=594).lowered
    assert not replace(full, tokens=0).lowered


@pytest.mark.parametrize(
    ("tokens", "paused_for", "ready_in"),
    [(1, 0, 0), (0.4, 0, 0.6), (-1, 0, 2), (5, 0, 0), (5, 3, 3), (0, 0.5, 1)],
)
def test_creation_may_start_with_a_slot_and_no_pause(
    tokens: float, paused_for: float, ready_in: float
) -> None:
    rate = replace(Rate.initial(60, NOW), tokens=tokens, paused_until=NOW + paused_for)
    assert rate.next_available_at() == pytest.approx(NOW + ready_in)


def test_refunded_slots_do_not_overfill_the_bucket() -> None:
    rate = Rate.initial(60, NOW)
    assert rate.consume(10).refund(4).tokens == 53.5
    assert rate.consume(2).refund(4).tokens == 59.5
    assert rate.consume(1.5).consume(2).tokens == 56


def test_new_configured_rate_adjusts_available_tokens_immediately() -> None:
    rate = Rate.initial(600, NOW).consume(595).refilled_at(NOW + 1)
    slower = rate.with_configured(60, NOW + 2)
    assert (slower.full_per_minute, slower.per_minute, slower.burst) == (60, 60, 59.5)
    assert slower.tokens == pytest.approx(20), "by the rate that applied until now"
    assert Rate.initial(600, NOW).with_configured(60, NOW).tokens == 59.5
    faster = Rate.initial(60, NOW).with_configured(600, NOW)
    assert (faster.tokens, faster.burst) == (59.5, 595)
    assert faster.refilled_at(NOW + 60).tokens == 595
    assert Rate.initial(600, NOW).with_configured(600, NOW + 5).at == NOW


def test_lowered_rate_stays_capped_by_a_new_full_rate() -> None:
    lowered = replace(Rate.initial(600, NOW), per_minute=30, burst=5, tokens=2)
    for full, expected in ((60, (30, 5)), (6, (6, 5)), (6_000, (30, 5)), (2, (2, 1.9833333))):
        rate = lowered.with_configured(full, NOW)
        assert (rate.per_minute, rate.burst) == pytest.approx(expected)
        assert rate.tokens == pytest.approx(min(2, expected[1]))
        assert rate.full_per_minute == full


def test_manual_rate_is_changed_only_manually() -> None:
    by_hand = Rate.initial(600, NOW).with_manual(60, NOW)
    assert by_hand.by_hand
    assert by_hand.with_configured(300, NOW) == by_hand
    assert by_hand.with_manual(300, NOW).per_minute == 300
    assert Rate.initial(600, NOW).with_manual(600, NOW).with_configured(6, NOW).per_minute == 600
    assert not Rate.initial(600, NOW).with_configured(6, NOW).by_hand


def test_stored_times_are_moved_back_with_the_clock() -> None:
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
    assert later.refilled_at(NOW).paused_until == NOW + 30, "an equal time is not later"


def test_bucket_refills_up_to_its_burst() -> None:
    rate = replace(Rate.initial(60, NOW), tokens=-3, burst=2)
    assert [rate.refilled_at(NOW + seconds).tokens for seconds in (0, 1, 4, 5, 9)] == [
        -3,
        -2,
        1,
        2,
        2,
    ]


def test_initial_rate_has_only_its_bucket_fields_set() -> None:
    known = {"full_per_minute": 60, "per_minute": 60, "burst": 59.5, "tokens": 59.5, "at": NOW}
    recorded = asdict(Rate.initial(60, NOW))
    assert {name: recorded.pop(name) for name in known} == known
    assert set(recorded.values()) == {0}
