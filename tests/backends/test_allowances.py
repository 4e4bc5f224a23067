"""Account allowances on every backend: rate, learning from 429s, and the daily image quota."""

from collections.abc import Sequence

import pytest

from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World
from replicate_mcp.batches.backend import Backend
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import Offer, QueueEntry, SemaphoreState

OTHER = account_semaphore("other")

UTC_DAY = 86_400


async def account(backend: Backend, name: str = OWN) -> SemaphoreState:
    return next(each for each in await backend.semaphores() if each.name == name)


# Rates.


async def test_last_declared_rate_applies(world: World) -> None:
    backend = await world.holder(per_minute=600)
    assert (await account(backend)).requests_per_minute == 600
    await world.holder(per_minute=300)
    assert (await account(backend)).requests_per_minute == 300


async def test_lower_manual_rate_limits_offers_immediately(
    world: World,
) -> None:
    backend = await world.holder(limit=100, per_minute=600)
    await backend.set_rate(OWN, 6)
    assert len((await begin(backend, "b", 9)).offers) == 5


async def test_higher_manual_rate_reports_the_next_start_time(world: World) -> None:
    backend = await world.holder(limit=100, per_minute=60)
    admission = await begin(backend, "b", 90)
    await take_all(backend, admission)
    assert admission.retry_in == pytest.approx(0.5)
    assert (await backend.set_rate(OWN, 600)).retry_in == pytest.approx(0.05)
    world.clock.now += 0.06
    assert len((await backend.admit()).offers) == 1


async def test_rate_can_be_set_for_an_undeclared_account(world: World) -> None:
    backend = await world.holder(limit=100)
    await backend.set_rate(OTHER, 6)
    await backend.declare_limit(OTHER, 100, per_minute=600)
    assert (await account(backend, OTHER)).requests_per_minute == 6
    assert len((await begin(backend, "b", 9, account="other")).offers) == 5


async def test_context_permits_consume_no_rate_slots(world: World) -> None:
    backend = await world.holder(limit=100, per_minute=6)
    await backend.register("team", 50)
    assert len((await backend.enqueue(QueueEntry("c", ("team",), None, 40))).offers) == 40
    admission = await begin(backend, "b", 9)
    assert [offer.entry for offer in admission.offers].count("b") == 5


async def test_pause_after_429_lasts_for_retry_after(world: World) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    (permit,) = await take_all(backend, await begin(backend, "b", 1))
    admission = await backend.requeue(permit, Throttling(retry_after=10))
    assert admission.retry_in is not None
    assert admission.retry_in >= 10
    assert (await account(backend)).throttled_for == pytest.approx(10)
    world.clock.now += 9.5
    assert (await account(backend)).throttled_for == pytest.approx(0.5)
    world.clock.now += 0.5
    assert (await account(backend)).throttled_for is None


async def test_429_of_one_account_does_not_pause_others(world: World) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    await backend.declare_limit(OTHER, 9, per_minute=600)
    (permit,) = await take_all(backend, await begin(backend, "b1", 1))
    await backend.requeue(permit, Throttling(retry_after=10, per_minute=6, burst=1))
    assert (await account(backend, OTHER)).throttled_for is None
    admission = await begin(backend, "b2", 2, account="other")
    assert [offer.entry for offer in admission.offers] == ["b2", "b2"]


async def test_requeue_without_429_leaves_the_rate_unchanged(world: World) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    (permit,) = await take_all(backend, await begin(backend, "b", 1))
    admission = await backend.requeue(permit)
    assert [offer.entry for offer in admission.offers] == ["b"]
    assert (await account(backend)).requests_per_minute == 600
    assert (await account(backend)).throttled_for is None


async def test_429s_for_creations_sent_before_the_episode_do_not_lower_the_rate_again(
    world: World,
) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    first, second = await take_all(backend, await begin(backend, "b", 2))
    world.clock.now += 1
    await backend.requeue(first, Throttling(retry_after=10, per_minute=60, burst=1))
    world.clock.now += 1
    await backend.requeue(second, Throttling(retry_after=1, per_minute=6, burst=1))
    lowered = await account(backend)
    assert lowered.requests_per_minute == pytest.approx(54)
    assert lowered.throttled_for == pytest.approx(9)


