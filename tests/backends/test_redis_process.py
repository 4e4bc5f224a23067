"""A process on a Redis server: its lease while it runs, and what it restores after each call.

The server loses its state right after a call. What the process sends again is as of that call.
"""

import anyio
import pytest

from backends.conftest import Fleet, Site, until
from backends.link import link_to
from backends.steps import OWN, begin, failed, finish, state, take_all
from backends.test_redis_many import counted
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.redis.session import ROWS_A_CALL
from replicate_mcp.batches.attempt_store import RunningPrediction
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.semaphores.permit_store import HolderUsage, QueueEntry

# The process as a whole.


async def test_process_without_a_label_is_listed_without_one(site: Site) -> None:
    one = await RedisBackend.open(site.server.url(site.prefix, lease=60), clock=site.clock)
    site.open.append(one)
    await one.declare_limit(OWN, 3, per_minute=60_000)
    await begin(one, "b", 1)
    assert await one.usage_by_holder() == [HolderUsage("", OWN, in_use=1, waiting=0)]


async def test_semaphores_on_a_server_are_those_of_the_fleet(site: Site) -> None:
    assert (await site.holder()).scope == "fleet"


async def test_server_that_forgets_on_restart_is_warned_of(site: Site) -> None:
    (warning,) = await (await site.holder()).config_warnings()
    assert "append-only file" in warning


async def test_running_process_renews_its_lease(fleet: Fleet) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=0.2))
    with fleet.server.client as client:

        def ends_at() -> float:
            found = client.zscore(fleet.key("leases"), one._session.holder)
            assert found is not None
            return float(found)

        before = ends_at()

        async def renewed() -> bool:
            return ends_at() > before

        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            await until(renewed)
            group.cancel_scope.cancel()
    await one.close()


async def test_running_process_learns_the_limits_that_others_set(fleet: Fleet) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=0.1))
    two = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=60))
    await two.register("team", 1)
    await two.resize("team", 7)

    async def learned() -> bool:
        found = one._mirror.encode()["set"]
        return [(each["name"], each["units"]) for each in found] == [("team", 7)]

    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(learned)
        group.cancel_scope.cancel()
    await one.close()
    await two.close()


async def test_text_that_cannot_be_sent_costs_no_resync(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 1)
    with counted(site.server) as commands:
        with pytest.raises(InvalidInput):
            await one.enqueue(QueueEntry("\ud800", ("team",), None, 1))
        await one.enqueue(QueueEntry("contexts", ("team",), None, 1))
    assert commands.by_name["evalsha"] == 1


async def test_results_that_the_server_has_taken_are_not_sent_again(site: Site) -> None:
    one = await site.holder(limit=1)
    offers = (await begin(one, "b", 3)).offers
    with counted(site.server) as commands:
        admission = await one.record_results("b", [failed(2)])
    assert commands.by_name["evalsha"] == 1
    assert admission.offers == offers


async def test_a_hundred_batches_are_listed_by_default(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 1)
    with site.server.client as client, client.pipeline() as copies:
        for number in range(100):
            copies.copy(site.key("batch:b"), site.key(f"batch:b{number}"))
            copies.zadd(site.key("caller:server"), {f"b{number}": number})
        copies.execute()
    assert len(await one.list_batches(["server"])) == 100
    assert len(await one.list_batches(["server"], limit=200)) == 101


# What is restored.


async def test_permits_after_a_loss_have_higher_numbers_than_the_offers_before(site: Site) -> None:
    one = await site.holder(limit=1)
    site.set("generation", permit=int((site.now() + 3_600) * 1e6))
    (before,) = (await begin(one, "b", 1)).offers
    await one.declare_limit(OWN, 1, per_minute=60_000)
    site.forget()
    await one.admit()
    await site.admit_again(one)
    (after,) = (await one.admit()).offers
    assert after.permit == before.permit + 1


async def test_result_of_a_lost_batch_restores_the_batch(site: Site) -> None:
    one = await site.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    await finish(one, first, "b", failed(0))
    site.forget("batch:b", "tasks:b", "results:b")
    await finish(one, second, "b", failed(1))
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.total, batch.failed, batch.status) == (2, 2, "completed")
    assert [row.task_index for row in await one.results("b")] == [0, 1]


