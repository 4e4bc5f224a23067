"""Redis leases: which holders are declared dead, by which others, and who gets their work."""

import time
from dataclasses import replace

import anyio
import pytest

from backends.conftest import LEASE, Fleet, until
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure


async def test_predictions_of_a_holder_with_lapsed_lease_become_orphans(
    fleet: Fleet,
) -> None:
    alive, gone = await fleet.holder(), await fleet.holder()
    (permit, *_) = await take_all(gone, await begin(gone, "b", 5))
    fleet.stop(gone)
    await until(lambda: alive.orphans("acme"))
    orphans = await alive.orphans("acme")
    assert permit in {orphan.permit for orphan in orphans}
    assert all(orphan.batch == "b" for orphan in orphans)
    assert await state(alive) == (3, 0)
    rows = await alive.results("b")
    assert [isinstance(row, TaskFailure) and row.error_code for row in rows] == ["interrupted"] * 2
    assert await alive.adopt(permit)
    await finish(alive, permit, "b", failed(0, "p1"))
    assert await state(alive) == (2, 0)


async def test_new_holder_declares_others_dead_only_after_a_full_lease_of_contact(
    fleet: Fleet,
) -> None:
    gone = await fleet.holder()
    await take_all(gone, await begin(gone, "b", 1))
    await fleet.lapses(gone)
    newcomer = await fleet.holder()
    began = time.monotonic()
    assert await newcomer.orphans("acme") == []
    await until(lambda: newcomer.orphans("acme"))
    assert time.monotonic() - began > 0.8 * LEASE


async def test_context_units_are_freed_with_their_process(fleet: Fleet) -> None:
    alive, gone = await fleet.holder(), await fleet.holder()
    await alive.register("team", 2)
    admission = await gone.enqueue(QueueEntry("contexts", ("team",), None, 5))
    await gone.accept_offers([offer.permit for offer in admission.offers])
    assert await state(alive, "team") == (2, 3)
    fleet.stop(gone)
    with anyio.fail_after(10):
        while await state(alive, "team") != (0, 0):
            await anyio.sleep(0.01)


async def test_holder_with_lapsed_lease_loses_its_offers_and_receives_new_ones(
    fleet: Fleet,
) -> None:
    late = await fleet.holder()
    admission = await begin(late, "b", 3)
    await fleet.lapses(late)
    assert await take_all(late, admission) == []
    fleet.go_on(late)
    assert len(await take_all(late, await late.admit())) == 3


async def test_returning_holder_does_not_restore_unset_or_removed_limits(
    fleet: Fleet,
) -> None:
    one, late = await fleet.holder(), await fleet.holder()
    before = {each.name: each.limit for each in await one.semaphores()}
    await one.register("team", 2)
    await one.resize("team", 4, by_admin=True)
    await late.resize(OWN, 1, by_admin=True)  # Mirrored in both processes, as is the other limit.
    await fleet.lapses(late)
    await one.unset(OWN)
    await one.remove("team")
    await late.declare_limit(OWN, before[OWN], per_minute=60_000)
    assert {each.name: each.limit for each in await late.semaphores()} == before


async def test_returning_holder_keeps_permits_not_taken_over(fleet: Fleet) -> None:
    late = await fleet.holder()
    permits = await take_all(late, await begin(late, "b", 3))
    await fleet.lapses(late)
    admission = await finish(late, permits[0], "b", failed(0))
    assert admission.offers == ()
    assert await state(late) == (2, 0)
    other = await fleet.holder()
    assert [each.permit for each in await other.open_attempts("acme")] == permits[1:]


async def test_returning_holder_learns_which_batches_were_taken_over(
    fleet: Fleet,
) -> None:
    alive, late = await fleet.holder(), await fleet.holder()
    permits = await take_all(late, await begin(late, "b", 5))
    fleet.stop(late)
    await until(lambda: alive.orphans("acme"))
    assert await alive.adopt(permits[0])
    fleet.go_on(late)
    assert (await late.admit()).offers == ()
    assert await late.interrupted_batches() == ["b"]
    assert await late.interrupted_batches() == []
    # The prediction that both now follow is delivered once, and its permit is released once.
    await finish(late, permits[0], "b", failed(0, "p1"))
    await finish(alive, permits[0], "b", failed(0, "p1"))
    assert await state(alive) == (2, 0)
    tasks = [row.task_index for row in await alive.results("b")]
    assert sorted(tasks) == [0, 3, 4]


