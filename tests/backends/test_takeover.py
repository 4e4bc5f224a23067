"""A batch that may be run on outlives its process: it waits for another one, on every backend."""

import pytest

from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World, wake_ups
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import BatchState, IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.errors import SemaphoreInUse, UnknownSemaphore
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure


async def found(backend: Backend, batch: str = "b") -> BatchState:
    state = await backend.get_batch(batch)
    assert state is not None
    return state


async def codes(backend: Backend, batch: str = "b") -> dict[int, str]:
    """Return the error codes of a batch's results by task."""
    rows = await backend.results(batch)
    return {row.task_index: row.error_code for row in rows if isinstance(row, TaskFailure)}


async def opened(world: World) -> Backend:
    """Return a holder that the test closes."""
    backend = await world.open()
    await backend.declare_limit(OWN, 3, per_minute=60_000)
    return backend


async def test_resumable_batch_waits_for_another_process(world: World) -> None:
    staying, leaving = await world.holder(limit=3), await opened(world)
    await begin(leaving, "b", 5, resumable=True)
    await begin(leaving, "not", 2)
    await leaving.close()
    assert await codes(staying) == {}
    assert await codes(staying, "not") == {0: "interrupted", 1: "interrupted"}
    assert (await found(staying)).status == "running"
    assert await staying.resumable_batches("acme") == ["b"]
    assert await staying.resumable_batches("acm") == []
    assert await staying.unstarted_tasks("b") == [0, 1, 2, 3, 4]
    assert await state(staying) == (0, 0), "its offers are withdrawn, and it waits for no permit"
    assert (await staying.admit()).offers == ()


async def test_one_process_takes_a_batch_over_and_runs_it_on(world: World) -> None:
    a, b, leaving = await world.holder(), await world.holder(), await opened(world)
    await leaving.register("team", 2)
    (permit,) = await take_all(
        leaving,
        await begin(leaving, "b", 4, also=("team",), max_running=1, resumable=True, seconds=100),
    )
    world.clock.now += 30
    await leaving.close()
    assert await b.resumable_batches("acme") == ["b"]
    taken = await b.take_over("b")
    assert taken is not None
    assert taken.seconds_left == pytest.approx(70, abs=0.01)
    assert taken.entry == QueueEntry("b", (OWN, "team"), "acme", 0, 1)
    assert await a.take_over("b") is None
    assert await b.take_over("b") is None
    assert await a.resumable_batches("acme") == []
    assert (await found(a)).resumed == 1
    assert await b.unstarted_tasks("b") == [1, 2, 3], "the other may have been made"
    queued = QueueEntry("b", (OWN, "team"), "acme", 3, 1)
    assert (await b.enqueue(queued)).offers == (), "one of it runs"
    assert await state(a, "team") == (1, 3)
    assert await b.adopt(permit)
    await finish(b, permit, "b", failed(0, "p0"))
    for task in (1, 2, 3):
        (permit,) = await take_all(b, await b.admit(), task)
        await finish(b, permit, "b", failed(task, f"p{task}"))
    assert (await found(a)).status == "completed"
    assert await state(a) == (0, 0)


async def test_batch_that_is_taken_over_again_counts_both(world: World) -> None:
    staying = await world.holder()
    first, second = await opened(world), await opened(world)
    await begin(first, "b", 2, resumable=True)
    await first.close()
    assert await second.take_over("b") is not None
    await second.enqueue(QueueEntry("b", (OWN,), "acme", 2))
    await second.close()
    assert await staying.resumable_batches("acme") == ["b"]
    assert await staying.take_over("b") is not None
    assert (await found(staying)).resumed == 2
    (listed,) = await staying.list_batches(["server"])
    assert listed.resumed == 2


async def test_batch_taken_over_keeps_its_turn(world: World) -> None:
    staying, leaving = await world.holder(limit=1), await opened(world)
    (permit,) = await take_all(staying, await begin(staying, "x", 1))
    await begin(leaving, "first", 1, resumable=True)
    await begin(leaving, "second", 1, resumable=True)
    await begin(staying, "third", 1)
    await leaving.close()
    assert await staying.resumable_batches("acme") == ["first", "second"]
    for batch in ("second", "first"):
        taken = await staying.take_over(batch)
        assert taken is not None
        await staying.enqueue(QueueEntry(batch, taken.entry.semaphores, "acme", 1))
    served = []
    for permitted in ("x", "first", "second"):
        (offer,) = (await finish(staying, permit, permitted, failed(0))).offers
        served.append(offer.entry)
        (permit,) = (
            await staying.record_attempts({offer.permit: attempt(offer.entry, 0)})
        ).cancel_after
    assert served == ["first", "second", "third"]


