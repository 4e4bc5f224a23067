"""Named limits on every backend: which holders keep a name, which limit applies, the counts."""

import pytest

from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World
from replicate_mcp.batches.backend import Backend
from replicate_mcp.errors import SemaphoreInUse, UnknownSemaphore
from replicate_mcp.semaphores.permit_store import HolderUsage, QueueEntry


async def limits(backend: Backend) -> dict[str, int]:
    return {each.name: each.limit for each in await backend.semaphores()}


async def test_limit_survives_its_process_while_a_permit_is_held(
    world: World,
) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 1)
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 1, also=("team",)))
    await leaving.close()
    assert await limits(staying) == {OWN: 3, "team": 1}
    assert await state(staying, "team") == (1, 0)
    assert await staying.adopt(permit)
    await finish(staying, permit, "b", failed(0, "p1"))
    last = await world.open()
    await last.close()
    assert await limits(staying) == {OWN: 3}


async def test_manual_account_limit_survives_while_its_permit_is_held(world: World) -> None:
    staying, leaving = await world.open(), await world.open()
    await leaving.declare_limit(OWN, 5, per_minute=60_000)
    await leaving.resize(OWN, 2)
    await take_all(leaving, await begin(leaving, "b", 1))
    await leaving.close()
    assert await limits(staying) == {OWN: 2}
    await staying.close()


async def test_manual_limit_survives_while_another_process_declares_the_name(
    world: World,
) -> None:
    staying, leaving = await world.holder(), await world.open()
    for each in (staying, leaving):
        await each.register("team", 7)
    await leaving.resize("team", 9)
    await leaving.close()
    assert (await limits(staying))["team"] == 9


async def test_manual_limit_overrides_declared_limits(world: World) -> None:
    one, _ = await world.holder(limit=5), await world.holder(limit=2)
    await one.resize(OWN, 4)
    assert await limits(one) == {OWN: 4}
    await world.holder(limit=1)
    assert await limits(one) == {OWN: 4}


async def test_declared_limit_disappears_with_its_process(world: World) -> None:
    one, strict = await world.holder(limit=5), await world.open()
    await strict.declare_limit(OWN, 1, per_minute=60_000)
    await begin(one, "b", 9)
    assert await state(one) == (1, 8)
    await strict.close()
    assert await limits(one) == {OWN: 5}
    assert len((await one.admit()).offers) == 5


async def test_new_declared_limit_replaces_the_previous_one_of_the_process(world: World) -> None:
    backend = await world.holder(limit=2)
    await backend.declare_limit(OWN, 4, per_minute=60_000)
    assert await limits(backend) == {OWN: 4}


async def test_name_with_only_waiting_entries_lives_as_long_as_their_process(
    world: World,
) -> None:
    registering, waiting = await world.open(), await world.holder()
    await registering.register("team", 1)
    (offer,) = (await waiting.enqueue(QueueEntry("c", ("team",), None, 1))).offers
    await waiting.accept_offers([offer.permit])
    await registering.close()
    await waiting.release(offer.permit)
    assert (await limits(waiting))["team"] == 1
    assert len((await waiting.enqueue(QueueEntry("c", ("team",), None, 1))).offers) == 1


async def test_removed_name_stays_removed(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 7)
    await backend.resize("team", 9, by_admin=True)
    await backend.remove("team")
    assert await limits(backend) == {OWN: 3}
    assert (await backend.register("team", 4)).limit == 4


