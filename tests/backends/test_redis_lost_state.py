"""Loss of Redis state: nothing is admitted until all holders have resynced."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from backends.conftest import LEASE, Fleet, until
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.attempt_store import RunningPrediction
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure

GENERATION_LONG = [
    "generation", "permits", "offers", "entries", "units", "orphans", "limits", "set", "declared",
    "cancel_afters", "imported", "holders", "queue", "leases",
]  # fmt: skip


async def waits_for(backend: RedisBackend, in_use: int, waiting: int) -> None:
    async def stands() -> bool:
        return await state(backend) == (in_use, waiting)

    await until(stands)


@pytest.mark.parametrize("lost", GENERATION_LONG)
async def test_losing_any_key_pauses_admission_for_a_lease_and_then_resumes(
    fleet: Fleet, lost: str
) -> None:
    one, two = await fleet.holder(), await fleet.holder()
    await one.register("team", 9)
    permits = await take_all(one, await begin(one, "b1", 4, also=("team",)))
    await begin(two, "b2", 2)
    fleet.forget(lost)
    admission = await finish(one, permits[0], "b1", failed(0))
    assert admission.offers == ()
    assert admission.retry_in is not None
    assert admission.retry_in <= LEASE
    assert not await one.has_lost_state("acme")
    await waits_for(one, 2, 3)
    await fleet.opened(one)
    await waits_for(two, 3, 2)
    assert (await state(one, "team"))[0] >= 2
    assert {each.permit for each in await two.open_attempts("acme")} == set(permits[1:])


async def test_resync_after_server_restart_includes_initially_invalid_tasks(
    fragile: Fleet,
) -> None:
    one, two = await fragile.holder(), await fragile.holder()
    (permit,) = await take_all(one, await begin(one, "b1", 3, failures=(failed(0), failed(2))))
    fragile.server.restart()
    await until(lambda: _is_known(two, "b1"))
    batch = await two.get_batch("b1")
    assert batch is not None
    assert (batch.total, batch.failed, batch.status) == (3, 2, "running")
    await fragile.opened(one)
    await finish(one, permit, "b1", failed(1))
    assert [row.task_index for row in await two.results("b1")] == [0, 2, 1]
    assert one._mirror.running() == []


async def test_full_state_is_resynced_after_server_restart(fragile: Fleet) -> None:
    one, two = await fragile.holder(), await fragile.holder()
    await one.register("team", 7)
    await one.resize("team", 8, by_admin=True)
    permits = await take_all(one, await begin(one, "b1", 5))
    await finish(one, permits[0], "b1", failed(0, "p0"))
    assert await one.claim_prediction(permits[1], "b1", "p1")
    context = await two.enqueue(QueueEntry("contexts", ("team",), None, 2))
    await two.accept_offers([offer.permit for offer in context.offers])
    fragile.server.restart()
    await until(lambda: _is_known(two, "b1"))
    assert [row.task_index for row in await two.results("b1")] == [0]
    assert [task.prompt for task in await two.tasks("b1")] == [f"prompt {n}" for n in range(5)]
    await fragile.opened(one)
    assert {each.permit: each.prediction_id for each in await two.open_attempts("acme")} == {
        permits[1]: "p1", permits[2]: None,
    }  # fmt: skip
    assert await two.list_prediction_ids("acme") == {"p0", "p1"}
    assert await state(two, "team") == (2, 0)
    assert [each.limit for each in await two.semaphores() if each.name == "team"] == [8]
    admission = await one.admit()
    assert [offer.entry for offer in admission.offers] == ["b1"]


async def _is_known(backend: RedisBackend, batch: str) -> bool:
    try:
        return await backend.get_batch(batch) is not None
    except BackendUnavailable:
        return False


async def test_ended_batch_is_complete_after_an_old_snapshot_is_restored(
    fragile: Fleet,
) -> None:
    one = await fragile.holder()
    permits = await take_all(one, await begin(one, "b", 4))
    await finish(one, permits[1], "b", failed(1, "p1"))
    fragile.server.save()
    (late,) = await take_all(one, await one.admit(), first_task=3)
    for task, permit in ((0, permits[0]), (2, permits[2]), (3, late)):
        await finish(one, permit, "b", failed(task, f"p{task}"))
    fragile.server.restart()
    other = await fragile.holder()

    async def ended() -> bool:
        batch = await other.get_batch("b")
        return batch is not None and batch.status == "completed"

    await until(ended)
    assert [row.task_index for row in await other.results("b")] == [1, 0, 2, 3]
    await fragile.opened(one)
    assert await state(other) == (0, 0)


async def test_attempts_in_a_snapshot_become_orphans_when_their_holder_is_gone(
    fragile: Fleet,
) -> None:
    alive, gone = await fragile.holder(), await fragile.holder()
    (recorded,) = await take_all(gone, await begin(gone, "b", 2, max_running=1))
    fragile.server.save()
    fragile.stop(gone)
    fragile.server.restart()
    await until(lambda: _orphans(alive))
    assert [each.permit for each in await alive.orphans("acme")] == [recorded]
    # Its other task may have been created after the snapshot; this cannot be determined.
    (row,) = await alive.results("b")
    assert isinstance(row, TaskFailure)
    assert (row.error_code, row.retryable) == ("create_outcome_unknown", False)
    await fragile.opened(alive)


async def test_result_missing_from_a_snapshot_is_rewritten_although_its_batch_was_taken_over(
    fragile: Fleet,
) -> None:
    alive, late = await fragile.holder(limit=2), await fragile.holder(limit=2)
    permits = await take_all(late, await begin(late, "b", 3))
    fragile.server.save()
    await finish(late, permits[0], "b", failed(0, "p0"))
    fragile.stop(late)
    fragile.server.restart()
    await until(lambda: _orphans(alive))
    await late.admit()
    assert await late.interrupted_batches() == ["b"]
    rows = [row for row in await alive.results("b") if isinstance(row, TaskFailure)]
    assert [(row.task_index, row.prediction_id) for row in rows] == [(2, None), (0, "p0")]


async def _orphans(backend: RedisBackend) -> bool:
    try:
        return bool(await backend.orphans("acme"))
    except BackendUnavailable:
        return False


async def test_learned_rate_and_daily_image_count_survive_state_loss(
    fleet: Fleet,
) -> None:
    one = await fleet.holder(limit=2)
    first, second = (await begin(one, "b", 3)).offers
    attempts = {first.permit: attempt("b", 0, images=4), second.permit: attempt("b", 1)}
    await one.record_attempts(attempts, images_per_day=5)
    await one.requeue(second.permit, Throttling(retry_after=60, per_minute=6, burst=1))
    async with one._session.lock() as turn:
        await turn.renew()
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))
    await until(lambda: _declared(one))
    (account,) = await one.semaphores()
    assert account.requests_per_minute == pytest.approx(5.4)
    assert account.throttled_for is not None


async def _declared(backend: RedisBackend) -> bool:
    return bool(await backend.semaphores())


async def test_no_batch_is_missing_during_resync(fleet: Fleet) -> None:
    one = await fleet.holder(limit=2)
    names = [f"b{n}" for n in range(60)]
    for name in names:
        await begin(one, name, 2)
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))
    found = []

    async def load_batch(name: str) -> None:
        found.append(await one.get_batch(name))

    async with anyio.create_task_group() as group:
        group.start_soon(one.admit)
        for name in names:
            group.start_soon(load_batch, name)
    assert None not in found


async def test_account_starts_nothing_until_running_predictions_are_imported(fleet: Fleet) -> None:
    one = await fleet.holder(limit=3)
    fleet.forget("permits")
    await begin(one, "b", 5)
    # Too early and not requested: it is imported, but does not open admission.
    await one.import_running("acme", [RunningPrediction("p1", "o/m", 60)])
    await until(lambda: one.has_lost_state("acme"))
    assert (await one.admit()).offers == ()
    admission = await one.import_running(
        "acme", [RunningPrediction("p1", "o/m", 60), RunningPrediction("p2", "o/m", 60)]
    )
    assert len(await take_all(one, admission)) == 1
    assert not await one.has_lost_state("acme")
    entered = await one.orphans("acme")
    assert [(each.batch, each.prediction_id) for each in entered] == [("", "p1"), ("", "p2")]
    assert await one.adopt(entered[0].permit)
    assert len((await one.release(entered[0].permit)).offers) == 1


async def test_import_read_before_a_second_state_loss_does_not_reopen_admission(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    fleet.forget("permits")
    await until(lambda: one.has_lost_state("acme"))
    fleet.forget("units")
    await begin(one, "b", 1)
    await anyio.sleep(2 * LEASE)
    assert (await one.import_running("acme", [])).offers == ()
    await fleet.opened(one)
    assert len((await one.admit()).offers) == 1


async def test_imported_prediction_is_replaced_by_the_attempt_that_created_it(
    fleet: Fleet,
) -> None:
    one = await fleet.holder(limit=3)
    (permit, *_) = await take_all(one, await begin(one, "b", 1))
    fleet.forget("permits")
    await until(lambda: one.has_lost_state("acme"))
    await one.import_running("acme", [RunningPrediction("p1", "o/m", 60)])
    assert await state(one) == (2, 0)
    assert await one.list_prediction_ids("acme") == set()
    await finish(one, permit, "b", failed(0, "p1"))
    assert await state(one) == (0, 0)
    assert await one.list_prediction_ids("acme") == {"p1"}


async def adopt_imported_predictions(fleet: Fleet, one: RedisBackend) -> None:
    """Lose the server's state while `p1` and `p2` run; `one` then follows them."""
    fleet.forget("permits")
    await until(lambda: one.has_lost_state("acme"))
    running = [RunningPrediction("p1", "o/m", 60), RunningPrediction("p2", "o/m", 60)]
    await one.import_running("acme", running)
    for entered in await one.orphans("acme"):
        assert await one.adopt(entered.permit)