async def test_batch_marked_while_it_runs_is_resumable(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 1)
    await begin(leaving, "ended", 1)
    await leaving.record_results("ended", [failed(0)])
    for batch in ("b", "ended", "unknown"):
        await leaving.mark_resumable(batch)
    await leaving.close()
    assert await staying.resumable_batches("acme") == ["b"]
    assert await staying.take_over("ended") is None
    assert await staying.take_over("unknown") is None
    assert await staying.unstarted_tasks("ended") == []
    assert await staying.unstarted_tasks("unknown") == []


async def test_batch_marked_by_another_process_is_resumable(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 1)
    await staying.mark_resumable("b")
    await leaving.close()
    assert await staying.resumable_batches("acme") == ["b"]


async def test_batch_that_its_process_gave_up_is_not_resumable(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 2, resumable=True)
    await leaving.dequeue("b")
    await leaving.close()
    assert await staying.resumable_batches("acme") == []
    assert await codes(staying) == {0: "interrupted", 1: "interrupted"}


async def test_batch_of_running_tasks_only_can_be_taken_over(world: World) -> None:
    staying, leaving = await world.holder(limit=2), await opened(world)
    permits = await take_all(leaving, await begin(leaving, "b", 2, resumable=True))
    await leaving.close()
    assert await staying.resumable_batches("acme") == ["b"]
    assert await staying.unstarted_tasks("b") == []
    for task, permit in enumerate(permits):
        assert await staying.adopt(permit)
        await finish(staying, permit, "b", failed(task, f"p{task}"))
    assert (await found(staying)).status == "completed"
    assert await staying.resumable_batches("acme") == []
    assert await staying.take_over("b") is None


async def test_last_result_of_a_waiting_batch_ends_it(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 1, resumable=True))
    await leaving.close()
    await staying.record_results("b", [failed(0)], waited=False)
    assert await staying.resumable_batches("acme") == []
    assert await staying.take_over("b") is None
    await staying.adopt(permit)
    await staying.release(permit)
    assert await state(staying) == (0, 0)


async def test_waiting_batch_ends_with_an_attempt_too_old_to_be_found(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await take_all(leaving, await begin(leaving, "b", 1, resumable=True, seconds=9_000))
    await leaving.close()
    world.clock.now += 51 * 60
    await staying.admit()
    assert await codes(staying) == {0: "create_outcome_unknown"}
    assert await staying.resumable_batches("acme") == []
    assert await staying.take_over("b") is None


async def test_other_processes_are_woken_for_a_batch_that_waits(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 2, resumable=True)
    async with wake_ups(staying) as woken:
        await woken.next_after(leaving.close)
    assert await staying.resumable_batches("acme") == ["b"]


async def test_waiting_tasks_end_at_the_deadline_if_no_process_runs_the_batch(
    world: World,
) -> None:
    staying, leaving = await world.holder(limit=1), await opened(world)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 3, resumable=True, seconds=100))
    await leaving.close()
    world.clock.now += 99
    await staying.admit()
    assert await codes(staying) == {}
    world.clock.now += 1.5
    await staying.admit()
    assert await codes(staying) == {1: "deadline_exceeded", 2: "deadline_exceeded"}
    (row, _) = await staying.results("b")
    assert isinstance(row, TaskFailure)
    assert (row.retryable, row.prompt, row.output_filename) == (True, "prompt 1", "1.png")
    assert await staying.resumable_batches("acme") == []
    assert await staying.take_over("b") is None
    assert await staying.adopt(permit)
    await finish(staying, permit, "b", failed(0, "p0"))
    assert (await found(staying)).status == "completed"


async def test_polling_for_orphans_ends_batches_whose_deadline_has_passed(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 1, resumable=True, seconds=100)
    await leaving.close()
    world.clock.now += 101
    assert await staying.orphans("acme") == []
    assert await codes(staying) == {0: "deadline_exceeded"}
    assert (await found(staying)).status == "completed"


async def test_batch_whose_deadline_passed_before_its_process_ended_does_not_wait(
    world: World,
) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 1, resumable=True, seconds=100)
    world.clock.now += 101
    await leaving.close()
    assert await codes(staying) == {0: "deadline_exceeded"}


async def test_cancelled_batch_without_a_process_ends_at_once(world: World) -> None:
    staying, leaving = await world.holder(limit=1), await opened(world)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 2, resumable=True))
    await leaving.close()
    await staying.cancel_batch("b")
    assert await codes(staying) == {1: "canceled"}
    assert await staying.resumable_batches("acme") == []
    assert await staying.adopt(permit)
    await finish(staying, permit, "b", failed(0, "p0"))
    assert (await found(staying)).status == "canceled"


