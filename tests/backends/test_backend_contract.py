"""The backend contract, on every backend."""

import pytest

from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World, wake_ups
from replicate_mcp.backends.space import (
    BATCH_BYTES,
    JOURNAL_BYTES,
    KEY_BYTES,
    MEMO_BYTES,
    MEMO_ENTRY_BYTES,
    MEMO_VALUE_BYTES,
)
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.errors import InvalidInput, JournalFull, SemaphoreInUse, UnknownSemaphore
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import HolderUsage, QueueEntry
from replicate_mcp.semaphores.rate_limit import full_burst
from replicate_mcp.tasks.result import TaskFailure


async def test_batch_receives_offers_up_to_the_limit(world: World) -> None:
    backend = await world.holder(limit=3)
    admission = await begin(backend, "b", 5)
    assert [offer.entry for offer in admission.offers] == ["b"] * 3
    assert await state(backend) == (3, 2)


async def test_finishing_a_task_offers_its_permit_to_the_next(world: World) -> None:
    backend = await world.holder(limit=1)
    (permit,) = await take_all(backend, await begin(backend, "b", 2))
    admission = await finish(backend, permit, "b", failed(0))
    assert len(admission.offers) == 1
    assert await state(backend) == (1, 0)


async def test_all_holders_share_one_limit_and_take_turns(world: World) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    permits = await take_all(one, await begin(one, "b1", 10))
    assert (await begin(two, "b2", 10)).offers == ()
    (mine,) = (await finish(one, permits[0], "b1", failed(0))).offers
    assert mine.entry == "b1"
    assert (await finish(one, permits[1], "b1", failed(1))).offers == (mine,)
    assert [offer.entry for offer in (await two.admit()).offers] == ["b2"]


async def test_lowest_declared_limit_applies(world: World) -> None:
    backend = await world.holder(limit=5)
    await world.holder(limit=2)
    assert len((await begin(backend, "b", 5)).offers) == 2


async def test_manual_rate_overrides_declared_rates(world: World) -> None:
    backend = await world.holder(per_minute=600)
    await backend.set_rate(OWN, 30)
    await world.holder(per_minute=600)
    (account,) = await backend.semaphores()
    assert account.requests_per_minute == 30
    await backend.set_rate(OWN, 60)
    (account,) = await backend.semaphores()
    assert account.requests_per_minute == 60


async def test_unaccepted_offer_returns_to_the_queue(world: World) -> None:
    one, two = await world.holder(limit=1), await world.holder(limit=1)
    admission = await begin(one, "b1", 1)
    await begin(two, "b2", 1)
    world.clock.now += 0.6
    assert [offer.entry for offer in (await two.admit()).offers] == ["b2"]
    assert await take_all(one, admission) == []
    assert await state(two) == (1, 1)


async def test_holder_with_stale_offers_gets_no_more_offers(world: World) -> None:
    stopped, alive = await world.holder(limit=4), await world.holder(limit=4)
    await begin(stopped, "b1", 9)
    world.clock.now += 0.06
    await begin(alive, "b2", 9)
    world.clock.now += 0.5
    admission = await alive.admit()
    assert [offer.entry for offer in admission.offers] == ["b2"] * 4
    (permit, *_) = await take_all(alive, admission)
    world.clock.now += 60
    assert [o.entry for o in (await finish(alive, permit, "b2", failed(0))).offers] == ["b2"]


async def test_resumed_holder_receives_offers_again(
    world: World,
) -> None:
    stopped, alive = await world.holder(limit=1), await world.holder(limit=1)
    await begin(stopped, "b1", 9)
    await begin(alive, "b2", 1)
    world.clock.now += 0.6
    (permit,) = await take_all(alive, await alive.admit())
    assert (await stopped.admit()).offers == ()
    await finish(alive, permit, "b2", failed(0))
    assert [offer.entry for offer in (await stopped.admit()).offers] == ["b1"]


async def test_accepting_a_stale_offer_lets_its_holder_receive_more(world: World) -> None:
    backend = await world.holder(limit=2)
    admission = await begin(backend, "b1", 2)
    world.clock.now += 0.06
    await backend.resize(OWN, 3)
    assert len((await begin(backend, "b2", 1)).offers) == 2
    recorded = await backend.record_attempts(
        {offer.permit: attempt("b1", n) for n, offer in enumerate(admission.offers)}
    )
    assert [offer.entry for offer in recorded.admission.offers] == ["b2"]


async def test_lowered_limit_is_reached_as_permits_return(world: World) -> None:
    backend = await world.holder(limit=3)
    permits = await take_all(backend, await begin(backend, "b", 6))
    await backend.resize(OWN, 1)
    assert (await finish(backend, permits[0], "b", failed(0))).offers == ()
    assert (await finish(backend, permits[1], "b", failed(1))).offers == ()
    assert len((await finish(backend, permits[2], "b", failed(2))).offers) == 1


async def test_raised_limit_yields_offers_immediately(world: World) -> None:
    backend = await world.holder(limit=1)
    await begin(backend, "b", 5)
    assert len((await backend.resize(OWN, 4)).offers) == 4


async def test_registering_a_known_name_returns_it_unchanged(world: World) -> None:
    one, two = await world.holder(), await world.holder()
    assert (await one.register("team", 7)).limit == 7
    assert (await two.register("team", 2)).limit == 7


