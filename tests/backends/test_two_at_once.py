"""Two holders on one object, on every backend, in each order and concurrently.

A call is atomic, so two concurrent calls are applied in one order or the other; the tests choose
the order.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import pytest

from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.errors import SemaphoreInUse, UnknownSemaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.tasks.result import TaskFailure

T = TypeVar("T")

Step = Callable[[], Awaitable[T]]

ORDERS = ("first, then second", "second, then first", "at once")


async def both(order: str, first: Step[T], second: Step[T]) -> tuple[T, T]:
    """Make two calls in a given order and return both responses."""
    answers: dict[int, T] = {}

    async def do(number: int, step: Step[T]) -> None:
        answers[number] = await step()

    if order == "at once":
        async with anyio.create_task_group() as group:
            group.start_soon(do, 0, first)
            group.start_soon(do, 1, second)
    elif order == "first, then second":
        await do(0, first)
        await do(1, second)
    else:
        await do(1, second)
        await do(0, first)
    return answers[0], answers[1]


in_each_order = pytest.mark.parametrize("order", ORDERS)


async def orphan(world: World, *, limit: int = 3) -> int:
    """Return the permit of an attempt whose process is dead."""
    gone = await world.open()
    await gone.declare_limit(OWN, limit, per_minute=60_000)
    (permit,) = await take_all(gone, await begin(gone, "b", 1))
    await gone.close()
    return permit


@in_each_order
async def test_orphan_adopted_concurrently_is_followed_by_one_holder(
    world: World, order: str
) -> None:
    one, two, three = [await world.holder() for _ in range(3)]
    permit = await orphan(world)
    adopted = await both(order, lambda: one.adopt(permit), lambda: two.adopt(permit))
    assert sorted(adopted) == [False, True]
    assert await three.orphans("acme") == []
    assert not await three.adopt(permit)
    follows = one if adopted[0] else two
    await finish(follows, permit, "b", failed(0, "p1"))
    assert await state(three) == (0, 0)
    assert await three.results("b") == [failed(0, "p1")]


@in_each_order
async def test_concurrent_requests_with_one_key_open_one_batch(world: World, order: str) -> None:
    one, two = await world.holder(limit=9), await world.holder(limit=9)

    async def request(
        holder: Backend, batch: str, digest: str
    ) -> AdmissionResult | IdempotencyKeyExists:
        try:
            return await begin(holder, batch, 2, key=IdempotencyKey("k", digest))
        except IdempotencyKeyExists as taken:
            return taken

    answers = await both(order, lambda: request(one, "b1", "d1"), lambda: request(two, "b2", "d2"))
    (taken,) = [each for each in answers if isinstance(each, IdempotencyKeyExists)]
    (admission,) = [each for each in answers if isinstance(each, AdmissionResult)]
    assert {offer.entry for offer in admission.offers} == {taken.batch_id}
    assert taken.digest == taken.batch_id.replace("b", "d")
    assert [each.id for each in await one.list_batches(["server"])] == [taken.batch_id]
    assert await state(two) == (2, 0)


@in_each_order
async def test_permit_finished_concurrently_returns_once_with_one_result(
    world: World, order: str
) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    permits = await take_all(one, await begin(one, "b", 4))

    async def end(holder: Backend, error: str) -> AdmissionResult:
        result = failed(0, "p1").model_copy(update={"error": error})
        return await finish(holder, permits[0], "b", result)

    await both(order, lambda: end(one, "One."), lambda: end(two, "Two."))
    assert await state(two) == (2, 1)
    (row,) = await two.results("b")
    assert isinstance(row, TaskFailure)
    if order != "at once":
        assert row.error == ("One." if order.startswith("first") else "Two.")
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.failed, batch.status) == (1, "running")


@in_each_order
async def test_prediction_claimed_concurrently_belongs_to_one_attempt(
    world: World, order: str
) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    (first,) = await take_all(one, await begin(one, "b1", 1))
    (second,) = await take_all(two, await begin(two, "b2", 1))
    claimed = await both(
        order,
        lambda: one.claim_prediction(first, "b1", "p1"),
        lambda: two.claim_prediction(second, "b2", "p1"),
    )
    assert sorted(claimed) == [False, True]
    prediction = {each.permit: each.prediction_id for each in await one.open_attempts("acme")}
    assert prediction == {
        first: "p1" if claimed[0] else None,
        second: "p1" if claimed[1] else None,
    }


@in_each_order
@pytest.mark.parametrize("limit", [1, 4])
async def test_limit_changed_while_offers_are_accepted_applies_next(
    world: World, order: str, limit: int
) -> None:
    one, two = await world.holder(limit=3), await world.holder(limit=3)
    admission = await begin(one, "b", 9)

    async def take() -> Sequence[int]:
        return await take_all(one, admission)

    async def resize() -> Sequence[int]:
        await two.resize(OWN, limit)
        return []

    permits, _ = await both(order, take, resize)
    assert len(permits) == 3, "what was offered before stays"
    await one.admit()
    assert await state(two) == (max(3, limit), 9 - max(3, limit))
    for task, permit in enumerate(permits):
        await finish(one, permit, "b", failed(task))
    assert await state(two) == (limit, 6 - limit)


@in_each_order
async def test_limit_unset_while_tasks_wait_lets_them_continue(world: World, order: str) -> None:
    one, two = await world.holder(), await world.holder()
    await one.register("team", 2)
    await two.resize("team", 1, by_admin=True)
    (offer,) = (await one.enqueue(QueueEntry("c", ("team",), None, 4))).offers

    async def take() -> None:
        assert (await one.accept_offers([offer.permit])).permits

    async def unset() -> None:
        await two.unset("team")

    await both(order, take, unset)
    await one.admit()
    assert await state(one, "team") == (2, 2), "the limit of its registration applies"


@in_each_order
async def test_name_is_either_enqueued_for_or_removed(world: World, order: str) -> None:
    one = await world.holder()
    await one.register("team", 1)

    async def join() -> bool:
        try:
            await one.enqueue(QueueEntry("c", ("team",), None, 1))
        except UnknownSemaphore:
            return False
        return True

    async def remove() -> bool:
        try:
            await one.remove("team")
        except SemaphoreInUse:
            return False
        return True

    joined, removed = await both(order, join, remove)
    assert joined is not removed
    assert ("team" in {each.name for each in await one.semaphores()}) is joined


@in_each_order
async def test_entry_dequeued_while_offers_are_accepted_keeps_the_accepted_ones(
    world: World, order: str
) -> None:
    one, other = await world.holder(limit=2), await world.holder(limit=2)
    admission = await begin(one, "b", 5)

    async def take() -> Sequence[int]:
        return await take_all(one, admission)

    async def leave() -> Sequence[int]:
        await one.dequeue("b")
        return []

    permits, _ = await both(order, take, leave)
    if order != "at once":
        assert len(permits) == (2 if order.startswith("first") else 0)
    assert await state(other) == (len(permits), 0)


@in_each_order
async def test_stale_offer_is_either_accepted_or_withdrawn(world: World, order: str) -> None:
    one, two = await world.holder(limit=1), await world.holder(limit=1)
    admission = await begin(one, "b1", 1)
    await begin(two, "b2", 1)
    world.clock.now += 0.6

    async def take() -> bool:
        return bool(await take_all(one, admission))

    async def read_state() -> bool:
        return bool((await two.admit()).offers)

    taken, offered = await both(order, take, read_state)
    assert taken is not offered
    assert await state(one) == (1, 1)


@in_each_order
async def test_batch_cancelled_while_it_ends_has_ended(world: World, order: str) -> None:
    one, two = await world.holder(), await world.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))

    async def end() -> None:
        await finish(one, permit, "b", failed(0, "p1"))

    async def cancel() -> None:
        await two.cancel_batch("b")

    await both(order, end, cancel)
    batch = await two.get_batch("b")
    assert batch is not None
    if order != "at once":
        expected = "completed" if order.startswith("first") else "canceled"
        assert batch.status == expected
    assert batch.failed == 1
    assert await one.canceled_batches() == []


@in_each_order
async def test_expired_attempt_is_either_adopted_or_ends_as_unknown(
    world: World, order: str
) -> None:
    one, two = await world.holder(), await world.holder()
    permit = await orphan(world)
    world.clock.now += 701
    assert await state(one) == (0, 0)
    world.clock.now += 50 * 60

    async def read_state() -> bool:
        await two.semaphores()
        return False

    adopted, _ = await both(order, lambda: one.adopt(permit), read_state)
    rows = await two.results("b")
    if adopted:
        assert rows == []
        await finish(one, permit, "b", failed(0, "p1"))
        assert await two.results("b") == [failed(0, "p1")]
    else:
        (row,) = rows
        assert isinstance(row, TaskFailure)
        assert row.error_code == "create_outcome_unknown"
        assert await one.orphans("acme") == []
    if order != "at once":
        assert adopted is order.startswith("first")


@in_each_order
async def test_concurrent_429_and_result_are_both_applied(world: World, order: str) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    first, second = await take_all(one, await begin(one, "b", 2))

    async def put_back() -> None:
        await one.requeue(first)

    async def end() -> None:
        await finish(two, second, "b", failed(1, "p1"))

    await both(order, put_back, end)
    await one.admit()
    assert await state(two) == (1, 0)
    assert await two.results("b") == [failed(1, "p1")]


async def test_attempt_of_a_closed_holder_is_not_recorded(world: World) -> None:
    one, two = await world.open(), await world.holder(limit=1)
    await one.declare_limit(OWN, 1, per_minute=60_000)
    admission = await begin(one, "b1", 1)
    await begin(two, "b2", 1)
    await one.close()
    (offer,) = (await two.admit()).offers
    assert offer.entry == "b2"
    assert offer.permit not in {each.permit for each in admission.offers}
    recorded = await two.record_attempts({admission.offers[0].permit: attempt("b1", 0)})
    assert not recorded.cancel_after