async def test_batch_cancelled_before_its_process_ended_does_not_wait(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await begin(leaving, "b", 2, resumable=True)
    await staying.cancel_batch("b")
    await leaving.close()
    assert await codes(staying) == {0: "canceled", 1: "canceled"}
    assert (await found(staying)).status == "canceled"


async def test_cancellation_reaches_the_process_that_took_a_batch_over(world: World) -> None:
    a, b, leaving = await world.holder(), await world.holder(), await opened(world)
    await begin(leaving, "b", 2, resumable=True)
    await leaving.close()
    assert await b.take_over("b") is not None
    async with wake_ups(b) as woken:
        await woken.next_after(lambda: a.cancel_batch("b"))
    assert await b.canceled_batches() == ["b"]
    assert await a.canceled_batches() == []
    assert await codes(a) == {}, "its process ends it"


async def test_key_of_a_waiting_batch_stays_taken(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    key = IdempotencyKey("k", "digest")
    await begin(leaving, "b", 1, resumable=True, key=key)
    await leaving.close()
    with pytest.raises(IdempotencyKeyExists):
        await begin(staying, "again", 1, key=key)


async def test_name_lives_while_a_batch_that_waits_for_a_process_needs_it(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await leaving.register("team", 2)
    await begin(leaving, "b", 1, also=("team",), resumable=True)
    await leaving.close()
    assert await state(staying, "team") == (0, 0)
    with pytest.raises(SemaphoreInUse, match="in use"):
        await staying.remove("team")
    assert [share for share in await staying.usage_by_holder() if share.semaphore == "team"] == []
    taken = await staying.take_over("b")
    assert taken is not None
    offers = (await staying.enqueue(QueueEntry("b", taken.entry.semaphores, "acme", 1))).offers
    assert len(offers) == 1
    await staying.cancel_batch("b")
    await staying.dequeue("b")
    await staying.record_results("b", [failed(0)])
    await staying.remove("team")
    with pytest.raises(UnknownSemaphore):
        await staying.resize("team", 3)


async def test_batch_whose_semaphore_was_removed_is_not_resumable(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await leaving.register("team", 2)
    await begin(leaving, "b", 1, also=("team",), resumable=True)
    await leaving.dequeue("b", 1)
    await leaving.remove("team")
    await leaving.close()
    assert await staying.resumable_batches("acme") == []
    assert await codes(staying) == {0: "interrupted"}


async def test_limit_set_by_hand_lives_while_a_batch_that_waits_for_a_process_needs_it(
    world: World,
) -> None:
    onlooker, leaving = await world.open(), await opened(world)
    await leaving.resize(OWN, 2)
    await begin(leaving, "b", 1, resumable=True)
    await leaving.close()
    later = await world.holder(limit=3)
    assert [each.limit for each in await later.semaphores()] == [2]
    await onlooker.close()


async def test_attempt_that_must_have_ended_takes_no_place_of_its_batch(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    await take_all(
        leaving, await begin(leaving, "b", 2, max_running=1, resumable=True, seconds=9_000)
    )
    await leaving.close()
    assert await staying.take_over("b") is not None
    more = QueueEntry("b", (OWN,), "acme", 1, 1)
    assert (await staying.enqueue(more)).offers == ()
    world.clock.now += 701
    await staying.semaphores()
    assert [offer.entry for offer in (await staying.admit()).offers] == ["b"]


async def test_evicted_batch_has_no_unstarted_tasks(world: World) -> None:
    backend = await world.holder(journal_bytes=8_000)
    await begin(backend, "b", 1, key=IdempotencyKey("k", "digest"), prompt="p" * 4_000)
    await backend.record_results("b", [failed(0)])
    await begin(backend, "b2", 1, prompt="p" * 4_000)
    assert await backend.get_batch("b") is None
    assert await backend.unstarted_tasks("b") == []


async def test_result_of_a_batch_without_a_process_can_be_recorded(world: World) -> None:
    staying, leaving = await world.holder(), await opened(world)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 1))
    await leaving.close()
    assert await staying.adopt(permit)
    await staying.requeue(permit)
    assert await staying.unstarted_tasks("b") == [0]
    await staying.record_results("b", [failed(0)])
    assert (await found(staying)).status == "completed"


async def test_task_given_back_of_a_waiting_batch_is_unstarted(world: World) -> None:
    staying, leaving = await world.holder(limit=2), await opened(world)
    first, second = await take_all(leaving, await begin(leaving, "b", 2, resumable=True))
    await leaving.close()
    for permit in (second, first):
        assert await staying.adopt(permit)
        await staying.give_back(permit)
    assert await staying.unstarted_tasks("b") == [0, 1]
    assert await codes(staying) == {}
    assert await state(staying) == (0, 0)
    await staying.give_back(first)
    assert await staying.unstarted_tasks("b") == [0, 1]


async def test_task_given_back_is_left_to_the_process_that_runs_the_batch(world: World) -> None:
    a, b, leaving = await world.holder(limit=2), await world.holder(), await opened(world)
    first, second = await take_all(leaving, await begin(leaving, "b", 3, resumable=True))
    await leaving.close()
    assert await b.take_over("b") is not None
    assert await b.unstarted_tasks("b") == [2]
    for holder, permit in ((a, first), (b, second)):
        assert await holder.adopt(permit)
        await holder.give_back(permit)
    assert await state(a) == (0, 0), "it waits for no start that its process did not ask for"
    assert await b.unstarted_tasks("b") == [0, 1, 2]


async def test_task_given_back_without_a_process_for_its_batch_is_interrupted(
    world: World,
) -> None:
    staying, leaving = await world.holder(limit=1), await opened(world)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 2))
    await leaving.close()
    assert await codes(staying) == {1: "interrupted"}
    assert await staying.adopt(permit)
    await staying.give_back(permit)
    assert await codes(staying) == {0: "interrupted", 1: "interrupted"}
    (_, row) = await staying.results("b")
    assert isinstance(row, TaskFailure)
    assert (row.retryable, row.prompt, row.output_filename) == (True, "prompt 0", "0.png")
    assert (await found(staying)).status == "completed"
    assert await state(staying) == (0, 0)


async def test_images_of_a_task_given_back_are_refunded(world: World) -> None:
    staying, leaving = await world.holder(limit=2), await opened(world)
    admission = await begin(leaving, "b", 2, resumable=True)
    (permit, _) = [offer.permit for offer in admission.offers]
    await leaving.record_attempts({permit: attempt("b", 0, images=4)}, images_per_day=4)
    await leaving.close()
    assert await staying.adopt(permit)
    await staying.give_back(permit)
    (offer,) = (await begin(staying, "other", 1)).offers
    recorded = await staying.record_attempts(
        {offer.permit: attempt("other", 0, images=4)}, images_per_day=4
    )
    assert list(recorded.cancel_after) == [offer.permit]


async def cut_off(world: World) -> tuple[Backend, Backend, list[int], list[int]]:
    """Return a process that was declared dead, the one that has its batch of 5, and permits.

    These are the first process's permits of tasks 0 and 1, and its offers, which were withdrawn.
    """
    one, two = await world.holder(limit=3), await world.holder(limit=3)
    offers = [offer.permit for offer in (await begin(one, "b", 5, resumable=True)).offers]
    recorded = await one.record_attempts(
        {permit: attempt("b", task) for task, permit in enumerate(offers[:2])}
    )
    permits = sorted(recorded.cancel_after)
    await world.declare_dead(one, by=two)
    assert await two.take_over("b") is not None
    await two.enqueue(QueueEntry("b", (OWN,), "acme", 3))
    return one, two, permits, offers[2:]


async def test_process_that_lost_a_batch_can_record_no_attempt_of_it(world: World) -> None:
    one, two, _, offers = await cut_off(world)
    recorded = await one.record_attempts({permit: attempt("b", 2) for permit in offers})
    assert recorded.cancel_after == {}
    mine = [offer.permit for offer in (await two.admit()).offers]
    assert len(mine) == 1
    recorded = await one.record_attempts({mine[0]: attempt("b", 2)})
    assert recorded.cancel_after == {}, "the offer is another process's"
    assert (await one.admit()).offers == ()


async def test_process_that_lost_a_batch_cannot_change_its_queue(world: World) -> None:
    one, two, permits, _ = await cut_off(world)
    before = await state(two)
    await one.enqueue(QueueEntry("b", (OWN,), "acme", 2))
    assert await state(two) == before
    await one.dequeue("b", 1)
    await one.dequeue("b")
    assert await state(two) == before
    await one.requeue(permits[0])
    assert await state(two) == (3, 1), "its permit is free, and goes to a task of the other"
    assert await two.unstarted_tasks("b") == [0, 2, 3, 4]


async def test_process_that_lost_a_batch_records_only_what_it_follows(world: World) -> None:
    one, two, permits, _ = await cut_off(world)
    before = await state(two)
    await one.record_results("b", [failed(3), failed(4)])
    assert await codes(two) == {}
    assert await state(two) == before
    await finish(one, permits[1], "b", failed(1, "p1"))
    assert await codes(two) == {1: "prediction_failed"}
    await two.record_results("b", [failed(3)])
    assert set(await codes(two)) == {1, 3}


async def test_process_that_lost_a_batch_ends_without_ending_it(world: World) -> None:
    one, two, _, _ = await cut_off(world)
    await world.declare_dead(one, by=two)
    assert await codes(two) == {}
    assert await two.unstarted_tasks("b") == [2, 3, 4]
    assert await two.resumable_batches("acme") == []
    assert await two.take_over("b") is None