async def test_removing_a_name_keeps_other_names_and_their_queues(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    await backend.register("studio", 1)
    (offer,) = (await backend.enqueue(QueueEntry("c", ("studio",), None, 2))).offers
    await backend.remove("team")
    assert await state(backend, "studio") == (1, 1)
    await backend.accept_offers([offer.permit])
    assert len((await backend.release(offer.permit)).offers) == 1


async def test_name_with_a_waiting_task_cannot_be_removed(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    await backend.resize(OWN, 1)
    await take_all(backend, await begin(backend, "b1", 1))
    await begin(backend, "b2", 2, also=("team",))
    with pytest.raises(SemaphoreInUse, match=r"\(0 in use, 2 waiting\)"):
        await backend.remove("team")


async def test_name_registered_by_several_others_cannot_be_removed(world: World) -> None:
    backend, *others = [await world.holder() for _ in range(3)]
    for each in (backend, *others):
        await each.register("team", 1)
    with pytest.raises(SemaphoreInUse, match="registered by 2 other processes"):
        await backend.remove("team")
    assert "team" in await limits(backend)


async def test_resize_keeps_an_admin_limit_marked_as_admin(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9, by_admin=True)
    await leaving.resize("team", 5)
    await leaving.close()
    assert (await limits(staying))["team"] == 5


async def test_unset_limit_is_no_longer_marked_as_admin(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9, by_admin=True)
    await leaving.unset("team")
    await leaving.close()
    assert "team" not in await limits(staying)


async def test_resize_remove_and_unset_of_unknown_names_list_the_known_ones(
    world: World,
) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    for step in (backend.resize("teem", 3), backend.remove("teem"), backend.unset("teem")):
        with pytest.raises(UnknownSemaphore, match=r"'teem' is not registered \(known are team\)"):
            await step
    assert await limits(backend) == {OWN: 3, "team": 1}


async def test_registering_returns_the_current_usage(world: World) -> None:
    one, two = await world.holder(), await world.holder()
    await one.register("studio", 5)
    await one.register("team", 2)
    await one.enqueue(QueueEntry("c", ("team",), None, 5))
    found = await two.register("team", 9)
    assert (found.name, found.limit, found.in_use, found.waiting) == ("team", 2, 2, 3)
    assert (found.requests_per_minute, found.throttled_for) == (None, None)


async def test_semaphores_and_usages_are_sorted(world: World) -> None:
    b, a = await world.holder(label="b"), await world.holder(label="a")
    for name in ("zoo", "ant"):
        await b.register(name, 5)
    for each, batch in ((b, "bb"), (a, "ba")):
        await take_all(each, await begin(each, batch, 1, also=("zoo",)))
    assert [each.name for each in await a.semaphores()] == [OWN, "ant", "zoo"]
    assert await a.usage_by_holder() == [
        HolderUsage(who, name, in_use=1, waiting=0) for name in (OWN, "zoo") for who in ("a", "b")
    ]


async def test_permits_of_a_closed_holder_are_reported_without_an_owner(world: World) -> None:
    staying, leaving = await world.holder(label="stays"), await world.open("leaves")
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 1))
    await leaving.close()
    assert await staying.usage_by_holder() == [HolderUsage("", OWN, in_use=1, waiting=0)]
    assert await staying.adopt(permit)
    assert await staying.usage_by_holder() == [HolderUsage("stays", OWN, in_use=1, waiting=0)]


async def test_resized_limit_applies_to_every_holder_immediately(world: World) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    permits = await take_all(one, await begin(one, "b1", 9))
    assert (await two.resize(OWN, 3)).offers == ()
    (third,) = await take_all(one, await one.admit(), first_task=2)
    await two.resize(OWN, 1)
    for task, permit in enumerate((*permits, third)):
        admission = await finish(one, permit, "b1", failed(task))
        assert len(admission.offers) == (1 if permit == third else 0)
    assert await state(two) == (1, 5)


async def test_batch_with_a_named_semaphore_counts_in_both(world: World) -> None:
    backend = await world.holder(limit=5)
    await backend.register("team", 2)
    offers = (await begin(backend, "b", 4, also=("team",))).offers
    await backend.record_attempts({offers[0].permit: attempt("b", 0)})
    await backend.dequeue("b")
    for name in (OWN, "team"):
        assert await state(backend, name) == (1, 0)
    assert [each.available for each in await backend.semaphores()] == [4, 1]
    await backend.resize(OWN, 1)
    await backend.resize("team", 3)
    assert [each.available for each in await backend.semaphores()] == [0, 2]