async def test_batch_taken_over_after_state_loss_creates_nothing_more(
    fleet: Fleet,
) -> None:
    alive, late = await fleet.holder(limit=2), await fleet.holder(limit=2)
    permits = await take_all(late, await begin(late, "b", 4))
    await finish(late, permits[0], "b", failed(0, "p0"))
    await fleet.lapses(late)
    fleet.forget("units")

    async def are_ended() -> bool:
        await alive.admit()
        return len(await alive.results("b")) == 3

    await until(are_ended)
    await fleet.opened(alive)
    assert (await late.admit()).offers == ()
    assert await late.interrupted_batches() == ["b"]
    assert (await finish(late, permits[1], "b", failed(1, "p1"))).offers == ()
    rows = [row for row in await alive.results("b") if isinstance(row, TaskFailure)]
    assert {row.task_index: row.error_code for row in rows} == {
        0: "prediction_failed", 1: "prediction_failed", 2: "interrupted", 3: "interrupted",
    }  # fmt: skip


async def test_holder_returns_although_a_name_it_uses_was_dropped(
    fleet: Fleet,
) -> None:
    alive, first, user = [await fleet.holder() for _ in range(3)]
    await first.register("team", 2)
    contexts = QueueEntry("contexts", ("team",), None, 1)
    (offer,) = (await user.enqueue(contexts)).offers
    await user.accept_offers([offer.permit])
    await user.release(offer.permit)
    (permit,) = await take_all(user, await begin(user, "b", 1))
    await fleet.lapses(first)
    await fleet.lapses(user)

    async def forgotten() -> bool:
        return "team" not in {each.name for each in await alive.semaphores()}

    await until(forgotten)
    await finish(user, permit, "b", failed(0, "p1"))
    assert (await alive.register("team", 9)).limit == 2
    assert len((await user.enqueue(contexts)).offers) == 1


async def test_holder_that_fails_to_resync_is_treated_as_dead(fleet: Fleet) -> None:
    alive, late = await fleet.holder(), await fleet.holder()
    (permit,) = await take_all(late, await begin(late, "b", 1))
    assert await late.claim_prediction(permit, "b", "p1")
    await fleet.lapses(late)
    fleet.forget("predictions:acme")
    with fleet.server.client as client:
        client.set(fleet.key("predictions:acme"), "no predictions")
    with pytest.raises(BackendUnavailable, match="WRONGTYPE"):
        await late.admit()
    fleet.go_on(late)
    await until(lambda: alive.orphans("acme"))
    assert await alive.adopt(permit)
    fleet.forget("predictions:acme")


async def test_expired_orphans_of_dead_holders_use_no_units(fleet: Fleet) -> None:
    alive, gone = await fleet.holder(), await fleet.holder()
    (offer,) = (await begin(gone, "b", 1)).offers
    await gone.record_attempts({offer.permit: replace(attempt("b", 0), max_seconds=0.2)})
    fleet.stop(gone)

    async def ended() -> bool:
        await alive.admit()
        return await state(alive) == (0, 0)

    await until(ended)
    (orphan,) = await alive.orphans("acme")
    assert await alive.adopt(orphan.permit)
    assert await state(alive) == (0, 0)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_process_clock_an_hour_off_changes_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    right = await fleet.holder(limit=2)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3_600)
    wrong = await fleet.holder(limit=2)
    (permit, _) = await take_all(wrong, await begin(wrong, "b1", 3))
    await begin(right, "b2", 3)
    assert [o.entry for o in (await finish(wrong, permit, "b1", failed(0))).offers] == ["b1"]
    (batch,) = [each for each in await right.list_batches(["server"]) if each.id == "b1"]
    assert batch.created_at == pytest.approx(now(), abs=60)
    await wrong.set_cached("key", "value", seconds=60)
    assert await right.get_cached("key") == "value"
