"""Who starts next."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.semaphores.admission import Entry, admit
from replicate_mcp.semaphores.rate import Rate, full_burst
from replicate_mcp.semaphores.rate_learning import Throttling, throttled

NOW = 1_000.0


def entry(
    name: str,
    waiting: int = 1,
    *semaphores: str,
    account: str | None = None,
    holder: str = "p",
    running: int = 0,
    at_most: int | None = None,
) -> Entry:
    return Entry(
        name, holder, semaphores or ("s",), account, waiting, running=running, at_most=at_most
    )


def test_what_is_free_is_given_and_no_more() -> None:
    assert admit([entry("a", 5)], {"s": 3}, {}, now=NOW).grants == ("a", "a", "a")


def test_batches_take_turns() -> None:
    decision = admit([entry("a", 5), entry("b", 5), entry("c", 1)], {"s": 5}, {}, now=NOW)
    assert decision.grants == ("a", "b", "c", "a", "b")


def test_a_small_batch_is_served_at_its_turn_beside_a_large_one() -> None:
    assert admit([entry("small", 1), entry("large", 500)], {"s": 1}, {}, now=NOW).grants == (
        "small",
    )


def test_what_does_not_fit_is_passed_over() -> None:
    queue = [entry("both", 1, "s", "full"), entry("one", 1, "s")]
    assert admit(queue, {"s": 2, "full": 0}, {}, now=NOW).grants == ("one",)


def test_the_first_in_turn_keeps_what_it_finds_while_it_waits_for_the_rest() -> None:
    queue = [entry("both", 1, "s", "full"), entry("one", 1, "s")]
    assert admit(queue, {"s": 1, "full": 0}, {}, now=NOW).grants == ()


def test_only_the_first_in_turn_keeps_anything() -> None:
    queue = [
        entry("first", 1, "s", "full"),
        entry("second", 1, "t", "full"),
        entry("third", 1, "t"),
    ]
    assert admit(queue, {"s": 1, "t": 1, "full": 0}, {}, now=NOW).grants == ("third",)


def test_a_stalled_holder_is_offered_nothing_and_keeps_nothing() -> None:
    queue = [entry("stopped", 5, holder="stopped"), entry("alive", 5, holder="alive")]
    decision = admit(queue, {"s": 2}, {}, stalled={"stopped"}, now=NOW)
    assert decision.grants == ("alive", "alive")


def test_a_batch_stays_under_its_own_limit_and_keeps_nothing_beyond_it() -> None:
    queue = [entry("few", 9, at_most=3, running=1), entry("many", 9)]
    grants = admit(queue, {"s": 8}, {}, now=NOW).grants
    assert Counter(grants) == {"few": 2, "many": 6}


def test_a_start_uses_a_slot_of_its_accounts_rate() -> None:
    rates = {"acme": Rate.full(60, NOW).spent(full_burst(60) - 2)}
    decision = admit([entry("a", 5, account="acme")], {"s": 9}, rates, now=NOW)
    assert decision.grants == ("a", "a")
    assert decision.next_at == pytest.approx(NOW + 1)


def test_a_paused_account_holds_up_nobody_else() -> None:
    paused = throttled(Rate.full(60, NOW), Throttling(30, 6, 1), sent_at=NOW)
    queue = [entry("a", 5, "s", account="paused"), entry("b", 5, "s", account="free")]
    decision = admit(queue, {"s": 2}, {"paused": paused, "free": Rate.full(60, NOW)}, now=NOW)
    assert decision.grants == ("b", "b")
    assert decision.next_at == pytest.approx(NOW + 30)


def test_nothing_is_decided_again_by_time_alone_where_only_a_release_makes_room() -> None:
    rates = {"acme": Rate.full(60, NOW)}
    assert admit([entry("a", 5, account="acme")], {"s": 2}, rates, now=NOW).next_at is None


def test_a_limit_lowered_under_what_is_out_lets_nobody_in() -> None:
    assert admit([entry("a", 5)], {"s": -3}, {}, now=NOW).grants == ()


NAMES = st.sampled_from(["s", "t", "u"])
QUEUES = st.lists(
    st.builds(
        lambda number, semaphores, waiting, holder, at_most: Entry(
            f"e{number}", holder, tuple(semaphores), None, waiting, at_most=at_most
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
def test_no_limit_is_passed_and_nothing_that_fits_is_left(
    queue: list[Entry], free: dict[str, int], stalled: set[str]
) -> None:
    grants = Counter(admit(queue, free, {}, stalled=stalled, now=NOW).grants)
    by_name = {each.id: each for each in queue}
    used = Counter(name for grant in grants.elements() for name in by_name[grant].semaphores)
    for name, count in used.items():
        assert count <= free.get(name, 0)
    for each in queue:
        assert grants[each.id] <= each.waiting
        assert each.at_most is None or grants[each.id] <= each.at_most
        assert each.holder not in stalled or not grants[each.id]
    # One semaphore each: nobody waits beside a free unit.
    if all(len(each.semaphores) == 1 for each in queue):
        for each in queue:
            could = each.holder not in stalled and grants[each.id] < min(
                each.waiting, each.at_most or each.waiting
            )
            name = each.semaphores[0]
            assert not could or used[name] == max(0, free.get(name, 0))
