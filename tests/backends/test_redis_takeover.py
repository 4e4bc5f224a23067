"""Taking a batch over at a Redis whose memory, or a reply of which, was lost."""

from dataclasses import replace

import pytest

from backends.conftest import Site
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.test_redis_resync import GENERATION_LONG, resync
from backends.worlds import wake_ups
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure

KEY = IdempotencyKey("k", "a digest")

ENTRY = QueueEntry("b", (OWN,), "acme", 0)


async def codes(backend: RedisBackend) -> dict[int, str]:
    rows = await backend.results("b")
    return {row.task_index: row.error_code for row in rows if isinstance(row, TaskFailure)}


async def reap(site: Site, backend: RedisBackend) -> None:
    """Let a process clean up after those that have not returned since a loss of memory."""
    site.end_pause()
    site.in_contact(backend)
    await backend.semaphores()


# A batch that waits.


@pytest.mark.parametrize("lost", [each for each in GENERATION_LONG if each != "generation"])
async def test_waiting_batch_survives_a_loss_of_memory(site: Site, lost: str) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 3, max_running=2, resumable=True)
    await gone.close()
    site.forget(lost)
    await one.admit()
    assert await one.take_over("b") is None, "others may still return"
    assert await one.unstarted_tasks("b") == []
    await reap(site, one)
    assert await one.resumable_batches("acme") == ["b"]
    taken = await one.take_over("b")
    assert taken is not None
    assert taken.entry == replace(ENTRY, max_running=2)
    assert await one.unstarted_tasks("b") == [0, 1, 2]
    await site.admit_again(one)
    admission = await one.enqueue(replace(ENTRY, waiting=3, max_running=2))
    assert [offer.entry for offer in admission.offers] == ["b", "b"]


async def test_waiting_batch_may_have_gone_on_before_a_restart(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 1, resumable=True)
    await gone.close()
    site.set("generation", run="another")
    await one.admit()
    site.end_pause()
    assert await one.take_over("b") is None
    await reap(site, one)
    assert await codes(one) == {0: "create_outcome_unknown"}
    assert await one.resumable_batches("acme") == []


async def test_waiting_batch_whose_process_is_forgotten_waits_on(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 2, resumable=True)
    await gone.close()
    with site.server.client as client:
        client.hdel(site.key("running"), "b")
    assert await one.take_over("b") is None
    await one.semaphores()
    assert await one.take_over("b") is not None


async def test_waiting_batch_is_not_claimed_by_the_process_that_lost_it(site: Site) -> None:
    one, late = await site.holder(), await site.holder()
    await begin(late, "b", 2, resumable=True)
    site.lapse(late, by=one)
    await one.semaphores()
    await late.admit()
    with site.server.client as client:
        client.hdel(site.key("running"), "b")
    await resync(late)
    assert await one.take_over("b") is None
    await one.semaphores()
    assert await one.take_over("b") is not None


async def test_batch_marked_while_it_ran_stays_resumable_after_a_loss_of_memory(
    site: Site,
) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 2)
    await gone.mark_resumable("b")
    site.forget()
    await gone.admit()
    await gone.close()
    assert await one.resumable_batches("acme") == ["b"]


async def test_waiting_batch_that_was_evicted_leaves_nothing(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 2, resumable=True)
    await gone.close()
    site.forget("batch:b")
    assert await one.take_over("b") is None
    await one.semaphores()
    with site.server.client as client:
        assert client.zrange(site.key("orphans"), 0, -1) == ["#"]
        assert client.hkeys(site.key("entries")) == ["#"]
        assert client.hlen(site.key("running")) == 0


async def test_batch_that_was_run_on_leaves_nothing(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 1, resumable=True)
    await gone.close()
    assert await one.take_over("b") is not None
    (permit,) = await take_all(one, await one.enqueue(replace(ENTRY, waiting=1)))
    await finish(one, permit, "b", failed(0))
    with site.server.client as client:
        assert client.zrange(site.key("orphans"), 0, -1) == ["#"]
        assert client.hkeys(site.key("entries")) == ["#"]
        assert client.hlen(site.key("running")) == 0