async def test_adopted_imported_prediction_keeps_its_permit_after_resync(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    await adopt_imported_predictions(fleet, one)
    await fleet.lapses(one)
    assert await state(one) == (2, 0)
    assert len((await begin(one, "b", 3)).offers) == 1


async def test_imported_prediction_keeps_its_permit_after_a_second_state_loss(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await adopt_imported_predictions(fleet, one)
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))
    await until(lambda: one.has_lost_state("acme"))
    assert await one.list_prediction_ids("acme") == set()
    await one.import_running("acme", [RunningPrediction("p1", "o/m", 60)])
    assert await state(one) == (3, 0)
    # The holder that created it may still record its result.
    await finish(one, permit, "b", failed(0, "p1"))
    assert await state(one) == (1, 0)


async def test_prediction_with_a_lost_permit_is_imported_again(fleet: Fleet) -> None:
    one = await fleet.holder()
    for lost in (["permits"], ["permits", "attempts"]):
        fleet.forget(*lost)
        await until(lambda: one.has_lost_state("acme"))
        await one.import_running("acme", [RunningPrediction("p1", "o/m", 60)])
        assert await state(one) == (1, 0)


@pytest.mark.parametrize("adopted", [True, False])
async def test_released_units_stay_released_after_state_loss(fleet: Fleet, adopted: bool) -> None:
    one, gone = await fleet.holder(), await fleet.holder()
    (offer,) = (await begin(gone, "b", 1)).offers
    await gone.record_attempts({offer.permit: replace(attempt("b", 0), max_seconds=0.2)})
    fleet.stop(gone)
    await waits_for(one, 0, 0)
    if adopted:
        assert await one.adopt(offer.permit)
    fleet.forget("permits")
    await fleet.opened(one)
    assert [each.permit for each in await one.open_attempts("acme")] == [offer.permit]
    assert await state(one) == (0, 0)