async def test_429_without_a_rate_sets_the_recently_accepted_rate(world: World) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    await backend.declare_limit(OTHER, 9, per_minute=600)
    await take_all(backend, await begin(backend, "theirs", 3, account="other"))
    await take_all(backend, await begin(backend, "b1", 3))
    world.clock.now += 2
    permits = await take_all(backend, await begin(backend, "b2", 2))
    await backend.requeue(permits[0], Throttling(retry_after=1))
    assert (await account(backend)).requests_per_minute == pytest.approx((5 - 1) * 60 / 2)


async def test_429_for_creation_sent_after_the_episode_lowers_the_rate_again(world: World) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    (permit,) = await take_all(backend, await begin(backend, "b", 1))
    world.clock.now += 1
    await backend.requeue(permit, Throttling(retry_after=1, per_minute=60, burst=1))
    world.clock.now += 5
    (permit,) = await take_all(backend, await backend.admit())
    await backend.requeue(permit, Throttling(retry_after=1, per_minute=6, burst=1))
    assert (await account(backend)).requests_per_minute == pytest.approx(5.4)


async def test_lowered_rate_grows_with_sent_creations(world: World) -> None:
    backend = await world.holder(limit=9, per_minute=600)
    (permit,) = await take_all(backend, await begin(backend, "b", 9, max_running=1))
    await backend.requeue(permit, Throttling(retry_after=1, per_minute=60, burst=1))
    for task in range(2):
        world.clock.now += 5
        (permit,) = await take_all(backend, await backend.admit())
        await finish(backend, permit, "b", failed(task, f"p{task}"))
    assert (await account(backend)).requests_per_minute == pytest.approx(54)
    world.clock.now += 700
    for task in range(2, 6):
        world.clock.now += 5
        (permit,) = await take_all(backend, await backend.admit(), first_task=task)
        await finish(backend, permit, "b", failed(task, f"p{task}"))
    assert (await account(backend)).requests_per_minute == pytest.approx(54 * 1.25**2)


# Daily image quota.


async def note(
    backend: Backend, offers: Sequence[Offer], images: Sequence[int], *, a_day: int | None
) -> list[int]:
    """Return the permits of the attempts that were recorded."""
    attempts = {
        offer.permit: attempt(offer.entry, task, prompt=f"{task}", images=count)
        for task, (offer, count) in enumerate(zip(offers, images, strict=True))
    }
    return sorted((await backend.record_attempts(attempts, images_per_day=a_day)).cancel_after)


async def test_daily_quota_admits_images_up_to_its_limit(world: World) -> None:
    backend = await world.holder(limit=9)
    offers = (await begin(backend, "b", 3)).offers
    assert await note(backend, offers, [2, 2, 1], a_day=5) == [each.permit for each in offers]


async def test_attempt_over_daily_quota_leaves_the_rest_to_smaller_attempts(world: World) -> None:
    backend = await world.holder(limit=9)
    first, second, third = (await begin(backend, "b", 3)).offers
    recorded = await note(backend, (first, second, third), [2, 4, 3], a_day=5)
    assert recorded == [first.permit, third.permit]


async def test_quota_reset_is_reported_only_when_an_attempt_did_not_fit(world: World) -> None:
    backend = await world.holder(limit=9)
    for task, (offer, a_day) in enumerate(
        zip((await begin(backend, "b", 3)).offers, (1, None, 9), strict=True)
    ):
        recorded = await backend.record_attempts(
            {offer.permit: attempt("b", task)}, images_per_day=a_day
        )
        assert list(recorded.cancel_after) == [offer.permit]
        assert recorded.quota_resets_in is None