async def test_running_batch_is_restored_if_it_alone_was_lost(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 2)
    await one.record_results("b", [failed(0)])
    site.forget("batch:b", "tasks:b", "results:b")
    one._session.invalidate()
    await one.admit()
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.total, batch.failed, batch.status) == (2, 1, "running")


async def test_ended_batch_is_restored_after_a_loss_of_state(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 1)
    await one.record_results("b", [failed(0)])
    one._session.invalidate()
    await one.admit()
    site.forget()
    batch = await one.get_batch("b")
    assert batch is not None
    assert batch.status == "completed"
    assert [row.task_index for row in await one.results("b")] == [0]


async def test_ended_batch_that_the_server_deleted_is_never_restored(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 1)
    await one.record_results("b", [failed(0)])
    site.forget("batch:b", "tasks:b", "results:b")
    one._session.invalidate()
    await one.admit()
    site.forget()
    await one.admit()
    assert await one.get_batch("b") is None


async def test_reads_during_a_resync_are_complete(site: Site) -> None:
    one = await site.holder()
    rows = 2 * ROWS_A_CALL + 1
    await begin(one, "b", rows + 1)
    await one.record_results("b", [failed(task) for task in range(rows)])
    site.forget()
    found: list[int | None] = []

    async def read() -> None:
        batch = await one.get_batch("b")
        found.append(None if batch is None else batch.failed)

    async with anyio.create_task_group() as reads, anyio.create_task_group() as group:
        group.start_soon(one.admit)
        while one._session._resyncs == 1:
            reads.start_soon(read)
            await anyio.sleep(0.0005)
    assert set(found) == {rows}


async def test_result_of_an_ended_batch_that_is_gone_does_not_restore_it(site: Site) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await one.record_results("b", [failed(0)], waited=False)
    site.forget("batch:b", "tasks:b", "results:b")
    await finish(one, permit, "b", failed(0))
    assert await one.get_batch("b") is None
    await one.record_results("b", [failed(0)])
    assert await one.get_batch("b") is None


async def test_dequeued_entry_is_not_restored(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 1)
    await one.enqueue(QueueEntry("contexts", ("team",), None, 3))
    await one.dequeue("contexts")
    site.forget()
    assert await state(one, "team") == (0, 0)
    with site.server.client as client:
        assert client.hkeys(site.key("entries")) == ["#"]


async def test_remaining_starts_of_an_entry_are_restored(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 1)
    await one.enqueue(QueueEntry("contexts", ("team",), None, 2))
    await one.enqueue(QueueEntry("contexts", ("team",), None, 3))
    await one.dequeue("contexts", 1)
    site.forget()
    assert await state(one, "team") == (0, 4)
    await one.dequeue("contexts", 9)
    site.forget()
    assert await state(one, "team") == (0, 0)


async def test_waiting_tasks_of_a_batch_are_restored(site: Site) -> None:
    one = await site.holder(limit=0)
    await begin(one, "b", 9)
    await one.record_results("b", [failed(0), failed(1)])
    await one.record_results("b", [failed(2)], waited=False)
    site.forget()
    assert await state(one) == (0, 7)


async def test_task_requeued_after_its_batch_was_dequeued_does_not_wait(site: Site) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await one.dequeue("b")
    assert (await one.requeue(permit)).offers == ()
    assert await state(one) == (0, 0)
    site.forget()
    assert await state(one) == (0, 0)


async def test_released_permits_are_not_restored(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 1)
    (offer,) = (await one.enqueue(QueueEntry("contexts", ("team",), None, 1))).offers
    await one.accept_offers([offer.permit])
    await one.release(offer.permit)
    first, second, third = await take_all(one, await begin(one, "b", 3))
    await finish(one, first, "b", failed(0))
    await one.requeue(second)
    await one.abandon(third)
    site.forget()
    assert await state(one, "team") == (0, 0)
    assert await state(one) == (0, 1)
    assert await one.open_attempts("acme") == []