async def test_permit_numbers_increase_after_state_loss(fleet: Fleet) -> None:
    one = await fleet.holder()
    first = (await begin(one, "b1", 1)).offers[0].permit
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))
    await begin(one, "b2", 1)
    await fleet.opened(one)
    assert (await one.admit()).offers[0].permit > first


# Full memory.

Full = tuple[Fleet, RedisBackend, RedisBackend, list[int]]


@pytest.fixture
async def full(fragile: Fleet) -> AsyncIterator[Full]:
    """Return a process with permits and waiting tasks, and another, on a full server."""
    one, other = await fragile.holder(), await fragile.holder()
    permits = await take_all(one, await begin(one, "b", 6))
    fragile.server.configure(maxmemory_policy="noeviction", maxmemory=1)
    yield fragile, one, other, permits
    fragile.server.configure(maxmemory=0)


async def test_full_redis_memory_stops_only_new_work(
    full: Full,
) -> None:
    fleet, one, _, permits = full
    for permit, task in zip(permits, range(3), strict=True):
        await finish(one, permit, "b", failed(task, f"p{task}"))
    assert len(await one.results("b")) == 3
    with pytest.raises(BackendUnavailable, match="out of memory"):
        await begin(one, "b2", 1)
    admission = await one.admit()
    with pytest.raises(BackendUnavailable, match="out of memory"):
        await take_all(one, admission)
    with pytest.raises(BackendUnavailable, match="out of memory"):
        await one.set_cached("key", "value", seconds=9)
    await one.record_results("b", [failed(5)])
    await one.cancel_batch("b")
    await one.dequeue("b")
    assert await state(one) == (0, 0)
    fleet.server.configure(maxmemory=0)
    await begin(one, "b3", 1)


async def test_holders_stay_alive_when_redis_memory_is_full(
    full: Full,
) -> None:
    _, one, other, permits = full
    began = time.monotonic()
    while time.monotonic() - began < 3 * LEASE:
        assert await other.orphans("acme") == []
        await anyio.sleep(0.05)
    assert {each.permit for each in await one.open_attempts("acme")} == set(permits)


async def test_lost_state_is_resynced_although_redis_memory_is_full(
    full: Full,
) -> None:
    fleet, one, _, permits = full
    fleet.forget("permits", "offers")
    await waits_for(one, 3, 3)
    await finish(one, permits[0], "b", failed(0))
    assert len(await one.results("b")) == 1
    assert OWN in {each.name for each in await one.semaphores()}