async def test_usage_by_holder_is_visible_to_all_holders(world: World) -> None:
    a, b = await world.holder(label="a"), await world.holder(label="b")
    await a.register("thumbnails", 1)
    await begin(a, "ba", 3, also=("thumbnails",))
    await begin(b, "bb", 1)
    assert await b.usage_by_holder() == [
        HolderUsage("a", OWN, in_use=1, waiting=2),
        HolderUsage("b", OWN, in_use=1, waiting=0),
        HolderUsage("a", "thumbnails", in_use=1, waiting=2),
    ]


async def test_permit_stays_held_and_adoptable_while_its_prediction_may_run(
    world: World,
) -> None:
    a, b = await world.holder(), await world.holder()
    (offer, *_) = (await begin(a, "ba", 1)).offers
    await a.record_attempts({offer.permit: attempt("ba", 0)})
    await a.finish(offer.permit, "ba", failed(0, "p1"), ended=False)
    assert [(each.permit, each.batch) for each in await b.orphans("acme")] == [(offer.permit, "ba")]
    assert await b.adopt(offer.permit)
    assert not await a.adopt(offer.permit)
    assert (await a.semaphores())[0].in_use == 1
    await b.finish(offer.permit, "ba", failed(0, "p1"))
    assert (await a.semaphores())[0].in_use == 0
    assert [row.task_index for row in await a.results("ba")] == [0]


async def test_abandoned_attempt_can_be_adopted_by_another_holder(world: World) -> None:
    one, two = await world.holder(), await world.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    await one.abandon(first)
    assert [each.permit for each in await two.orphans("acme")] == [first]
    assert await state(two) == (2, 0)
    assert await two.adopt(first)
    assert not await two.adopt(second)
    await finish(two, first, "b", failed(0, "p1"))
    assert await state(two) == (1, 0)


async def test_permits_of_closing_holder_are_offered_to_others_immediately(world: World) -> None:
    leaving, staying = await world.open(), await world.holder(limit=1)
    await leaving.register("team", 1)
    await staying.register("team", 1)
    admission = await leaving.enqueue(QueueEntry("c", ("team",), None, 1))
    await leaving.accept_offers([admission.offers[0].permit])
    assert not (await staying.enqueue(QueueEntry("d", ("team",), None, 1))).offers
    async with wake_ups(staying) as woken:
        await woken.next_after(leaving.close)
    assert [offer.entry for offer in (await staying.admit()).offers] == ["d"]


