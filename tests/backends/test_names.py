"""Named limits, over every backend: who keeps a name, what applies, and what is counted."""

import pytest

from backends.acting import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import World
from replicate_mcp.batches.backend import Backend
from replicate_mcp.errors import SemaphoreInUse, UnknownSemaphore
from replicate_mcp.semaphores.permits import QueueEntry, HolderUsage


async def limits(backend: Backend) -> dict[str, int]:
    return {each.name: each.limit for each in await backend.semaphores()}


async def test_a_limit_stays_while_a_permit_of_it_is_out_though_its_process_is_gone(
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


async def test_an_accounts_limit_that_was_set_stays_while_its_permit_is_out(world: World) -> None:
    staying, leaving = await world.open(), await world.open()
    await leaving.declare_limit(OWN, 5, per_minute=60_000)
    await leaving.resize(OWN, 2)
    await take_all(leaving, await begin(leaving, "b", 1))
    await leaving.close()
    assert await limits(staying) == {OWN: 2}
    await staying.close()


async def test_a_limit_that_was_set_stays_while_another_process_declares_the_name(
    world: World,
) -> None:
    staying, leaving = await world.holder(), await world.open()
    for each in (staying, leaving):
        await each.register("team", 7)
    await leaving.resize("team", 9)
    await leaving.close()
    assert (await limits(staying))["team"] == 9


async def test_a_set_limit_applies_over_what_processes_declare(world: World) -> None:
    one, _ = await world.holder(limit=5), await world.holder(limit=2)
    await one.resize(OWN, 4)
    assert await limits(one) == {OWN: 4}
    await world.holder(limit=1)
    assert await limits(one) == {OWN: 4}


async def test_a_declared_limit_is_gone_with_its_process(world: World) -> None:
    one, strict = await world.holder(limit=5), await world.open()
    await strict.declare_limit(OWN, 1, per_minute=60_000)
    await begin(one, "b", 9)
    assert await state(one) == (1, 8)
    await strict.close()
    assert await limits(one) == {OWN: 5}
    assert len((await one.admit()).offers) == 5


async def test_a_process_that_declares_another_limit_replaces_its_former_one(world: World) -> None:
    backend = await world.holder(limit=2)
    await backend.declare_limit(OWN, 4, per_minute=60_000)
    assert await limits(backend) == {OWN: 4}


async def test_a_name_that_a_process_only_waits_for_lives_as_long_as_that_process(
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


async def test_a_name_is_removed_for_good(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 7)
    await backend.resize("team", 9, by_admin=True)
    await backend.remove("team")
    assert await limits(backend) == {OWN: 3}
    assert (await backend.register("team", 4)).limit == 4


async def test_removing_a_name_leaves_other_names_and_their_queues(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    await backend.register("studio", 1)
    (offer,) = (await backend.enqueue(QueueEntry("c", ("studio",), None, 2))).offers
    await backend.remove("team")
    assert await state(backend, "studio") == (1, 1)
    await backend.accept_offers([offer.permit])
    assert len((await backend.release(offer.permit)).offers) == 1


async def test_a_name_is_not_removed_while_a_task_waits_for_it(world: World) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    await backend.resize(OWN, 1)
    await take_all(backend, await begin(backend, "b1", 1))
    await begin(backend, "b2", 2, also=("team",))
    with pytest.raises(SemaphoreInUse, match=r"\(0 in use, 2 waiting\)"):
        await backend.remove("team")


async def test_a_name_that_several_others_registered_is_not_removed(world: World) -> None:
    backend, *others = [await world.holder() for _ in range(3)]
    for each in (backend, *others):
        await each.register("team", 1)
    with pytest.raises(SemaphoreInUse, match="registered by 2 other processes"):
        await backend.remove("team")
    assert "team" in await limits(backend)


async def test_setting_a_limit_keeps_what_an_admin_set_as_an_admins(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9, by_admin=True)
    await leaving.resize("team", 5)
    await leaving.close()
    assert (await limits(staying))["team"] == 5


async def test_a_limit_that_was_unset_is_no_admins_any_more(world: World) -> None:
    staying, leaving = await world.holder(), await world.open()
    await leaving.register("team", 7)
    await leaving.resize("team", 9, by_admin=True)
    await leaving.unset("team")
    await leaving.close()
    assert "team" not in await limits(staying)


async def test_what_is_unknown_cannot_be_resized_removed_or_unset_and_the_known_are_named(
    world: World,
) -> None:
    backend = await world.holder()
    await backend.register("team", 1)
    for step in (backend.resize("teem", 3), backend.remove("teem"), backend.unset("teem")):
        with pytest.raises(UnknownSemaphore, match=r"'teem' is not registered \(known are team\)"):
            await step
    assert await limits(backend) == {OWN: 3, "team": 1}


async def test_a_registration_answers_with_how_full_the_name_is(world: World) -> None:
    one, two = await world.holder(), await world.holder()
    await one.register("studio", 5)
    await one.register("team", 2)
    await one.enqueue(QueueEntry("c", ("team",), None, 5))
    found = await two.register("team", 9)
    assert (found.name, found.limit, found.in_use, found.waiting) == ("team", 2, 2, 3)
    assert (found.requests_per_minute, found.throttled_for) == (None, None)


async def test_semaphores_are_sorted_by_name_and_shares_by_name_and_process(world: World) -> None:
    b, a = await world.holder(label="b"), await world.holder(label="a")
    for name in ("zoo", "ant"):
        await b.register(name, 5)
    for each, batch in ((b, "bb"), (a, "ba")):
        await take_all(each, await begin(each, batch, 1, also=("zoo",)))
    assert [each.name for each in await a.semaphores()] == [OWN, "ant", "zoo"]
    assert await a.usage_by_holder() == [
        HolderUsage(who, name, in_use=1, waiting=0) for name in (OWN, "zoo") for who in ("a", "b")
    ]


async def test_what_a_gone_process_left_is_nobodys_share(world: World) -> None:
    staying, leaving = await world.holder(label="stays"), await world.open("leaves")
    await leaving.declare_limit(OWN, 3, per_minute=60_000)
    (permit,) = await take_all(leaving, await begin(leaving, "b", 1))
    await leaving.close()
    assert await staying.usage_by_holder() == [HolderUsage("", OWN, in_use=1, waiting=0)]
    assert await staying.adopt(permit)
    assert await staying.usage_by_holder() == [HolderUsage("stays", OWN, in_use=1, waiting=0)]


async def test_a_limit_is_raised_and_lowered_for_every_holder_at_once(world: World) -> None:
    one, two = await world.holder(limit=2), await world.holder(limit=2)
    permits = await take_all(one, await begin(one, "b1", 9))
    assert (await two.resize(OWN, 3)).offers == ()
    (third,) = await take_all(one, await one.admit(), first_task=2)
    await two.resize(OWN, 1)
    for task, permit in enumerate((*permits, third)):
        room = await finish(one, permit, "b1", failed(task))
        assert len(room.offers) == (1 if permit == third else 0)
    assert await state(two) == (1, 5)


async def test_a_batch_of_two_named_and_an_account_counts_in_each(world: World) -> None:
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
