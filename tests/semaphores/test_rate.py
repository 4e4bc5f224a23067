"""How many creations an account may start."""

import json
from dataclasses import asdict, replace

import pytest

from replicate_mcp.semaphores.rate import KEPT_BACK, Rate

NOW = 100_000.0
LOWERED = replace(Rate.full(600, NOW), per_minute=6, burst=1, tokens=0, paused_until=NOW + 30)


def test_the_bucket_begins_full_and_refills_evenly() -> None:
    rate = Rate.full(600, NOW)
    rate = rate.spent(rate.tokens)
    assert rate.ready_at() == pytest.approx(NOW + 0.1)
    assert rate.at_time(NOW + 1).tokens == pytest.approx(10)
    assert rate.at_time(NOW + 3_600).tokens == 600 - 10 * KEPT_BACK


def test_a_slot_that_was_not_used_returns() -> None:
    assert Rate.full(60, NOW).spent(10).given_back(4).tokens == 54 - 1 * KEPT_BACK


def test_a_rate_is_restored_as_it_was_also_from_another_version() -> None:
    state = json.loads(json.dumps(asdict(LOWERED)))
    assert Rate.restored(state) == LOWERED
    del state["since"]
    assert Rate.restored({**state, "of_another_version": 1}) == LOWERED


def test_another_configured_rate_replaces_one_of_which_nothing_was_learned() -> None:
    assert Rate.full(600, NOW).declared(6_000, NOW).per_minute == 6_000
    assert LOWERED.declared(6_000, NOW).per_minute == 6
    assert LOWERED.declared(3, NOW).per_minute == 3


def test_another_configured_rate_ends_no_pause() -> None:
    declared = LOWERED.declared(300, NOW + 1)
    assert declared.ready_at() >= NOW + 30
    assert declared.burst == 1


def test_a_clock_that_goes_back_stops_nothing_for_long() -> None:
    assert Rate.full(600, NOW).spent(595).at_time(NOW - 3_600).ready_at() <= NOW - 3_600 + 1
    assert LOWERED.at_time(NOW - 3_600).ready_at() <= NOW - 3_600 + 10
