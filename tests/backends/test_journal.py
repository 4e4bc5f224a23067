"""The journal on every backend: what is returned, to which caller, and for how long."""

import pytest

from backends.steps import OWN, begin, failed, finish, state, succeeded, take_all
from backends.worlds import World
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.tasks.result import TaskFailure


async def test_late_result_does_not_change_the_end_time(world: World) -> None:
    backend = await world.holder()
    (permit,) = await take_all(backend, await begin(backend, "b", 1))
    world.clock.now += 5
    await finish(backend, permit, "b", failed(0))
    before = await backend.get_batch("b")
    assert before is not None
    assert (before.created_at, before.ended_at) == (1_000_000, 1_000_005)
    world.clock.now += 5
    late = failed(0).model_copy(update={"error": "Another."})
    await backend.record_results("b", [late], waited=False)
    assert await backend.get_batch("b") == before
    assert await backend.results("b") == [failed(0)]


async def test_open_attempts_are_listed_per_account(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 1))
    assert await leaving.claim_prediction(permit, "b", "p1")
    await leaving.close()
    for account, found in (("acme", [permit]), ("other", [])):
        assert [each.permit for each in await staying.open_attempts(account)] == found
        assert [each.permit for each in await staying.orphans(account)] == found
        assert len(await staying.list_prediction_ids(account)) == len(found)


async def test_open_attempts_of_all_holders_are_listed_oldest_first(world: World) -> None:
    one, two = await world.holder(limit=9), await world.holder(limit=9)
    first = await take_all(one, await begin(one, "b1", 2))
    second = await take_all(two, await begin(two, "b2", 2))
    assert [each.permit for each in await one.open_attempts("acme")] == [*first, *second]
    assert await one.orphans("acme") == []


async def test_newest_batches_of_several_callers_are_merged(world: World) -> None:
    backend = await world.holder()
    for number, caller in enumerate(["server", "token:x", "server", "token:y", "token:x"]):
        await begin(backend, f"b{number}", 1, caller=caller)
        world.clock.now += 1
    listed = await backend.list_batches(["server", "token:x"], limit=3)
    assert [each.id for each in listed] == ["b4", "b2", "b1"]
    assert [each.caller for each in listed] == ["token:x", "server", "token:x"]
    assert await backend.list_batches(["unknown"]) == []


async def test_results_are_read_in_pages(world: World) -> None:
    backend = await world.holder(limit=9)
    await begin(backend, "b", 5)
    await backend.record_results("b", [failed(task) for task in range(5)])

    async def read(after: int, limit: int | None) -> list[int]:
        return [each.task_index for each in await backend.results("b", after=after, limit=limit)]

    assert await read(0, None) == [0, 1, 2, 3, 4]
    assert await read(0, 2) == [0, 1]
    assert await read(3, 1) == [3]
    assert await read(3, 9) == [3, 4]
    assert await read(5, 2) == await read(0, 0) == []


async def test_recording_more_results_than_waiting_tasks_keeps_counts_valid(world: World) -> None:
    backend = await world.holder(limit=1)
    (permit,) = await take_all(backend, await begin(backend, "b", 3))
    await backend.record_results("b", [failed(1), failed(2)])
    assert await state(backend) == (1, 0)
    await backend.record_results("b", [failed(1)])
    assert await state(backend) == (1, 0)
    await backend.requeue(permit)
    assert sum(await state(backend)) == 1


@pytest.mark.parametrize(("minutes", "ends"), [(49.9, False), (50.1, True)])
async def test_attempt_may_be_reconciled_for_fifty_minutes(
    world: World, minutes: float, ends: bool
) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    await take_all(leaving, await begin(leaving, "b", 1))
    await leaving.close()
    world.clock.now += 60 * minutes
    await staying.semaphores()  # Its units are released in any case.
    await staying.semaphores()
    assert await state(staying) == (0, 0)
    assert bool(await staying.orphans("acme")) is not ends
    rows = [row for row in await staying.results("b") if isinstance(row, TaskFailure)]
    assert [row.error_code for row in rows] == ["create_outcome_unknown"] * ends


async def test_overwritten_cache_value_has_the_new_value_and_ttl(
    world: World,
) -> None:
    backend = await world.holder()
    await backend.set_cached("model", "old", seconds=100)
    world.clock.now += 50
    await backend.set_cached("model", "new", seconds=100)
    world.clock.now += 99
    assert await backend.get_cached("model") == "new"
    world.clock.now += 1
    assert await backend.get_cached("model") is None
    assert await backend.get_cached("another") is None


async def test_batch_is_found_by_its_idempotency_key_during_and_after_its_run(
    world: World,
) -> None:
    backend = await world.holder()
    await begin(backend, "b", 1, key=IdempotencyKey("k", "digest with blanks"))
    for _ in range(2):
        with pytest.raises(IdempotencyKeyExists) as taken:
            await backend.check_idempotency_key("server", "k")
        assert (taken.value.batch_id, taken.value.digest) == ("b", "digest with blanks")
        await backend.record_results("b", [failed(0)])
    await backend.check_idempotency_key("token:x", "k")


async def test_successes_and_failures_are_counted_each_task_once(world: World) -> None:
    backend = await world.holder(limit=9)
    permits = await take_all(backend, await begin(backend, "b", 6))
    made, missed = [succeeded(task, f"p{task}") for task in range(6)], failed(1)

    async def counts() -> tuple[int, int, str]:
        batch = await backend.get_batch("b")
        assert batch is not None
        return batch.succeeded, batch.failed, batch.status

    await finish(backend, permits[0], "b", made[0])
    assert await counts() == (1, 0, "running")
    await finish(backend, permits[1], "b", missed)
    assert await counts() == (1, 1, "running")
    await backend.record_results("b", [made[3], made[2], failed(0)], waited=False)
    await backend.record_results("b", [made[3], made[1]], waited=False)
    assert await counts() == (3, 1, "running")
    await backend.record_results("b", [failed(5), made[4]], waited=False)
    assert await counts() == (4, 2, "completed")
    rows = [made[0], missed, made[3], made[2], failed(5), made[4]]
    assert await backend.results("b") == rows
    assert await backend.results("b", after=2, limit=3) == rows[2:5]
    (listed,) = await backend.list_batches(["server"])
    assert (listed.succeeded, listed.failed, listed.total) == (4, 2, 6)


async def test_canceling_a_batch_cancels_only_that_batch(world: World) -> None:
    one, two = await world.holder(limit=9), await world.holder(limit=9)
    for name in ("b1", "b2", "b3", "ended"):
        await begin(one, name, 1)
    await begin(two, "theirs", 1)
    await one.record_results("ended", [failed(0)])
    for name in ("b2", "b3", "ended"):
        await two.cancel_batch(name)
    assert sorted(await one.canceled_batches()) == ["b2", "b3"]
    assert await two.canceled_batches() == []
    await one.record_results("b3", [failed(0)])
    assert await one.canceled_batches() == ["b2"]
    for name in ("b1", "b2"):
        await one.record_results(name, [failed(0)])
    await two.record_results("theirs", [failed(0)])
    found = {each.id: each.status for each in await one.list_batches(["server"])}
    assert found == {
        "b1": "completed", "b2": "canceled", "b3": "canceled", "ended": "completed",
        "theirs": "completed",
    }  # fmt: skip


async def test_batch_list_has_a_hundred_entries_by_default(world: World) -> None:
    backend = await world.holder(limit=1)
    for number in range(101):
        await begin(backend, f"b{number}", 1)
    assert len(await backend.list_batches(["server"])) == 100
