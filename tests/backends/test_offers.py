"""Offers on every backend: how long they last, who may accept them, and what they return."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World, wake_ups
from replicate_mcp.batches.backend import Backend
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult, HolderUsage, Offer, QueueEntry


@pytest.mark.parametrize(("age", "taken"), [(0.499, True), (0.501, False)])
async def test_offer_is_acceptable_for_half_a_second(world: World, age: float, taken: bool) -> None:
    one, two = await world.holder(limit=1), await world.holder(limit=1)
    admission = await begin(one, "b1", 1)
    await begin(two, "b2", 1)
    world.clock.now += age
    await two.admit()
    assert bool(await take_all(one, admission)) is taken
    assert await state(one) == (1, 1)


@pytest.mark.parametrize(("age", "offers"), [(0.049, 2), (0.051, 1)])
async def test_holder_gets_offers_until_one_is_unanswered_for_50_ms(
    world: World, age: float, offers: int
) -> None:
    backend = await world.holder(limit=2)
    await begin(backend, "b1", 1)
    world.clock.now += age
    assert len((await begin(backend, "b2", 1)).offers) == offers


async def test_admission_reports_when_oldest_pending_offer_will_be_withdrawn(world: World) -> None:
    backend = await world.holder(limit=3)
    await begin(backend, "b1", 1)
    world.clock.now += 0.04
    assert (await begin(backend, "b2", 1)).retry_in is None
    world.clock.now += 0.03
    admission = await begin(backend, "b3", 1)
    assert [offer.entry for offer in admission.offers] == ["b1", "b2"], "the oldest counts"
    assert admission.retry_in == pytest.approx(0.501 - 0.07)
    world.clock.now += 0.431
    assert [offer.entry for offer in (await backend.admit()).offers] == ["b2"]
    world.clock.now += 1
    assert {o.entry for o in (await backend.admit()).offers} == {"b1", "b2", "b3"}


@pytest.mark.parametrize(("ahead", "lies"), [(0.9, True), (1.1, False)])
async def test_offer_dated_a_second_in_the_future_is_withdrawn(
    world: World, ahead: float, lies: bool
) -> None:
    stopped, going_on = await world.holder(limit=1), await world.holder(limit=1)
    await begin(stopped, "theirs", 1)
    await begin(going_on, "mine", 1)
    world.clock.now -= ahead
    assert bool((await going_on.admit()).offers) is not lies


async def test_offer_can_be_accepted_only_by_its_own_holder(world: World) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    first, second = (await begin(one, "b", 2)).offers
    assert not (await two.accept_offers([first.permit])).permits
    assert not (await two.record_attempts({second.permit: attempt("b", 1)})).cancel_after
    assert await take_all(one, AdmissionResult((first, second))) == [first.permit, second.permit]


async def test_offer_can_be_accepted_only_once(world: World) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    admission = await begin(one, "b", 1)
    (permit,) = await take_all(one, admission)
    await finish(one, permit, "b", failed(0))
    assert await take_all(one, admission) == []
    assert not (await one.accept_offers([permit])).permits
    assert await state(two) == (0, 0)


async def test_rate_slots_of_abandoned_offers_are_offered_again(world: World) -> None:
    backend = await world.holder(limit=100, per_minute=6)
    assert len((await begin(backend, "b1", 9)).offers) == 5
    await backend.dequeue("b1")
    assert len((await begin(backend, "b2", 9)).offers) == 5
    await backend.dequeue("b2", 7)
    admission = await begin(backend, "b3", 9)
    assert [offer.entry for offer in admission.offers].count("b3") == 3


async def test_rate_slots_of_expired_offers_are_reoffered_in_the_same_call(
    world: World,
) -> None:
    stopped = await world.holder(limit=100, per_minute=6)
    going_on = await world.holder(limit=100, per_minute=6)
    assert len((await begin(stopped, "b1", 9)).offers) == 5
    assert (await begin(going_on, "b2", 9)).offers == ()
    world.clock.now += 0.6
    assert [offer.entry for offer in (await going_on.admit()).offers] == ["b2"] * 5


async def test_rate_slots_of_withdrawn_offers_return_to_their_account(world: World) -> None:
    stopped = await world.holder(limit=100, per_minute=6)
    await stopped.declare_limit(account_semaphore("other"), 100, per_minute=6)
    going_on = await world.holder(limit=100, per_minute=6)
    await begin(stopped, "b1", 2)
    await begin(stopped, "b2", 4, account="other")
    world.clock.now += 0.6
    assert len((await begin(going_on, "b3", 9)).offers) == 5
    assert len((await begin(going_on, "b4", 9, account="other")).offers) == 10


async def test_resumed_holder_is_offered_a_permit_freed_by_another(world: World) -> None:
    stopped, alive = await world.holder(limit=1, label="s"), await world.holder(limit=1, label="a")
    await begin(stopped, "b1", 9)
    await begin(alive, "b2", 9)
    world.clock.now += 0.6
    (permit,) = await take_all(alive, await alive.admit())
    assert (await stopped.admit()).offers == ()
    async with wake_ups(stopped) as woken:
        await woken.next_after(lambda: finish(alive, permit, "b2", failed(0)))
    assert HolderUsage("s", OWN, in_use=1, waiting=8) in await alive.usage_by_holder()


async def test_holder_with_stale_offers_is_not_woken_for_more(world: World) -> None:
    stopped, alive = await world.holder(limit=1), await world.holder(limit=1)
    await begin(stopped, "b1", 9)
    await begin(alive, "b2", 9)
    world.clock.now += 0.6
    (permit,) = await take_all(alive, await alive.admit())
    async with wake_ups(stopped) as woken:
        await woken.none_after(lambda: finish(alive, permit, "b2", failed(0)))


async def test_only_the_resumed_one_of_two_stopped_holders_gets_offers(
    world: World,
) -> None:
    first, second = await world.holder(limit=2), await world.holder(limit=2)
    alive = await world.holder(limit=2)
    await begin(first, "b1", 9)
    await first.dequeue("b1", 8)
    await begin(second, "b2", 9)
    await begin(alive, "b3", 2)
    world.clock.now += 0.6
    permits = await take_all(alive, await alive.admit())
    assert len(permits) == 2
    assert (await first.admit()).offers == ()
    await finish(alive, permits[0], "b3", failed(0))
    await finish(alive, permits[1], "b3", failed(1))
    assert [offer.entry for offer in (await first.admit()).offers] == ["b1"]
    assert await state(alive) == (1, 9)


async def test_holder_is_not_woken_for_its_own_offers(world: World) -> None:
    backend, other = await world.holder(limit=2), await world.holder(limit=2)
    async with wake_ups(backend) as mine, wake_ups(other) as theirs:
        await theirs.drain()
        await mine.none_after(lambda: begin(backend, "b", 1))
        await theirs.none_after(lambda: begin(backend, "b2", 1))


async def test_accepting_offers_in_time_triggers_no_admission(world: World) -> None:
    backend = await world.holder(limit=1)
    admission = await begin(backend, "b", 3)
    world.clock.now += 0.049
    taken = await backend.accept_offers([offer.permit for offer in admission.offers])
    assert taken.permits == {offer.permit for offer in admission.offers}
    assert taken.admission == AdmissionResult()


async def test_newest_offers_are_withdrawn_when_fewer_starts_are_waiting(world: World) -> None:
    backend = await world.holder(limit=3)
    await backend.register("team", 3)
    admission = await backend.enqueue(QueueEntry("c", ("team",), None, 4))
    oldest, *_ = admission.offers
    assert (await backend.dequeue("c", 3)).offers == (oldest,)
    assert await state(backend, "team") == (1, 0)


async def test_reducing_demand_removes_waiting_starts_before_offered_ones(
    world: World,
) -> None:
    backend = await world.holder()
    await backend.register("team", 2)
    admission = await backend.enqueue(QueueEntry("c", ("team",), None, 5))
    assert (await backend.dequeue("c", 3)).offers == admission.offers
    assert await state(backend, "team") == (2, 0)
    assert (await backend.dequeue("c", 99)).offers == ()
    assert await state(backend, "team") == (0, 0)
    assert len((await backend.enqueue(QueueEntry("c", ("team",), None, 1))).offers) == 1


async def test_re_enqueued_entry_adds_starts_served_in_turn(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    (offer,) = (await backend.enqueue(QueueEntry("c", ("team",), None, 2))).offers
    await backend.accept_offers([offer.permit])
    await backend.enqueue(QueueEntry("d", ("team",), None, 1))
    await backend.enqueue(QueueEntry("c", ("team",), None, 2))
    assert await state(backend, "team") == (1, 4)
    served = []
    for _ in range(4):
        (offer,) = (await backend.release(offer.permit)).offers
        await backend.accept_offers([offer.permit])
        served.append(offer.entry)
    assert served == ["c", "d", "c", "c"]


async def test_new_entry_is_served_after_all_that_have_waited(world: World) -> None:
    one = await world.holder(limit=1)
    admission = await begin(one, "a", 9)
    for entry in ("b", "c"):
        await begin(one, entry, 9)
    served = []
    for number in range(10):
        if number == 4:
            await begin(one, "new", 9)
        (permit,) = await take_all(one, admission, number)
        served.append(admission.offers[0].entry)
        admission = await one.release(permit)
    assert served == ["a", "a", "b", "c", "a", "b", "c", "a", "new", "b"]


async def test_rate_slots_of_a_closing_holder_return_to_its_account(world: World) -> None:
    staying, leaving = await world.holder(limit=99, per_minute=6), await world.open()
    await leaving.declare_limit(OWN, 99, per_minute=6)
    offered = len((await begin(leaving, "theirs", 50)).offers)
    assert 0 < offered < 50
    assert (await begin(staying, "mine", 50)).offers == ()
    await leaving.close()
    assert len((await staying.admit()).offers) == offered


async def test_entries_receive_offers_round_robin(world: World) -> None:
    backend = await world.holder(limit=2)
    permits = await take_all(backend, await begin(backend, "b1", 9))
    for name in ("b2", "b3"):
        await begin(backend, name, 3)
    served = []
    for permit in permits:
        admission = await backend.requeue(permit)
        served += [offer.entry for offer in admission.offers]
        permits += sorted(
            (await backend.accept_offers([o.permit for o in admission.offers])).permits
        )
        if len(served) == 5:
            break
    assert served == ["b1", "b2", "b3", "b1", "b2"]


async def test_offer_requires_all_semaphores_of_its_entry_simultaneously(world: World) -> None:
    backend = await world.holder(limit=2)
    await backend.register("team", 1)
    (first,) = (await begin(backend, "both", 3, also=("team",))).offers
    await backend.record_attempts({first.permit: attempt("both", 0)})
    # It is first in the queue and keeps the free unit.
    assert (await begin(backend, "one", 2)).offers == ()
    admission = await finish(backend, first.permit, "both", failed(0))
    assert [offer.entry for offer in admission.offers] == ["both", "one"]


async def test_first_entry_reserves_a_rate_slot_while_waiting_for_a_unit(
    world: World,
) -> None:
    backend = await world.holder(limit=9, per_minute=6)
    await backend.register("team", 1)
    (first,) = (await begin(backend, "both", 3, also=("team",))).offers
    await backend.record_attempts({first.permit: attempt("both", 0)})
    assert len((await begin(backend, "one", 9)).offers) == 3, "the fourth is kept"
    admission = await finish(backend, first.permit, "both", failed(0))
    assert [offer.entry for offer in admission.offers].count("both") == 1


async def test_only_own_permits_count_against_the_limit_of_an_entry(world: World) -> None:
    backend = await world.holder(limit=9)
    await take_all(backend, await begin(backend, "other", 3))
    admission = await begin(backend, "b", 5, max_running=2)
    assert [offer.entry for offer in admission.offers] == ["b", "b"]
    (permit, second) = await take_all(backend, admission)
    assert (await backend.admit()).offers == ()
    await backend.requeue(permit)
    assert len((await backend.admit()).offers) == 1
    await backend.finish(second, "b", failed(1, "p1"), ended=False)
    assert len((await backend.admit()).offers) == 1, "it may still run"


async def test_requeueing_a_permit_twice_has_no_second_effect(world: World) -> None:
    backend = await world.holder(limit=1)
    (permit,) = await take_all(backend, await begin(backend, "b", 1))
    for _ in range(2):
        await backend.requeue(permit)
        assert await state(backend) == (1, 0)
    (offer,) = (await backend.admit()).offers
    await backend.record_attempts({offer.permit: attempt("b", 0)})
    for _ in range(2):
        await backend.release(offer.permit)
        assert await state(backend) == (0, 0)


async def test_permit_numbers_are_unique_and_increasing(world: World) -> None:
    backend = await world.holder(limit=2)
    seen: list[int] = []
    admission = await begin(backend, "b", 8)
    for round_ in range(4):
        numbers = [offer.permit for offer in admission.offers]
        assert min(numbers) > max(seen, default=0)
        seen += numbers
        permits = await take_all(backend, admission, first_task=2 * round_)
        for place, permit in enumerate(permits):
            admission = await finish(backend, permit, "b", failed(2 * round_ + place))
    assert len(set(seen)) == len(seen) == 8


async def test_attempt_of_a_closed_holder_expires_after_its_maximum_duration(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    first, second = (await begin(leaving, "b", 2)).offers
    await leaving.record_attempts(
        {
            first.permit: replace(attempt("b", 0), max_seconds=10),
            second.permit: replace(attempt("b", 1), max_seconds=20),
        }
    )
    await leaving.close()
    for seconds, in_use in ((9.9, 2), (0.2, 1), (9.8, 1), (0.2, 0)):
        world.clock.now += seconds
        assert await state(staying) == (in_use, 0)


# Cancel-After of equal attempts.


async def recorded(backend: Backend, offers: Sequence[Offer], prompt: str = "p") -> list[int]:
    """Return the Cancel-After of each recorded attempt, in the order of the offers."""
    attempts = {
        offer.permit: attempt(offer.entry, task, prompt=prompt) for task, offer in enumerate(offers)
    }
    chosen = (await backend.record_attempts(attempts)).cancel_after
    return [chosen[offer.permit] for offer in offers]


async def test_cancel_after_is_reused_once_its_attempt_has_ended(world: World) -> None:
    backend = await world.holder(limit=3)
    await begin(backend, "b", 9)
    for number in range(3):
        offers = (await backend.admit()).offers
        assert await recorded(backend, offers) == [600, 597, 594]
        for task, offer in enumerate(offers):
            await finish(backend, offer.permit, "b", failed(3 * number + task))


@pytest.mark.parametrize("place", range(3))
async def test_cancel_after_of_the_ended_attempt_becomes_free(world: World, place: int) -> None:
    backend = await world.holder(limit=3)
    offers = (await begin(backend, "b", 4)).offers
    chosen = await recorded(backend, offers)
    admission = await backend.release(offers[place].permit)
    assert await recorded(backend, admission.offers) == [chosen[place]]


async def test_different_attempts_may_share_a_cancel_after(world: World) -> None:
    backend = await world.holder(limit=9)
    await backend.declare_limit(account_semaphore("other"), 9, per_minute=60_000)
    await begin(backend, "b1", 1)
    assert await recorded(backend, (await backend.admit()).offers, prompt="one") == [600]
    await begin(backend, "b2", 1)
    assert await recorded(backend, (await backend.admit()).offers, prompt="another") == [600]
    await begin(backend, "b3", 1, account="other")
    assert await recorded(backend, (await backend.admit()).offers, prompt="one") == [600]
    (offer,) = (await begin(backend, "b4", 1)).offers
    other_model = replace(attempt("b4", 0, prompt="one"), model="o/another")
    chosen = await backend.record_attempts({offer.permit: other_model})
    assert list(chosen.cancel_after.values()) == [600]
    (offer,) = (await begin(backend, "b5", 1)).offers
    assert await recorded(backend, [offer], prompt="one") == [597]


async def test_equality_of_inputs_ignores_key_order(world: World) -> None:
    backend = await world.holder(limit=2)
    first, second = (await begin(backend, "b", 2)).offers
    inputs = {"prompt": "1", "seed": "2"}
    attempts = {
        first.permit: replace(attempt("b", 0), inputs=inputs),
        second.permit: replace(attempt("b", 1), inputs=dict(reversed(inputs.items()))),
    }
    assert list((await backend.record_attempts(attempts)).cancel_after.values()) == [600, 597]
    assert [each.inputs for each in await backend.open_attempts("acme")] == [inputs, inputs]