async def test_abandoned_permit_stays_an_orphan_after_a_resync(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await one.abandon(permit)
    one._session.invalidate()
    await one.admit()
    assert [each.permit for each in await two.orphans("acme")] == [permit]
    assert await two.adopt(permit)
    site.forget()
    assert await two.orphans("acme") == []
    assert [each.permit for each in await two.open_attempts("acme")] == [permit]


@pytest.mark.parametrize("is_own", [True, False])
async def test_permit_abandoned_after_a_lost_call_is_not_freed(site: Site, is_own: bool) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    if not is_own:
        await one.abandon(permit)
        assert await two.adopt(permit)
    holder, other = (one, two) if is_own else (two, one)
    holder._session.invalidate()
    await holder.abandon(permit)
    assert [each.permit for each in await other.orphans("acme")] == [permit]
    assert await state(other) == (1, 0)
    assert permit not in holder._mirror.permits
    await holder.abandon(permit)
    assert [each.permit for each in await other.orphans("acme")] == [permit]


async def test_permit_adopted_by_a_call_without_reply_stays_an_orphan(site: Site) -> None:
    """Adopt an attempt of a batch of the same process, whose prediction may still run."""
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    assert await one.finish(permit, "b", failed(0), ended=False) is not None
    assert await one.adopt(permit)
    del one._mirror.permits[permit]
    one._session.invalidate()
    await one.admit()
    assert await state(two) == (1, 0)
    assert [each.permit for each in await two.orphans("acme")] == [permit]


async def test_permit_of_another_process_is_abandoned_even_if_the_call_fails(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    async with link_to(fleet.server) as link:
        two = await fleet.holder(port=link.port)
        (permit,) = await take_all(one, await begin(one, "b", 1))
        await one.abandon(permit)
        assert await two.adopt(permit)
        await link.cut()
        with pytest.raises(BackendUnavailable):
            await two.abandon(permit)
        await link.restore()
        await two.admit()
        assert [each.permit for each in await one.orphans("acme")] == [permit]
        await fleet.close()


async def test_prediction_is_restored_with_the_attempt_that_claimed_it(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    assert await one.claim_prediction(first, "b", "p1")
    assert not await one.claim_prediction(second, "b", "p1")
    assert await two.claim_prediction(second, "b", "p2"), "another process may have found it"
    site.forget()
    found = {each.permit: each.prediction_id for each in await one.open_attempts("acme")}
    assert found == {first: "p1", second: None}


async def test_attempt_whose_result_was_refused_is_restored(site: Site) -> None:
    one = await site.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    await finish(one, first, "b", failed(0, "p1"))
    assert await one.finish(second, "b", failed(1, "p1")) is None
    site.forget()
    assert [each.permit for each in await one.open_attempts("acme")] == [second]
    batch = await one.get_batch("b")
    assert batch is not None
    assert batch.failed == 1


async def test_import_of_what_runs_offers_what_is_left_of_the_limit(site: Site) -> None:
    one = await site.holder(limit=2)
    await begin(one, "b", 3)
    site.forget()
    assert (await one.admit()).offers == ()
    site.end_pause()
    assert await one.has_lost_state("acme")
    admission = await one.import_running("acme", [RunningPrediction("p1", "o/m", 60)])
    assert [offer.entry for offer in admission.offers] == ["b"]
    assert not await one.has_lost_state("acme")


async def test_cancellation_is_restored(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    await begin(one, "b", 1)
    await begin(one, "other", 1)
    await two.cancel_batch("b")
    assert await one.canceled_batches() == ["b"]
    site.forget()
    assert [await is_canceled(one, batch) for batch in ("b", "other")] == [True, False]


async def is_canceled(backend: RedisBackend, batch_id: str) -> bool:
    batch = await backend.get_batch(batch_id)
    assert batch is not None
    return batch.canceled


@pytest.mark.parametrize("limit", [2, 9])
async def test_limit_of_a_name_is_restored_as_it_was_when_registered_or_set(
    site: Site, limit: int
) -> None:
    one = await site.holder()
    await one.register("team", 5)
    await one.resize("team", limit)
    site.forget()
    assert await limit_of(one, "team") == limit
    await one.unset("team")
    site.forget()
    assert await limit_of(one, "team") == 5


async def limit_of(backend: RedisBackend, name: str) -> int:
    return next(each.limit for each in await backend.semaphores() if each.name == name)


async def test_rate_set_by_hand_is_restored(site: Site) -> None:
    one = await site.holder()
    assert (await one.set_rate(OWN, 30)).offers == ()
    site.forget()
    (account,) = await one.semaphores()
    assert account.requests_per_minute == 30


async def test_removed_name_is_not_restored(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 5)
    await one.resize("team", 6)
    await one.remove("team")
    site.forget()
    assert [each.name for each in await one.semaphores()] == [OWN]