async def test_batch_of_a_process_whose_lease_has_ended_waits(site: Site) -> None:
    one, late = await site.holder(), await site.holder()
    await begin(late, "b", 2, resumable=True)
    site.lapse(late, by=one)
    assert await one.orphans("acme") == []
    assert await one.resumable_batches("acme") == ["b"]
    assert (await late.admit()).offers == (), "it has lost the batch, though none runs it"
    assert await late.interrupted_batches() == ["b"]
    assert await late.take_over("b") is not None, "it may resume it itself"
    offers = (await late.enqueue(replace(ENTRY, waiting=2))).offers
    assert len(offers) == 2
    await resync(late)
    assert await late.interrupted_batches() == []


async def test_idle_process_asks_only_after_a_message(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 1, resumable=True)
    await reap(site, one)
    async with wake_ups(one) as woken:
        await woken.drain()
        await one._session.renew()
        assert one._session.has_no_orphans
        asked_at = one._session._answered_at
        assert await one.resumable_batches("acme") == []
        assert one._session._answered_at == asked_at
        await woken.next_after(gone.close)
        assert await one.resumable_batches("acme") == ["b"]


async def test_abandoned_permit_alone_wakes_no_process(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    (permit,) = await take_all(gone, await begin(gone, "b", 1))
    async with wake_ups(one) as woken:
        await woken.none_after(lambda: gone.abandon(permit))


# Lost replies.


async def test_batch_whose_opening_got_no_reply_is_not_run_on(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    await begin(one, "b", 2, resumable=True)
    del one._mirror.batches["b"], one._mirror.entries["b"]
    await resync(one)
    assert await codes(two) == {0: "interrupted", 1: "interrupted"}
    assert await two.resumable_batches("acme") == []


async def test_takeover_that_got_no_reply_is_undone(site: Site) -> None:
    one, two, gone = await site.holder(), await site.holder(), await site.holder()
    await begin(gone, "b", 2, resumable=True)
    await gone.close()
    assert await one.take_over("b") is not None
    del one._mirror.batches["b"], one._mirror.entries["b"]
    await resync(one)
    assert await codes(two) == {}
    assert await two.resumable_batches("acme") == ["b"]
    assert await two.take_over("b") is not None


async def test_repeated_takeover_gets_the_same_reply(site: Site) -> None:
    one, two, gone = await site.holder(), await site.holder(), await site.holder()
    await begin(gone, "b", 2, resumable=True)
    await gone.close()
    replies = [await one._session.call("take_over", batch="b") for _ in range(2)]
    assert replies[0][1] == replies[1][1]
    assert await two._session.call("take_over", batch="b") == []


# A loss of memory after another process has resumed the batch.


async def taken_over(site: Site) -> tuple[RedisBackend, RedisBackend, int]:
    """Return two processes, the second of which took a batch of 4 over, and an orphan's permit.

    Task 0 had ended by then, and task 1 has that permit.
    """
    one, two, gone = await site.holder(), await site.holder(), await site.holder(limit=2)
    permits = await take_all(gone, await begin(gone, "b", 4, key=KEY, resumable=True, seconds=900))
    await finish(gone, permits[0], "b", failed(0, "p0"))
    await gone.close()
    assert await two.take_over("b") is not None
    await two.enqueue(replace(ENTRY, waiting=2))
    return one, two, permits[1]


async def test_batch_that_was_taken_over_is_restored_completely(site: Site) -> None:
    one, two, _ = await taken_over(site)
    before = await one.get_batch("b"), await one.tasks("b"), await one.inputs("b")
    assert before[0] is not None
    assert before[0].resumed == 1
    site.forget()
    await two.admit()
    assert (await one.get_batch("b"), await one.tasks("b"), await one.inputs("b")) == before
    assert await one.results("b") == [failed(0, "p0")]
    assert await one.list_prediction_ids("acme") == {"p0"}
    with pytest.raises(IdempotencyKeyExists):
        await one.check_idempotency_key("server", "k")
    assert await state(two) == (0, 2)
    await site.admit_again(two)
    assert [offer.entry for offer in (await two.admit()).offers] == ["b", "b"]
    await two.close()
    assert await one.resumable_batches("acme") == ["b"]
    site.clock.now += 100
    taken = await one.take_over("b")
    assert taken is not None
    assert (taken.entry, round(taken.seconds_left)) == (ENTRY, 800)
    found = await one.get_batch("b")
    assert found is not None
    assert found.resumed == 2


async def test_task_that_another_process_followed_may_have_been_created(site: Site) -> None:
    """Its result may have been lost with the memory."""
    _, two, _ = await taken_over(site)
    assert await two.unstarted_tasks("b") == [2, 3]
    site.forget()
    await two.admit()
    assert await two.unstarted_tasks("b") == [], "its process may still return"
    assert await codes(two) == {0: "prediction_failed"}
    await site.admit_again(two)
    assert await two.unstarted_tasks("b") == [2, 3]
    assert await codes(two) == {0: "prediction_failed", 1: "create_outcome_unknown"}


async def test_task_that_another_process_follows_on_keeps_its_permit(site: Site) -> None:
    one, two, permit = await taken_over(site)
    assert await one.adopt(permit)
    site.forget()
    await two.admit()
    await one.admit()
    await site.admit_again(two)
    assert await two.unstarted_tasks("b") == [2, 3]
    assert await codes(two) == {0: "prediction_failed"}
    await finish(one, permit, "b", failed(1, "p1"))
    assert set(await codes(two)) == {0, 1}


async def test_results_of_others_are_restored_once_they_were_read(site: Site) -> None:
    one, two, permit = await taken_over(site)
    assert await one.adopt(permit)
    await finish(one, permit, "b", failed(1, "p1"))
    await two.results("b", after=1)
    site.forget()
    await two.admit()
    assert await two.results("b") == [failed(0, "p0"), failed(1, "p1")]


async def cut_off(site: Site) -> tuple[RedisBackend, RedisBackend]:
    """Return a process that ran a batch of 4, and does not know that the other has resumed it.

    The first recorded task 0, and task 1 has a permit of it; the second waits for two tasks.
    """
    late, one = await site.holder(limit=2), await site.holder(limit=2)
    permits = await take_all(late, await begin(late, "b", 4, resumable=True))
    await finish(late, permits[0], "b", failed(0))
    site.lapse(late, by=one)
    await one.semaphores()
    assert await one.take_over("b") is not None
    await one.enqueue(replace(ENTRY, waiting=2))
    return late, one


async def check_that_one_runs_it(site: Site, late: RedisBackend, one: RedisBackend) -> None:
    """Check that only the process that ran the batch last still does."""
    assert site.get("running", "b") == one._session.holder
    assert await late.canceled_batches() == []
    assert await late.interrupted_batches() == ["b"]
    await late.record_results("b", [failed(3)])
    assert set(await codes(one)) <= {0}
    assert await one.canceled_batches() == []
    assert await one.interrupted_batches() == []
    await site.admit_again(one)
    assert (await late.admit()).offers == ()
    assert {offer.entry for offer in (await one.admit()).offers} == {"b"}


@pytest.mark.parametrize("is_late_first", [True, False])
async def test_process_that_ran_the_batch_last_runs_it_after_a_loss_of_memory(
    site: Site, is_late_first: bool
) -> None:
    late, one = await cut_off(site)
    site.forget()
    for backend in (late, one) if is_late_first else (one, late):
        await backend.admit()
    await check_that_one_runs_it(site, late, one)


@pytest.mark.parametrize("is_late_first", [True, False])
async def test_process_that_ran_the_batch_last_runs_it_after_a_return_to_older_memory(
    site: Site, is_late_first: bool
) -> None:
    late, one = await cut_off(site)
    with site.server.client as client:
        client.hdel(site.key("batch:b"), "resumed", "elsewhere")
        client.hset(site.key("running"), "b", late._session.holder)
    site.set("generation", run="another")
    for backend in (late, one) if is_late_first else (one, late):
        await backend.admit()
    await check_that_one_runs_it(site, late, one)


async def test_process_that_ran_the_batch_last_takes_it_back_when_it_returns(site: Site) -> None:
    late, one = await cut_off(site)
    site.forget()
    await late.admit()
    await site.admit_again(late)
    offers = [offer.permit for offer in (await late.admit()).offers]
    assert len(offers) == 1
    await one.admit()
    attempts = {permit: attempt("b", 2) for permit in offers}
    assert (await late.record_attempts(attempts)).cancel_after == {}
    assert {offer.entry for offer in (await one.admit()).offers} == {"b"}
    assert await late.canceled_batches() == []
    assert await late.interrupted_batches() == ["b"]


async def test_starts_of_a_batch_are_queued_although_its_former_process_registered_first(
    site: Site,
) -> None:
    late, one = await cut_off(site)
    site.forget()
    kept = late._mirror.batches.pop("b")
    await late.admit()  # It has sent its entries, but not yet its batches.
    late._mirror.batches["b"] = kept
    await one.admit()
    await check_that_one_runs_it(site, late, one)


async def test_evicted_batch_is_restored_by_the_process_that_runs_it(site: Site) -> None:
    late, one = await cut_off(site)
    before = await one.get_batch("b")
    site.forget("batch:b")
    await late.admit()
    assert await late.interrupted_batches() == ["b"]
    assert await one.get_batch("b") is None
    await resync(one)
    assert await one.get_batch("b") == before
    assert site.get("running", "b") == one._session.holder


async def test_process_that_lost_a_batch_does_not_restore_it(site: Site) -> None:
    late, one = await cut_off(site)
    await late.admit()
    assert await late.interrupted_batches() == ["b"]
    site.forget()
    await late.admit()
    assert await late.get_batch("b") is None, "what the other did is not known"
    await one.admit()
    assert await late.get_batch("b") is not None
    assert site.get("running", "b") == one._session.holder


async def test_process_that_lost_a_batch_does_not_vouch_for_it_after_a_restart(
    site: Site,
) -> None:
    late, one = await cut_off(site)
    await late.admit()
    await one._server.close()
    site.open.remove(one)
    site.set("generation", run="another")
    await late.admit()
    await reap(site, late)
    assert await late.resumable_batches("acme") == []
    assert (await codes(late))[2] == "create_outcome_unknown"


async def test_lost_batch_is_noticed_with_its_next_results(site: Site) -> None:
    late, one = await cut_off(site)
    await resync(late)
    await late.interrupted_batches()
    two = await site.holder()
    await begin(two, "b2", 1, resumable=True)
    with site.server.client as client:
        client.hset(site.key("running"), "b2", one._session.holder)
    await two.record_results("b2", [failed(0)])
    assert await two.interrupted_batches() == ["b2"]
    assert await two.results("b2") == []


async def test_attempts_of_a_batch_that_others_run_are_left_to_them(site: Site) -> None:
    late, one = await cut_off(site)
    (permit,) = [each.permit for each in await one.open_attempts("acme")]
    assert await one.adopt(permit)
    await one.give_back(permit)
    assert await one.unstarted_tasks("b") == [1, 2, 3]
    await late.requeue(permit)
    assert await state(one) == (2, 0)
    (offer, _) = (await one.admit()).offers
    assert (await late.record_attempts({offer.permit: attempt("b", 1)})).cancel_after == {}
