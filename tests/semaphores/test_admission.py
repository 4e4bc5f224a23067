"""The admission decision: which entries start next."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.semaphores.adaptive_rate import Throttling, on_throttled
from replicate_mcp.semaphores.admission import (
    OFFER_STALE_SECONDS,
    OFFER_TTL_SECONDS,
    Decision,
    Entry,
    admit,
)
from replicate_mcp.semaphores.rate_limit import Rate, full_burst

NOW = 1_000.0


def entry(
    name: str,
    waiting: int = 1,
    *semaphores: str,
    account: str | None = None,
    holder: str = "p",
    running: int = 0,
    max_running: int | None = None,
) -> Entry:
    return Entry(
        name,
        holder,
        semaphores or ("s",),
        account,
        waiting,
        running=running,
        max_running=max_running,
    )


def test_grants_equal_the_free_units() -> None:
    assert admit([entry("a", 5)], {"s": 3}, {}, now=NOW).grants == ("a", "a", "a")


def test_batches_are_served_round_robin() -> None:
    decision = admit([entry("a", 5), entry("b", 5), entry("c", 1)], {"s": 5}, {}, now=NOW)
    assert decision.grants == ("a", "b", "c", "a", "b")


def test_small_batch_is_served_at_its_turn_beside_a_large_one() -> None:
    assert admit([entry("small", 1), entry("large", 500)], {"s": 1}, {}, now=NOW).grants == (
        "small",
    )


def test_entries_that_do_not_fit_are_skipped() -> None:
    queue = [entry("both", 1, "s", "full"), entry("one", 1, "s")]
    assert admit(queue, {"s": 2, "full": 0}, {}, now=NOW).grants == ("one",)


def test_first_entry_reserves_units_while_waiting_for_the_rest() -> None:
    queue = [entry("both", 1, "s", "full"), entry("one", 1, "s")]
    assert admit(queue, {"s": 1, "full": 0}, {}, now=NOW).grants == ()


def test_only_the_first_entry_reserves_units() -> None:
    queue = [
        entry("first", 1, "s", "full"),
        entry("second", 1, "t", "full"),
        entry("third", 1, "t"),
    ]
    assert admit(queue, {"s": 1, "t": 1, "full": 0}, {}, now=NOW).grants == ("third",)


def test_stalled_holder_is_granted_and_reserves_nothing() -> None:
    queue = [entry("stopped", 5, holder="stopped"), entry("alive", 5, holder="alive")]
    decision = admit(queue, {"s": 2}, {}, stalled={"stopped"}, now=NOW)
    assert decision.grants == ("alive", "alive")


def test_batch_respects_its_own_limit_and_reserves_nothing_beyond_it() -> None:
    queue = [entry("few", 9, max_running=3, running=1), entry("many", 9)]
    grants = admit(queue, {"s": 8}, {}, now=NOW).grants
    assert Counter(grants) == {"few": 2, "many": 6}


def test_entry_without_running_starts_may_start_up_to_its_own_limit() -> None:
    assert admit(
        [Entry("a", "p", ("s",), None, 5, max_running=2)], {"s": 9}, {}, now=NOW
    ).grants == (
        "a",
        "a",
    )


def test_start_uses_a_rate_slot_of_its_account() -> None:
    rates = {"acme": Rate.initial(60, NOW).consume(full_burst(60) - 2)}
    decision = admit([entry("a", 5, account="acme")], {"s": 9}, rates, now=NOW)
    assert decision.grants == ("a", "a")
    assert decision.next_at == pytest.approx(NOW + 1)


def test_paused_account_does_not_delay_other_accounts() -> None:
    paused = on_throttled(Rate.initial(60, NOW), Throttling(30, 6, 1), sent_at=NOW)
    queue = [entry("a", 5, "s", account="paused"), entry("b", 5, "s", account="free")]
    decision = admit(queue, {"s": 2}, {"paused": paused, "free": Rate.initial(60, NOW)}, now=NOW)
    assert decision.grants == ("b", "b")
    assert decision.next_at == pytest.approx(NOW + 30)


def test_next_time_is_unset_when_only_a_release_can_free_units() -> None:
    rates = {"acme": Rate.initial(60, NOW)}
    assert admit([entry("a", 5, account="acme")], {"s": 2}, rates, now=NOW).next_at is None


def test_nothing_is_admitted_while_more_units_are_held_than_the_limit() -> None:
    assert admit([entry("a", 5)], {"s": -3}, {}, now=NOW).grants == ()


def slots(tokens: float, *, paused_until: float = 0.0) -> Rate:
    """Return a rate of one creation a second with `tokens` slots left."""
    return replace(Rate.initial(60, NOW), tokens=tokens, paused_until=paused_until)


def test_first_entry_reserves_a_rate_slot_while_waiting_for_units() -> None:
    queue = [entry("first", 1, "full", account="acme"), entry("second", 5, "s", account="acme")]
    free = {"s": 9, "full": 0}
    assert admit(queue, free, {"acme": slots(1)}, now=NOW).grants == ()
    assert admit(queue, free, {"acme": slots(3)}, now=NOW).grants == ("second", "second")


def test_second_waiting_entry_reserves_no_rate_slot() -> None:
    queue = [
        entry("first", 1, "full", account="acme"),
        entry("second", 1, "full", account="acme"),
        entry("third", 9, "s", account="acme"),
    ]
    decision = admit(queue, {"s": 9, "full": 0}, {"acme": slots(2)}, now=NOW)
    assert decision.grants == ("third",)


def test_first_entry_without_a_rate_slot_reserves_units_and_waits_for_one_slot() -> None:
    queue = [entry("first", 1, "s", account="acme"), entry("second", 5, "s")]
    decision = admit(queue, {"s": 2}, {"acme": slots(0.25)}, now=NOW)
    assert decision.grants == ("second",)
    assert decision.next_at == pytest.approx(NOW + 0.75)


def test_reservation_holds_one_unit_of_each_semaphore() -> None:
    queue = [entry("first", 1, "s", "full"), entry("second", 9, "s"), entry("third", 9, "full")]
    assert admit(queue, {"s": 3, "full": 0}, {}, now=NOW).grants == ("second", "second")
    assert admit(queue, {"s": 3}, {}, now=NOW).grants == ("second", "second")


def test_one_whole_rate_slot_is_required() -> None:
    queue = [entry("a", 5, account="acme")]
    assert admit(queue, {"s": 9}, {"acme": slots(1)}, now=NOW).grants == ("a",)
    assert admit(queue, {"s": 9}, {"acme": slots(0.999)}, now=NOW).grants == ()


def test_nothing_starts_without_a_rate_or_at_an_unknown_semaphore() -> None:
    queue = [entry("a", 5, "s", account="unknown"), entry("b", 5, "unknown"), entry("c", 1, "t")]
    decision = admit(queue, {"s": 9, "t": 9}, {}, now=NOW)
    assert decision == Decision(("c",), None)


def test_start_requires_all_its_semaphores() -> None:
    for free in ({"s": 0, "t": 1}, {"s": 1, "t": 0}, {"s": 1}):
        assert admit([entry("a", 1, "s", "t")], free, {}, now=NOW).grants == ()
    assert admit([entry("a", 3, "s", "t")], {"s": 2, "t": 2}, {}, now=NOW).grants == ("a", "a")


def test_entries_without_waiting_starts_reserve_nothing() -> None:
    idle = entry("idle", 0, "s", "full", account="acme")
    decision = admit([idle, entry("b", 1)], {"s": 1, "full": 0}, {"acme": slots(0)}, now=NOW)
    assert decision == Decision(("b",), None)


def test_entry_reserves_units_only_below_its_own_limit() -> None:
    def second_gets(running: int) -> bool:
        first = entry("first", 1, "s", "full", running=running, max_running=2)
        return bool(admit([first, entry("b", 1)], {"s": 1, "full": 0}, {}, now=NOW).grants)

    assert second_gets(3)
    assert second_gets(2)
    assert not second_gets(1)


@pytest.mark.parametrize(("paused_for", "starts"), [(0.001, 0), (0, 3)])
def test_pause_ends_at_its_exact_time(paused_for: float, starts: int) -> None:
    rates = {"acme": slots(3, paused_until=NOW + paused_for)}
    assert len(admit([entry("a", 9, account="acme")], {"s": 9}, rates, now=NOW).grants) == starts


def test_next_time_is_the_earliest_that_helps_a_waiting_entry() -> None:
    rates = {
        "slow": slots(0, paused_until=NOW + 9),
        "soon": slots(0.5),
        "idle": slots(0.9),
        "ready": slots(3),
    }
    queue = [
        entry("a", 1, account="slow"),
        entry("b", 1, account="soon"),
        entry("c", 0, account="idle"),
        entry("d", 2, account="ready"),
    ]
    decision = admit(queue, {"s": 9}, rates, now=NOW)
    assert decision.grants == ("d", "d")
    assert decision.next_at == pytest.approx(NOW + 0.5)
    assert admit(queue[:1], {"s": 9}, rates, now=NOW).next_at == NOW + 9
    assert admit(queue[2:], {"s": 9}, rates, now=NOW).next_at is None


def test_offer_timeout_constants() -> None:
    assert (OFFER_STALE_SECONDS, OFFER_TTL_SECONDS) == (0.05, 0.5)


NAMES = st.sampled_from(["s", "t", "u"])
QUEUES = st.lists(
    st.builds(
        lambda number, semaphores, waiting, holder, max_running: Entry(
            f"e{number}", holder, tuple(semaphores), None, waiting, max_running=max_running
        ),
        st.integers(0, 10_000),
        st.lists(NAMES, min_size=1, max_size=2, unique=True),
        st.integers(0, 6),
        st.sampled_from(["p", "q"]),
        st.one_of(st.none(), st.integers(1, 4)),
    ),
    max_size=8,
    unique_by=lambda each: each.id,
)


@given(QUEUES, st.dictionaries(NAMES, st.integers(-2, 8)), st.sets(st.sampled_from(["p", "q"])))
def test_admission_exceeds_no_limit_and_leaves_nothing_that_fits(
    queue: list[Entry], free: dict[str, int], stalled: set[str]
) -> None:
    grants = Counter(admit(queue, free, {}, stalled=stalled, now=NOW).grants)
    by_name = {each.id: each for each in queue}
    used = Counter(name for grant in grants.elements() for name in by_name[grant].semaphores)
    for name, count in used.items():
        assert count <= free.get(name, 0)
    for each in queue:
        assert grants[each.id] <= each.waiting
        assert each.max_running is None or grants[each.id] <= each.max_running
        assert each.holder not in stalled or not grants[each.id]
    # One semaphore each: no entry waits beside a free unit.
    if all(len(each.semaphores) == 1 for each in queue):
        for each in queue:
            could = each.holder not in stalled and grants[each.id] < min(
                each.waiting, each.max_running or each.waiting
            )
            name = each.semaphores[0]
            assert not could or used[name] == max(0, free.get(name, 0))