async def test_name_lives_while_a_holder_has_it_registered(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await take_all(staying, await begin(staying, "b", 1))
    await leaving.register("team", 7)
    await leaving.close()
    assert "team" not in {each.name for each in await staying.semaphores()}


async def test_name_lives_while_tasks_of_a_live_holder_wait_for_it(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 1)
    (offer,) = (await staying.enqueue(QueueEntry("c", ("team",), None, 2))).offers
    await leaving.close()
    await staying.accept_offers([offer.permit])
    assert await state(staying, "team") == (1, 1)
    assert len((await staying.release(offer.permit)).offers) == 1


async def test_name_lives_while_a_prediction_of_a_closed_holder_may_run(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    await leaving.register("team", 2)
    (offer,) = (await begin(leaving, "b", 1, also=("team",))).offers
    await leaving.record_attempts({offer.permit: attempt("b", 0)})
    await leaving.close()
    assert await state(staying, "team") == (1, 0)
    assert await staying.usage_by_holder() == [
        HolderUsage("", OWN, in_use=1, waiting=0),
        HolderUsage("", "team", in_use=1, waiting=0),
    ]


async def test_closing_a_holder_keeps_permits_and_limits_of_others(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await staying.register("team", 3)
    await leaving.register("team", 3)
    await staying.resize("team", 2)
    admission = await staying.enqueue(QueueEntry("mine", ("team",), None, 3))
    await staying.accept_offers([offer.permit for offer in admission.offers])
    await leaving.close()
    assert await state(staying, "team") == (2, 1)
    assert (await limits(staying))["team"] == 2


async def test_name_resembling_an_account_semaphore_has_no_rate(world: World) -> None:
    backend = await world.holder(per_minute=600)
    await backend.register("acme", 3)
    (named,) = [each for each in await backend.semaphores() if each.name == "acme"]
    assert (named.limit, named.requests_per_minute, named.throttled_for) == (3, None, None)


async def test_admin_limit_persists(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9, by_admin=True)
    await leaving.resize("team", 8)
    await leaving.close()
    assert [each.limit for each in await staying.semaphores() if each.name == "team"] == [8]


async def test_limit_set_without_the_admin_key_disappears_with_its_name(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9)
    await leaving.close()
    assert [each.name for each in await staying.semaphores()] == [OWN]


@pytest.mark.parametrize(
    "prompt", ["a red car", '"一只猫" \\ \n🦊', "\\" * 5_000, "é🦊" * 5_000], ids=len
)
async def test_listed_batch_has_a_first_prompt_excerpt(world: World, prompt: str) -> None:
    backend = await world.holder()
    await begin(backend, "b", 3, prompt=prompt)
    (listed,) = await backend.list_batches(["server"])
    assert listed.first_prompt is not None
    assert len(listed.first_prompt) >= min(100, len(prompt))
    assert f"{prompt} 0".startswith(listed.first_prompt)


async def limits(backend: Backend) -> dict[str, int]:
    return {each.name: each.limit for each in await backend.semaphores()}


async def test_unset_limit_falls_back_to_the_declared_limit(world: World) -> None:
    one, two = await world.holder(limit=3), await world.holder(limit=5)
    await one.resize(OWN, 1, by_admin=True)
    assert len((await begin(one, "b", 4)).offers) == 1
    assert len((await one.unset(OWN)).offers) == 3
    assert await limits(one) == {OWN: 3}
    assert len((await one.unset(OWN)).offers) == 3  # No manual limit was set, so nothing changes.
    await two.declare_limit(OWN, 2, per_minute=60_000)
    assert await limits(one) == {OWN: 2}

    await one.register("team", 7)
    await one.resize("team", 9, by_admin=True)
    await two.register("team", 1)
    await one.unset("team")
    assert (await limits(one))["team"] == 7
    assert (await two.register("team", 2)).limit == 7
    with pytest.raises(UnknownSemaphore, match="'teem' is not registered"):
        await one.unset("teem")


async def test_name_kept_only_by_a_manual_limit_disappears_when_unset(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9, by_admin=True)
    await leaving.close()
    await staying.unset("team")
    assert await limits(staying) == {OWN: 3}


async def test_unused_name_can_be_removed(world: World) -> None:
    one, other = await world.holder(), await world.open()
    await one.register("team", 1)
    await other.register("team", 1)
    await one.resize("team", 2, by_admin=True)
    admission = await one.enqueue(QueueEntry("c", ("team",), None, 3))
    taken = await one.accept_offers([offer.permit for offer in admission.offers])
    with pytest.raises(SemaphoreInUse, match=r"'team' is in use \(2 in use, 1 waiting\)"):
        await other.remove("team")
    for permit in taken.permits:
        await one.release(permit)
    await one.dequeue("c")
    with pytest.raises(SemaphoreInUse, match="'team' is registered by another running process"):
        await one.remove("team")
    await other.close()
    await one.remove("team")
    assert await limits(one) == {OWN: 3}
    with pytest.raises(UnknownSemaphore, match="'team' is not registered"):
        await one.remove("team")
    with pytest.raises(UnknownSemaphore):
        await one.enqueue(QueueEntry("d", ("team",), None, 1))
    assert (await one.register("team", 4)).limit == 4


async def test_entry_without_waiting_starts_does_not_keep_a_name(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    (offer,) = (await backend.enqueue(QueueEntry("c", ("team",), None, 1))).offers
    await backend.accept_offers([offer.permit])
    await backend.release(offer.permit)
    await backend.remove("team")
    assert await limits(backend) == {OWN: 3}
    assert len((await begin(backend, "b", 1)).offers) == 1


async def test_task_with_named_semaphore_holds_units_of_both(world: World) -> None:
    backend = await world.holder(limit=5)
    await backend.register("team", 2)
    assert len((await begin(backend, "b", 5, also=("team",))).offers) == 2
    assert await state(backend) == (2, 3)
    assert await state(backend, "team") == (2, 3)


async def test_unknown_semaphore_is_rejected(world: World) -> None:
    backend = await world.holder()
    with pytest.raises(UnknownSemaphore, match="'team' is not registered"):
        await begin(backend, "b", 1, also=("team",))
    assert await backend.get_batch("b") is None


async def test_batch_respects_its_own_limit(world: World) -> None:
    backend = await world.holder(limit=9)
    (permit, _) = await take_all(backend, await begin(backend, "b", 5, max_running=2))
    assert len((await finish(backend, permit, "b", failed(0))).offers) == 1


async def test_rate_limits_offers_and_reports_retry_in(world: World) -> None:
    backend = await world.holder(limit=100, per_minute=60)
    admission = await begin(backend, "b", 62)
    assert len(admission.offers) == int(full_burst(60))
    assert admission.retry_in == pytest.approx(1 - full_burst(60) % 1)
    await take_all(backend, admission)
    world.clock.now += 1.01
    assert len((await backend.admit()).offers) == 1


async def test_429_pauses_the_account_for_every_holder_and_loses_no_task(world: World) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    permits = await take_all(one, await begin(one, "b1", 2))
    admission = await one.requeue(permits[0], Throttling(retry_after=10, per_minute=6, burst=1))
    assert admission.offers == ()
    assert admission.retry_in == pytest.approx(10 / 0.9)
    await begin(two, "b2", 1)
    assert await state(one) == (1, 2)
    (account,) = [each for each in await two.semaphores() if each.name == OWN]
    assert account.requests_per_minute == pytest.approx(5.4)
    assert account.throttled_for == pytest.approx(10)
    world.clock.now += 11.2
    offers = [*(await one.admit()).offers, *(await two.admit()).offers]
    assert len(offers) == 1


async def test_daily_quota_is_shared_by_all_holders_and_excess_tasks_wait(
    world: World,
) -> None:
    a, b = await world.holder(limit=9), await world.holder(limit=9)
    mine = (await begin(a, "ba", 4)).offers
    recorded = await a.record_attempts(
        {offer.permit: attempt("ba", task, images=2) for task, offer in enumerate(mine)},
        images_per_day=5,
    )
    assert len(recorded.cancel_after) == 2
    assert recorded.quota_resets_in == pytest.approx(86_400 - world.clock.now % 86_400)
    (own,) = await a.semaphores()
    assert (own.in_use, own.waiting) == (2, 2)
    theirs = (await begin(b, "bb", 1)).offers
    refused = await b.record_attempts(
        {theirs[0].permit: attempt("bb", 0, images=2)}, images_per_day=5
    )
    assert not refused.cancel_after
    assert refused.quota_resets_in is not None


async def test_images_of_uncreated_predictions_are_refunded(world: World) -> None:
    backend = await world.holder(limit=1)

    async def note(images_per_day: int) -> int | None:
        offers = (await backend.admit()).offers
        attempts = {offers[0].permit: attempt("b", 0)}
        recorded = await backend.record_attempts(attempts, images_per_day=images_per_day)
        return next(iter(recorded.cancel_after), None)

    await begin(backend, "b", 9)
    permit = await note(1)
    assert permit is not None
    await backend.requeue(permit)
    permit = await note(1)
    assert permit is not None
    await backend.finish(permit, "b", failed(0))
    permit = await note(1)
    assert permit is not None
    await backend.finish(permit, "b", failed(1, prediction="p1"))
    assert await note(1) is None
    world.clock.now += 86_400
    assert await note(1) is not None


async def test_equal_open_attempts_get_distinct_cancel_after(world: World) -> None:
    backend = await world.holder(limit=3)
    admission = await begin(backend, "b", 3)
    recorded = await backend.record_attempts(
        {offer.permit: attempt("b", n) for n, offer in enumerate(admission.offers)}
    )
    assert sorted(recorded.cancel_after.values()) == [594, 597, 600]


async def test_prediction_can_be_claimed_by_only_one_attempt(world: World) -> None:
    backend = await world.holder(limit=2)
    first, second = await take_all(backend, await begin(backend, "b", 2))
    assert await backend.claim_prediction(first, "b", "p1")
    assert await backend.claim_prediction(first, "b", "p1")
    assert not await backend.claim_prediction(second, "b", "p1")
    await finish(backend, first, "b", failed(0, "p1"))
    assert await backend.list_prediction_ids("acme") == {"p1"}


async def test_result_with_a_prediction_of_another_attempt_is_not_recorded(world: World) -> None:
    backend = await world.holder(limit=2)
    first, second = await take_all(backend, await begin(backend, "b", 2))
    assert await backend.claim_prediction(first, "b", "p1")
    assert await backend.finish(second, "b", failed(1, "p1")) is None
    assert await state(backend) == (2, 0)
    assert await backend.results("b") == []


async def test_open_attempts_exclude_finished_ones(world: World) -> None:
    backend = await world.holder(limit=2)
    first, second = await take_all(backend, await begin(backend, "b", 3))
    await finish(backend, first, "b", failed(0))
    (left,) = await backend.open_attempts("acme")
    assert (left.permit, left.batch, left.task) == (second, "b", 1)


async def test_results_are_in_completion_order_with_each_task_once(
    world: World,
) -> None:
    backend = await world.holder(limit=3)
    permits = await take_all(backend, await begin(backend, "b", 3))
    for task in (2, 0, 1):
        await finish(backend, permits[task], "b", failed(task))
    await finish(backend, permits[1], "b", failed(1))
    assert [row.task_index for row in await backend.results("b")] == [2, 0, 1]
    assert [row.task_index for row in await backend.results("b", after=1, limit=1)] == [0]
    batch = await backend.get_batch("b")
    assert batch is not None
    assert (batch.status, batch.failed, batch.total) == ("completed", 3, 3)


async def test_dequeued_batch_loses_its_offers(world: World) -> None:
    backend = await world.holder(limit=2)
    admission = await begin(backend, "b", 5)
    await backend.dequeue("b")
    assert await take_all(backend, admission) == []
    assert await state(backend) == (0, 0)


async def test_recording_the_last_results_withdraws_remaining_offers(
    world: World,
) -> None:
    backend = await world.holder(limit=2)
    await begin(backend, "b", 2)
    await backend.record_results("b", [failed(0), failed(1)])
    assert await state(backend) == (0, 0)
    batch = await backend.get_batch("b")
    assert batch is not None
    assert batch.status == "completed"


async def test_result_of_sent_task_leaves_other_tasks_waiting(
    world: World,
) -> None:
    one, two = await world.holder(limit=2), await world.holder()
    await take_all(one, await begin(one, "b", 5))
    assert await state(one) == (2, 3)
    for holder, task in ((one, 0), (two, 1)):
        await holder.record_results("b", [failed(task)], waited=False)
        assert await state(one) == (2, 3)
    assert len(await one.results("b")) == 2


async def test_repeated_idempotency_key_opens_no_second_batch(
    world: World,
) -> None:
    one, two = await world.holder(), await world.holder()
    await begin(one, "b1", 1, key=IdempotencyKey("k 1", "digest"))
    for again in (
        two.check_idempotency_key("server", "k 1"),
        begin(two, "b2", 1, key=IdempotencyKey("k 1", "another")),
    ):
        with pytest.raises(IdempotencyKeyExists) as taken:
            await again
        assert (taken.value.batch_id, taken.value.digest) == ("b1", "digest")
    assert await two.get_batch("b2") is None
    await two.check_idempotency_key("server", "k 2")
    await begin(two, "b3", 1, caller="token:x", key=IdempotencyKey("k 1", "digest"))


async def test_cancellation_by_another_holder_wakes_the_owning_holder(world: World) -> None:
    one, two = await world.holder(), await world.holder()
    await begin(one, "b", 1)
    async with wake_ups(one) as woken:
        await woken.next_after(lambda: two.cancel_batch("b"))
    assert await one.canceled_batches() == ["b"]
    assert await two.canceled_batches() == []


async def test_holder_is_woken_for_offers_caused_by_another(world: World) -> None:
    one, two = await world.holder(limit=1), await world.holder(limit=1)
    (permit,) = await take_all(one, await begin(one, "b1", 1))
    await begin(two, "b2", 1)
    async with wake_ups(two) as woken:
        await woken.next_after(lambda: finish(one, permit, "b1", failed(0)))
    assert len((await two.admit()).offers) == 1


async def test_permits_of_running_predictions_outlive_their_holder_until_expiry(
    world: World,
) -> None:
    staying = await world.holder(limit=2)
    leaving = await world.open()
    await leaving.declare_limit(OWN, 2, per_minute=60_000)
    admission = await begin(leaving, "b1", 3)
    await leaving.record_attempts({admission.offers[0].permit: attempt("b1", 0)})
    await leaving.close()
    assert await state(staying) == (1, 0)
    batch = await staying.get_batch("b1")
    assert batch is not None
    assert (batch.status, batch.failed) == ("running", 2)
    rows = await staying.results("b1")
    assert all(isinstance(row, TaskFailure) and row.error_code == "interrupted" for row in rows)
    world.clock.now += 701
    await staying.admit()
    assert await state(staying) == (0, 0)
    assert [share.in_use for share in await staying.usage_by_holder()] == []


async def left_behind(world: World, *, prediction: str | None = None) -> tuple[Backend, int]:
    """Return a remaining holder, and the permit of an attempt orphaned 12 minutes ago."""
    staying = await world.holder(limit=2)
    leaving = await world.open()
    await leaving.declare_limit(OWN, 2, per_minute=60_000)
    (permit,) = await take_all(leaving, await begin(leaving, "b1", 1))
    if prediction is not None:
        assert await leaving.claim_prediction(permit, "b1", prediction)
    await leaving.close()
    world.clock.now += 701
    await staying.admit()
    return staying, permit


@pytest.mark.parametrize("prediction", [None, "p1"])
async def test_expired_orphan_can_still_be_adopted_and_finished_without_using_units(
    world: World, prediction: str | None
) -> None:
    staying, permit = await left_behind(world, prediction=prediction)
    batch = await staying.get_batch("b1")
    assert batch is not None
    assert batch.status == "running"
    (orphan,) = await staying.orphans("acme")
    assert (orphan.permit, orphan.prediction_id) == (permit, prediction)
    assert await staying.adopt(permit)
    assert await state(staying) == (0, 0), "adopting it takes no units of others"
    await finish(staying, permit, "b1", failed(0, "p1"))
    assert await state(staying) == (0, 0)
    assert await staying.open_attempts("acme") == []
    assert await staying.results("b1") == [failed(0, "p1")]


@pytest.mark.parametrize("prediction", [None, "p1"])
async def test_orphan_older_than_fifty_minutes_ends_as_create_outcome_unknown(
    world: World, prediction: str | None
) -> None:
    staying, _ = await left_behind(world, prediction=prediction)
    world.clock.now += 50 * 60
    await staying.admit()
    batch = await staying.get_batch("b1")
    assert batch is not None
    assert batch.status == "completed"
    (row,) = await staying.results("b1")
    assert isinstance(row, TaskFailure)
    assert (row.error_code, row.retryable) == ("create_outcome_unknown", False)
    assert row.prediction_id == prediction
    assert await staying.orphans("acme") == []
    assert await state(staying) == (0, 0)


async def test_permit_left_after_its_result_expires_with_its_prediction(
    world: World,
) -> None:
    a, b = await world.holder(), await world.holder()
    (permit,) = await take_all(a, await begin(a, "ba", 1))
    await a.finish(permit, "ba", failed(0, "p1"), ended=False)
    world.clock.now += 701
    await b.admit()
    assert await state(b) == (0, 0)
    assert await b.orphans("acme") == []
    assert await b.results("ba") == [failed(0, "p1")]


async def test_orphaned_permit_is_adoptable_whatever_the_results_of_other_tasks(
    world: World,
) -> None:
    staying, leaving = await world.holder(limit=9), await world.open()
    await leaving.declare_limit(OWN, 9, per_minute=60_000)
    first, second, _ = (await begin(leaving, "b1", 3)).offers
    await leaving.record_attempts(
        {first.permit: attempt("b1", 0), second.permit: attempt("b1", 1, images=2)}
    )
    await finish(leaving, first.permit, "b1", failed(0))
    await leaving.close()
    others = await take_all(staying, await begin(staying, "b2", 3))
    await finish(staying, others[1], "b2", failed(1))
    world.clock.now += 701
    assert [each.permit for each in await staying.orphans("acme")] == [second.permit]
    assert await state(staying) == (2, 0), "what the living hold is theirs"
    world.clock.now += 60 * 60
    await staying.admit()
    assert [row.task_index for row in await staying.results("b1")] == [0, 2, 1]
    assert [each.batch for each in await staying.open_attempts("acme")] == ["b2", "b2"]
    assert await state(staying) == (2, 0)


async def test_tasks_invalid_at_batch_start_are_recorded_as_failed_immediately(
    world: World,
) -> None:
    backend = await world.holder()
    invalid = (failed(1), failed(3))
    permits = await take_all(backend, await begin(backend, "b", 4, failures=invalid))
    assert len(permits) == 2
    assert await state(backend) == (2, 0)
    batch = await backend.get_batch("b")
    assert batch is not None
    assert (batch.total, batch.failed, batch.status) == (4, 2, "running")
    assert await backend.results("b") == list(invalid)
    await finish(backend, permits[0], "b", failed(0))
    await finish(backend, permits[1], "b", failed(2))
    batch = await backend.get_batch("b")
    assert batch is not None
    assert (batch.failed, batch.status) == (4, "completed")
    assert await backend.results("b", after=2) == [failed(0), failed(2)]


async def test_only_waiting_tasks_of_a_dead_holder_are_interrupted(
    world: World,
) -> None:
    one, two = await world.open(), await world.holder(limit=1)
    await begin(one, "b", 3, failures=(failed(1),))
    await one.close()
    await two.admit()
    rows = await two.results("b")
    assert failed(1) in rows
    assert {row.task_index: row.error_code for row in rows if isinstance(row, TaskFailure)} == {
        0: "interrupted",
        1: "prediction_failed",
        2: "interrupted",
    }


async def test_interrupted_task_is_recorded_with_its_prompt_and_filename(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await take_all(staying, await begin(staying, "of another", 1))
    await begin(leaving, "b", 2, prompt="a red car")
    await leaving.close()
    found = [
        (row.task_index, row.prompt, row.output_filename) for row in await staying.results("b")
    ]
    assert found == [(0, "a red car 0", "0.png"), (1, "a red car 1", "1.png")]


async def test_task_without_prompt_has_no_prompt_in_journal_and_results(
    world: World,
) -> None:
    one, two = await world.open(), await world.holder(limit=1)
    promptless = failed(0).model_copy(update={"prompt": None})
    await begin(one, "b", 2, prompt=None, failures=(promptless,))
    assert [task.prompt for task in await one.tasks("b")] == [None, None]
    await one.close()
    await two.admit()
    rows = await two.results("b")
    assert [row.prompt for row in rows] == [None, None]
    assert rows[0] == promptless


async def test_callers_list_their_own_batches_newest_first(world: World) -> None:
    backend = await world.holder()
    for name, caller in (("b1", "server"), ("b2", "token:x"), ("b3", "server")):
        await begin(backend, name, 1, caller=caller)
        world.clock.now += 1
    assert [batch.id for batch in await backend.list_batches(["server"])] == ["b3", "b1"]


async def test_cached_value_expires_after_its_ttl(world: World) -> None:
    backend = await world.holder()
    await backend.set_cached("model", "schema", seconds=10)
    assert await backend.get_cached("model") == "schema"
    world.clock.now += 11
    assert await backend.get_cached("model") is None


MIB = 1024**2

LONG = "x" * MIB


def test_journal_and_cache_size_constants() -> None:
    assert (JOURNAL_BYTES, MEMO_BYTES, MEMO_VALUE_BYTES) == (64 * MIB, 64 * MIB, MIB)
    assert (BATCH_BYTES, KEY_BYTES, MEMO_ENTRY_BYTES) == (2048, 512, 512)


async def end(backend: Backend, batch: str, prompt: str = "prompt") -> None:
    """Record that the batch's only task was canceled before it was created."""
    await backend.record_results(batch, [failed(0).model_copy(update={"prompt": f"{prompt} 0"})])


async def batch_ids(backend: Backend, caller: str = "server") -> list[str]:
    return [batch.id for batch in await backend.list_batches([caller])]


async def stored_bytes(backend: Backend, caller: str = "server") -> int:
    """Return a lower bound of the bytes stored for a caller: the size of what can be read."""
    size = 0
    for batch in await batch_ids(backend, caller):
        size += sum(len(task.prompt or "") for task in await backend.tasks(batch))
    return size


async def test_cancelled_batches_evict_only_older_batches_of_the_same_account(
    world: World,
) -> None:
    eighth = JOURNAL_BYTES // 8
    backend = await world.holder(journal_bytes=eighth)
    long = "x" * (MIB // 8)
    await backend.declare_limit(account_semaphore("other"), 3, per_minute=600)
    for number in range(10):
        await begin(backend, f"other-{number}", 1, caller="token:o", account="other", prompt=long)
        await end(backend, f"other-{number}", long)
    await begin(backend, "runs", 1, prompt=long)
    text = long * 4
    for number in range(30):
        await begin(backend, f"b{number}", 1, prompt=text)
        await end(backend, f"b{number}", text)
        world.clock.now += 1
        assert await stored_bytes(backend) <= eighth
    batches = await batch_ids(backend)
    assert batches == [f"b{29 - place}" for place in range(len(batches) - 1)] + ["runs"]
    assert 7 <= len(batches) - 1 <= 15
    assert await backend.results("b29") == [failed(0).model_copy(update={"prompt": f"{text} 0"})]
    for read in (backend.tasks, backend.results):
        assert await read("b0") == []
    assert await backend.get_batch("b0") is None
    assert len(await batch_ids(backend, "token:o")) == 10
    await backend.record_results("runs", [failed(0)])
    (row,) = await backend.results("runs")
    assert row.task_index == 0


async def test_batch_that_does_not_fit_beside_running_ones_is_rejected(
    world: World,
) -> None:
    backend = await world.holder(limit=9, journal_bytes=4 * MIB)
    await begin(backend, "ended", 1, prompt=LONG)
    await end(backend, "ended", "")
    await begin(backend, "runs", 2, prompt=LONG)
    before = await state(backend)
    with pytest.raises(
        JournalFull, match=r"have not ended take 2\.1 of 4 MiB.*Nothing was"
    ) as full:
        await begin(backend, "b", 2, prompt=LONG, key=IdempotencyKey("k", "digest"))
    assert (full.value.code, full.value.retryable) == ("too_many_requests", True)
    assert sorted(await batch_ids(backend)) == ["ended", "runs"], "nothing is forgotten for nothing"
    assert await backend.tasks("ended")
    assert await backend.get_batch("b") is None
    assert await state(backend) == before
    await backend.check_idempotency_key("server", "k")
    await backend.declare_limit(account_semaphore("other"), 3, per_minute=600)
    await begin(backend, "theirs", 2, caller="token:o", account="other", prompt=LONG)
    await backend.record_results("runs", [failed(0), failed(1)])
    await begin(backend, "b", 2, prompt=LONG)
    assert await batch_ids(backend) == ["b"]
    assert await batch_ids(backend, "token:o") == ["theirs"]


async def test_batch_larger_than_the_journal_quota_is_rejected_as_not_retryable(
    world: World,
) -> None:
    backend = await world.holder(journal_bytes=MIB)
    with pytest.raises(InvalidInput, match=r"takes 1\.\d MiB.*REPLICATE_MCP_JOURNAL_MB") as refused:
        await begin(backend, "b", 1, prompt=LONG)
    assert not refused.value.retryable
    assert await batch_ids(backend) == []
    assert await state(backend) == (0, 0)


async def test_recording_results_evicts_older_batches(world: World) -> None:
    backend = await world.holder(journal_bytes=3 * MIB)
    for name in ("b1", "b2"):
        await begin(backend, name, 1, prompt="p")
        await backend.dequeue(name)
        row = failed(0).model_copy(update={"prompt": "p 0", "error": LONG * 4})
        await backend.record_results(name, [row])
        assert await batch_ids(backend) == [name]
        assert await backend.results(name) == [row]


async def test_results_evict_older_batches_at_once(world: World) -> None:
    backend = await world.holder(journal_bytes=3 * MIB)
    await begin(backend, "old", 1, prompt="p")
    await end(backend, "old")
    await begin(backend, "young", 1, prompt="p")
    row = failed(0).model_copy(update={"error": "x" * (4 * MIB)})
    await backend.record_results("young", [row])
    assert await batch_ids(backend) == ["young"]


async def test_batch_with_a_running_attempt_is_not_evicted(world: World) -> None:
    backend = await world.holder(journal_bytes=3 * MIB)
    (permit,) = await take_all(backend, await begin(backend, "followed", 1, prompt=LONG))
    await backend.record_results("followed", [failed(0)], waited=False)
    for number in range(4):
        world.clock.now += 1
        await begin(backend, f"b{number}", 1, prompt="p" * (MIB // 2))
        await end(backend, f"b{number}")
    assert "followed" in await batch_ids(backend)
    await finish(backend, permit, "followed", failed(0, "p1"))
    await begin(backend, "last", 1, prompt="p" * (MIB * 11 // 4))
    assert await batch_ids(backend) == ["last"]


async def test_idempotency_key_of_an_evicted_batch_stays_reserved_for_a_day(
    world: World,
) -> None:
    backend = await world.holder(journal_bytes=2 * MIB)
    key = IdempotencyKey("k", "digest")
    await begin(backend, "b1", 1, prompt=LONG, key=key)
    await end(backend, "b1", LONG)
    world.clock.now += 1
    await begin(backend, "b2", 1, prompt=LONG)
    assert await batch_ids(backend) == ["b2"]
    assert await backend.get_batch("b1") is None
    assert await backend.tasks("b1") == []
    assert await backend.results("b1") == []
    for again in (
        lambda: backend.check_idempotency_key("server", "k"),
        lambda: begin(backend, "b3", 1, key=key),
    ):
        with pytest.raises(IdempotencyKeyExists) as taken:
            await again()
        assert (taken.value.batch_id, taken.value.digest) == ("b1", "digest")
    await backend.record_results("b1", [failed(0)])
    await backend.cancel_batch("b1")
    assert await backend.get_batch("b1") is None
    world.clock.now += 24 * 3600
    await begin(backend, "b4", 1, key=key)
    assert await backend.get_batch("b4") is not None


async def test_idempotency_keys_count_towards_the_journal_quota_for_a_day(world: World) -> None:
    backend = await world.holder(journal_bytes=2 * BATCH_BYTES + KEY_BYTES)

    async def make(number: int) -> None:
        key = IdempotencyKey(f"k{number}", "digest")
        await begin(backend, f"b{number}", 1, key=key)
        await end(backend, f"b{number}")
        world.clock.now += 1

    for number in range(5):
        await make(number)
    with pytest.raises(JournalFull, match="Idempotency-Keys of the last 24 hours"):
        await make(5)
    with pytest.raises(IdempotencyKeyExists):
        await make(0)
    world.clock.now += 24 * 3600
    await make(0)
    await make(5)


async def test_batches_older_than_a_day_free_the_journal_quota(world: World) -> None:
    backend = await world.holder(journal_bytes=3 * MIB)
    for name in ("b1", "b2"):
        await begin(backend, name, 1, prompt=LONG)
        await end(backend, name)
    world.clock.now += 24 * 3600 + 1
    await begin(backend, "b3", 1, prompt=LONG)
    await end(backend, "b3")
    await begin(backend, "b4", 1, prompt=LONG)
    assert {"b3", "b4"} <= set(await batch_ids(backend))


async def test_cache_is_bounded_in_bytes_and_evicts_the_oldest_first(
    world: World,
) -> None:
    backend = await world.holder()
    value = "v" * (MIB - 1024)
    most = MEMO_BYTES // MIB
    for number in range(most + 2):
        await backend.set_cached(f"k{number}", value, seconds=3600)
    assert await backend.get_cached("k0") is None
    assert await backend.get_cached("k1") is None
    assert await backend.get_cached("k2") == value
    await backend.set_cached("k3", "written again", seconds=3600)
    await backend.set_cached("another", value, seconds=3600)
    await backend.set_cached("and another", value, seconds=3600)
    assert await backend.get_cached("k2") is None
    assert await backend.get_cached("k3") == "written again"


async def test_expired_cache_values_free_the_cache_quota(world: World) -> None:
    backend = await world.holder()
    value = "v" * (MIB - 1024)
    await backend.set_cached("long", value, seconds=7200)
    for number in range(MEMO_BYTES // MIB - 1):
        await backend.set_cached(f"k{number}", value, seconds=3600)
    world.clock.now += 3601
    await backend.set_cached("new", value, seconds=3600)
    assert await backend.get_cached("long") == value


async def test_too_large_value_is_not_cached(world: World) -> None:
    backend = await world.holder()
    await backend.set_cached("small", "v" * MEMO_VALUE_BYTES, seconds=10)
    await backend.set_cached("large", "\u00e9" * (MEMO_VALUE_BYTES // 2 + 1), seconds=10)
    assert await backend.get_cached("small") is not None
    assert await backend.get_cached("large") is None


async def test_reducing_demand_withdraws_offers(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    admission = await backend.enqueue(QueueEntry("contexts", ("team",), None, 2))
    assert len(admission.offers) == 1
    await backend.dequeue("contexts", 2)
    assert await state(backend, "team") == (0, 0)
    world.clock.now += 1
    assert (await backend.admit()).offers == ()


async def test_context_permits_hold_one_unit_and_are_freed_with_their_holder(world: World) -> None:
    staying = await world.holder()
    leaving = await world.open()
    await staying.register("team", 2)
    await leaving.register("team", 2)
    admission = await leaving.enqueue(QueueEntry("contexts", ("team",), None, 2))
    taken = await leaving.accept_offers([offer.permit for offer in admission.offers])
    assert len(taken.permits) == 2
    await leaving.release(min(taken.permits))
    assert await state(staying, "team") == (1, 0)
    await leaving.close()
    assert await state(staying, "team") == (0, 0)


async def test_stale_offer_is_withdrawn_after_the_clock_was_set_back(
    world: World,
) -> None:
    stopped, going_on = await world.holder(), await world.holder()
    await going_on.register("team", 1)
    await stopped.register("team", 1)
    assert len((await stopped.enqueue(QueueEntry("theirs", ("team",), None, 1))).offers) == 1
    assert (await going_on.enqueue(QueueEntry("mine", ("team",), None, 1))).offers == ()
    world.clock.now -= 3_600
    assert [offer.entry for offer in (await going_on.admit()).offers] == ["mine"]


async def test_result_recorded_again_changes_neither_counts_nor_end_time(
    world: World,
) -> None:
    backend = await world.holder()
    (permit,) = await take_all(backend, await begin(backend, "b", 1))
    await backend.record_results("b", [failed(0)], waited=False)
    ended = await backend.get_batch("b")
    assert ended is not None
    world.clock.now += 60
    await backend.record_results("b", [failed(0, "p2")], waited=False)
    assert await backend.get_batch("b") == ended
    world.clock.now += 60
    await finish(backend, permit, "b", failed(0, "p1"))
    assert await backend.get_batch("b") == ended
    assert await backend.results("b") == [failed(0)]