async def test_daily_quota_resets_at_midnight_utc(world: World) -> None:
    backend = await world.holder(limit=9)
    world.clock.now = 20 * UTC_DAY - 90.0
    first, second = (await begin(backend, "b", 2)).offers
    attempts = {first.permit: attempt("b", 0), second.permit: attempt("b", 1)}
    recorded = await backend.record_attempts(attempts, images_per_day=1)
    assert list(recorded.cancel_after) == [first.permit]
    assert recorded.quota_resets_in == pytest.approx(90)
    world.clock.now = 20 * UTC_DAY + 0.0
    (second,) = (await backend.admit()).offers
    recorded = await backend.record_attempts({second.permit: attempt("b", 1)}, images_per_day=1)
    assert list(recorded.cancel_after) == [second.permit]


async def test_images_count_towards_a_quota_set_later(world: World) -> None:
    backend = await world.holder(limit=9)
    first, second = (await begin(backend, "b", 2)).offers
    assert await note(backend, [first], [4], a_day=None) == [first.permit]
    assert await note(backend, [second], [2], a_day=5) == []


async def test_daily_quota_is_counted_per_account(world: World) -> None:
    backend = await world.holder(limit=9)
    await backend.declare_limit(OTHER, 9, per_minute=60_000)
    mine = (await begin(backend, "b1", 1)).offers
    assert await note(backend, mine, [5], a_day=5) == [mine[0].permit]
    theirs = (await begin(backend, "b2", 1, account="other")).offers
    assert await note(backend, theirs, [5], a_day=5) == [theirs[0].permit]


async def test_uncreated_images_are_refunded_to_the_day_of_their_request(
    world: World,
) -> None:
    backend = await world.holder(limit=9)
    world.clock.now = 20 * UTC_DAY - 0.2
    (offer,) = (await begin(backend, "b", 3, max_running=1)).offers
    (yesterdays,) = await note(backend, [offer], [1], a_day=1)
    world.clock.now = 20 * UTC_DAY + 0.2
    (todays,) = (await begin(backend, "b2", 1)).offers
    assert await note(backend, [todays], [1], a_day=1) == [todays.permit]
    admission = await backend.requeue(yesterdays)
    assert await note(backend, admission.offers, [1], a_day=1) == []


async def test_releasing_a_permit_keeps_its_images_counted(world: World) -> None:
    backend = await world.holder(limit=9)
    first, second = (await begin(backend, "b", 2)).offers
    (permit,) = await note(backend, [first], [1], a_day=1)
    await backend.release(permit)
    assert await note(backend, [second], [1], a_day=1) == []


async def test_withdrawn_offer_uses_no_quota_of_offers_recorded_with_it(world: World) -> None:
    """Record offers of which the first was withdrawn: the others count as they do alone."""
    backend = await world.holder(limit=9)
    (spent,) = (await begin(backend, "spent", 1)).offers
    assert await note(backend, [spent], [4], a_day=5) == [spent.permit]
    (gone,) = (await begin(backend, "gone", 1)).offers
    await backend.dequeue("gone")
    first, second = (await begin(backend, "b", 2)).offers
    assert await note(backend, [gone, first, second], [1, 1, 1], a_day=5) == [first.permit]
    assert await state(backend) == (2, 1)


async def test_images_of_withdrawn_offer_do_not_count_towards_daily_quota(world: World) -> None:
    backend = await world.holder(limit=9)
    (gone,) = (await begin(backend, "gone", 1)).offers
    await backend.dequeue("gone")
    assert await note(backend, [gone], [9], a_day=5) == []
    (offer,) = (await begin(backend, "b", 1)).offers
    attempts = {gone.permit: attempt("gone", 0, images=9), offer.permit: attempt("b", 0)}
    recorded = await backend.record_attempts(attempts, images_per_day=5)
    assert list(recorded.cancel_after) == [offer.permit]
    assert recorded.quota_resets_in is None


async def test_attempt_recorded_twice_is_counted_once(world: World) -> None:
    backend = await world.holder(limit=9)
    first, second = (await begin(backend, "b", 2)).offers
    assert await note(backend, [first], [2], a_day=5) == [first.permit]
    assert second.permit in await note(backend, [first, second], [2, 3], a_day=5)
