"""Resync of a Redis after a loss of state or of a response, key by key."""

from dataclasses import replace

import pytest

from backends.conftest import Site
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.redis.mirror import MirroredPermit
from replicate_mcp.batches.attempt_store import RunningPrediction
from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure

GENERATION_LONG = [
    "generation", "permits", "offers", "entries", "units", "orphans", "limits", "set", "declared",
    "cancel_afters", "imported", "holders", "queue", "leases",
]  # fmt: skip


async def resync(backend: RedisBackend) -> None:
    """Make the process resync, as after a lost response."""
    backend._session.invalidate()
    await backend.admit()


async def limits(backend: RedisBackend) -> dict[str, int]:
    return {each.name: each.limit for each in await backend.semaphores()}


def codes(rows: list[object]) -> dict[int, str]:
    return {row.task_index: row.error_code for row in rows if isinstance(row, TaskFailure)}


# Start of a new generation.


@pytest.mark.parametrize("lost", GENERATION_LONG)
async def test_state_is_complete_after_resync_whichever_key_was_lost(site: Site, lost: str) -> None:
    one, two = await site.holder(), await site.holder()
    await one.register("team", 9)
    permits = await take_all(one, await begin(one, "b1", 4, also=("team",), max_running=2))
    await begin(two, "b2", 2)
    before = await one.open_attempts("acme")
    generation = site.get("generation", "id")
    site.forget(lost)
    admission = await one.admit()
    assert admission.offers == ()
    assert admission.paused_for is not None
    assert 50 < admission.paused_for <= 60
    assert admission.retry_in == pytest.approx(admission.paused_for, abs=1)
    assert not await one.has_lost_state("acme")
    assert (await two.admit()).offers == ()
    assert await state(one) == (2, 4), "b1 waits for two, b2 for two"
    assert await one.open_attempts("acme") == before
    site.end_pause()
    assert (await one.admit()).offers == (), "what runs of the account was not entered"
    await site.admit_again(one)
    assert [offer.entry for offer in (await two.admit()).offers] == ["b2"]
    assert (await one.admit()).offers == (), "b1 has two of its own already"
    assert await state(one) == (3, 3)
    assert await state(one, "team") == (2, 2)
    await one.finish(permits[0], "b1", failed(0))
    assert [offer.entry for offer in (await one.admit()).offers] == ["b1"]
    assert site.get("generation", "id") != generation


async def test_generation_number_increases_although_the_clock_is_behind(site: Site) -> None:
    one = await site.holder()
    ahead = int((site.now() + 3_600) * 1e6)
    site.set("generation", id=ahead)
    await one.admit()
    assert site.get("generation", "id") == str(ahead + 1)
    assert await limits(one) == {OWN: 3}


async def test_generation_id_contains_its_time_and_is_unique(site: Site) -> None:
    one = await site.holder()
    before = site.now()
    site.forget("permits")
    await one.admit()
    generation = site.get("generation", "id")
    assert generation is not None
    assert before * 1e6 - 1 <= int(generation) <= site.now() * 1e6


async def test_unchanged_generation_keeps_all_state(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    generation = site.get("generation", "id")
    await begin(one, "b", 2)
    await resync(two)
    await resync(one)
    assert site.get("generation", "id") == generation
    assert await state(two) == (2, 0)


async def test_new_generation_starts_with_recorded_attempts_of_all_holders(
    site: Site,
) -> None:
    one, gone = await site.holder(), await site.holder()
    first, second = await take_all(gone, await begin(gone, "b", 2))
    assert await gone.claim_prediction(first, "b", "p1")
    await gone.close()
    before = await one.orphans("acme")
    assert [(each.permit, each.prediction_id) for each in before] == [(first, "p1"), (second, None)]
    site.forget("permits", "orphans", "units")
    assert await one.orphans("acme") == before
    assert await state(one) == (2, 0)
    assert await one.adopt(first)
    site.forget("permits")
    assert await one.orphans("acme") == before[1:]
    assert await state(one) == (2, 0)


async def test_ended_attempt_is_not_imported_into_a_new_generation(site: Site) -> None:
    one = await site.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    await finish(one, first, "b", failed(0, "p1"))
    site.forget("permits")
    assert [each.permit for each in await one.open_attempts("acme")] == [second]
    assert await state(one) == (1, 0)


@pytest.mark.parametrize(
    ("restarts", "code"), [(True, "create_outcome_unknown"), (False, "interrupted")]
)
async def test_tasks_of_a_dead_holder_may_have_been_created_after_a_redis_restart(
    site: Site, restarts: bool, code: str
) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 1)
    if restarts:
        site.set("generation", run="another")
    else:
        site.forget("units")
    await one.admit()
    site.end_pause()
    site.lapse(gone, by=one)
    await one.semaphores()
    assert codes(list(await one.results("b"))) == {0: code}
    later = await site.holder()
    await begin(later, "b2", 1)
    site.lapse(later, by=one)
    await one.semaphores()
    assert codes(list(await one.results("b2"))) == {0: "interrupted"}, "it began after that"


async def test_restart_is_remembered_through_later_state_losses(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 1)
    site.set("generation", run="another")
    await one.admit()
    restarted = site.get("generation", "restarted")
    assert restarted == site.get("generation", "id")
    site.forget("units")
    await one.admit()
    assert site.get("generation", "restarted") == restarted
    site.forget("generation")
    await one.admit()
    assert site.get("generation", "restarted") == site.get("generation", "id") != restarted
    await site.admit_again(one)


@pytest.mark.parametrize(("back", "max_running"), [(0.0, 60.0), (3_600.0, 60.0), (-1_000.0, 0.0)])
async def test_admission_pause_lasts_one_lease_even_if_the_clock_changes(
    site: Site, back: float, max_running: float
) -> None:
    one = await site.holder()
    await begin(one, "b", 1)
    site.forget("permits")
    await one.admit()
    began_at = site.now() + back
    site.set("generation", began_at=began_at, opens_at=began_at + 60)
    paused = (await one.admit()).paused_for
    if max_running:
        assert paused is not None
        assert max_running - 1 < paused <= max_running
        kept = site.get("generation", "opens_at")
        assert kept is not None
        assert float(kept) - site.now() <= max_running, "it ends, too"
    else:
        assert paused is None


async def test_longest_lease_of_returning_holders_applies(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 1)
    site.forget("permits")
    await one.admit()
    await site.holder(lease=90)
    paused = (await one.admit()).paused_for
    assert paused is not None
    assert 85 < paused <= 90
    await site.holder(lease=1)
    paused = (await one.admit()).paused_for
    assert paused is not None
    assert 85 < paused <= 90
    await site.admit_again(one)
    late = await site.holder(lease=90)
    assert (await one.admit()).paused_for is None, "it is over"
    assert (await begin(late, "b2", 1)).paused_for is None


# State that a process resyncs.


async def test_shared_state_is_restored_after_losing_all_keys(site: Site) -> None:
    one = await site.holder(limit=2, per_minute=600)
    await one.register("team", 7)
    await one.resize("team", 8, by_admin=True)
    await one.register("studio", 4)
    first, second = (await begin(one, "b", 3)).offers
    attempts = {first.permit: attempt("b", 0, images=4), second.permit: attempt("b", 1)}
    await one.record_attempts(attempts, images_per_day=9)
    await one.requeue(second.permit, Throttling(retry_after=60, per_minute=6, burst=1))
    await one._session.renew()
    before = {key: one._mirror.encode()[key] for key in ("set", "rates", "images", "declared")}
    assert len(before["rates"]) == len(before["images"]) == 1
    assert [(each["name"], each["units"], each["by_admin"]) for each in before["set"]] == [
        ("team", 8, True), ("studio", 4, False),
    ] or [(each["name"], each["units"], each["by_admin"]) for each in before["set"]] == [
        ("studio", 4, False), ("team", 8, True),
    ]  # fmt: skip
    states = await one.semaphores()
    site.forget()
    assert await one.semaphores() == states
    await one._session.renew()
    after = {key: one._mirror.encode()[key] for key in before}
    for encoded in (before, after):
        encoded["set"] = sorted(encoded["set"], key=lambda each: str(each["name"]))
    assert after == before
    day = int(site.clock.now // 86_400)
    with site.server.client as client:
        assert client.get(site.key(f"images:acme:{day}")) == "4"
    assert 86_400 < site.ttl(f"images:acme:{day}") <= 2 * 86_400


async def test_state_on_the_server_is_not_overwritten_by_an_older_mirror(
    site: Site,
) -> None:
    one, two = await site.holder(limit=9), await site.holder(limit=9)
    first, second = await take_all(one, await begin(one, "b", 2))
    await one._session.renew()
    await finish(one, first, "b", failed(0))
    await two.requeue(second, Throttling(retry_after=60, per_minute=6, burst=1))
    (offer,) = (await begin(two, "b2", 1)).offers or (None,)
    assert offer is None
    day = int(site.clock.now // 86_400)
    with site.server.client as client:
        client.set(site.key(f"images:acme:{day}"), "7")
    await resync(one)
    (account,) = await two.semaphores()
    assert account.requests_per_minute == pytest.approx(5.4)
    with site.server.client as client:
        assert client.get(site.key(f"images:acme:{day}")) == "7"


async def test_later_of_two_manual_limits_applies(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    await one.register("team", 2)
    await one.resize("team", 4, by_admin=True)
    await two.register("team", 1)
    await two.resize("team", 5)
    await resync(one)
    assert (await limits(one))["team"] == 5, "one has kept an older one"
    await two.unset("team")
    await resync(one)
    assert (await limits(one))["team"] == 2, "it was unset later"
    site.forget()
    await one.admit()
    assert (await limits(one))["team"] == 4, "as far as one knows, it was never unset"
    await two.admit()
    assert (await limits(one))["team"] == 2, "two has unset it"


async def test_removed_name_returns_only_after_the_removal_itself_was_lost(
    site: Site,
) -> None:
    one, two = await site.holder(), await site.holder()
    await two.register("team", 2)
    await two.resize("team", 4, by_admin=True)
    await one._session.renew()
    await two.remove("team")
    with site.server.client as client:
        client.hdel(site.key("set"), "team")
    await resync(one)
    assert await limits(one) == {OWN: 3}
    site.forget()
    await one.admit()
    assert await limits(one) == {OWN: 3, "team": 4}
    await two.admit()
    assert await limits(one) == {OWN: 3}, "two knows that it was removed"


async def test_each_holder_keeps_its_declared_limit_and_rate(site: Site) -> None:
    one, two = await site.holder(limit=5, per_minute=60), await site.holder(limit=4, per_minute=60)
    site.forget()
    await one.admit()
    assert await limits(one) == {OWN: 5}
    await two.admit()
    assert await limits(one) == {OWN: 4}
    (account,) = await one.semaphores()
    assert account.requests_per_minute == 60
    await site.admit_again(one)
    await two.close()
    assert await limits(one) == {OWN: 5}


async def test_resync_withdraws_offers_of_the_holder_and_makes_new_ones(site: Site) -> None:
    one, two = await site.holder(limit=2, per_minute=6), await site.holder(limit=2)
    old = await begin(one, "b", 3)
    assert len(old.offers) == 2
    await resync(one)
    assert await take_all(one, old) == []
    assert await state(two) == (2, 1)
    new = await one.admit()
    assert len(await take_all(one, new)) == 2
    await resync(two)
    assert await state(two) == (2, 1)


async def test_permit_unknown_to_its_holder_is_orphaned_or_freed(
    site: Site,
) -> None:
    one, two = await site.holder(limit=9), await site.holder()
    mine, also_mine = await take_all(one, await begin(one, "b", 2))
    (others,) = await take_all(one, await begin(one, "b2", 1))
    await one.register("team", 3)
    admission = await one.enqueue(QueueEntry("c", ("team",), None, 1))
    (context,) = (await one.accept_offers([offer.permit for offer in admission.offers])).permits
    for permit in (mine, others, context):
        del one._mirror.permits[permit]
    del one._mirror.batches["b2"]
    await resync(one)
    assert [each.permit for each in await two.open_attempts("acme")] == [also_mine, others]
    assert [each.permit for each in await two.orphans("acme")] == [others]
    assert await state(two) == (2, 0)
    assert await state(two, "team") == (0, 0)


async def test_only_context_permits_missing_on_the_server_are_restored(site: Site) -> None:
    one, two = await site.holder(limit=9), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await one.register("team", 3)
    admission = await one.enqueue(QueueEntry("c", ("team",), None, 1))
    (context,) = (await one.accept_offers([offer.permit for offer in admission.offers])).permits
    await two.release(permit)
    await two.release(context)
    await resync(one)
    assert await two.open_attempts("acme") == []
    assert await state(two) == (0, 0)
    assert await state(two, "team") == (1, 0)
    site.forget("orphans")
    await resync(one)
    assert [each.permit for each in await two.open_attempts("acme")] == [permit]
    assert await state(two, "team") == (1, 0)
    await one.release(context)
    assert await state(two, "team") == (0, 0)


async def test_attempts_are_restored_after_losing_all_keys(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    first, second, third = await take_all(one, await begin(one, "b", 4, max_running=3))
    assert await one.claim_prediction(first, "b", "p1")
    before = await two.open_attempts("acme")
    assert [(each.permit, each.task, each.cancel_after) for each in before] == [
        (first, 0, 600), (second, 1, 597), (third, 2, 594),
    ]  # fmt: skip
    assert (before[0].model, before[0].sent_at) == ("o/m", 1_000.0)
    assert before[0].inputs == hash_inputs({"prompt": "p"})
    site.forget()
    assert await one.open_attempts("acme") == before
    assert await one.list_prediction_ids("acme") == {"p1"}
    assert not await one.claim_prediction(second, "b", "p1")
    await site.admit_again(one)
    assert (await one.admit()).offers == (), "the batch has three of its own"
    # Equal attempts keep their distinct `Cancel-After`.
    await finish(one, second, "b", failed(1))
    (offer,) = (await one.admit()).offers
    recorded = await one.record_attempts({offer.permit: attempt("b", 3)})
    assert recorded.cancel_after == {offer.permit: 597}
    # Their deadlines and the day's image count are unchanged.
    await one.close()
    await two.close()
    other = await site.holder()
    site.clock.now += 699
    assert await state(other) == (3, 0)
    site.clock.now += 2
    assert await state(other) == (0, 0)


async def test_attempts_with_lost_details_are_identified_by_their_permits(
    site: Site,
) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    site.forget("attempts")
    (left,) = await one.open_attempts("acme")
    assert (left.permit, left.batch, left.task, left.cancel_after) == (permit, "b", 0, 600)
    assert (left.model, left.inputs, left.sent_at) == ("", {}, 0.0)
    assert await one.claim_prediction(permit, "b", "p1")
    assert [each.prediction_id for each in await one.open_attempts("acme")] == ["p1"]


async def test_imported_prediction_stays_untracked_after_resync(site: Site) -> None:
    one = await site.holder(limit=9)
    (mine,) = await take_all(one, await begin(one, "b", 1))
    site.forget("permits")
    await one.admit()
    site.end_pause()
    assert await one.has_lost_state("acme")
    running = [RunningPrediction("p1", "o/m", 60), RunningPrediction("p2", "o/n", 90)]
    await one.import_running("acme", running)
    await one.import_running("acme", running)
    entered = await one.orphans("acme")
    assert [(e.batch, e.task, e.model, e.prediction_id, e.sent_at) for e in entered] == [
        ("", 0, "o/m", "p1", 0.0), ("", 0, "o/n", "p2", 0.0),
    ]  # fmt: skip
    for each in entered:
        assert await one.adopt(each.permit)
    at = site.clock.now
    assert one._mirror.permits[entered[1].permit] == MirroredPermit(
        "", [OWN], "acme", False, at, 0, 0, "", at + 90, 0, "p2", "o/n", "{}", 0.0
    )
    for lost in (("orphans",), ()):
        site.forget(*lost)
        await one.admit()
        assert await state(one) == (3, 0)
        assert await one.list_prediction_ids("acme") == set()
        await site.admit_again(one)
        await one.import_running("acme", running)
        assert await state(one) == (3, 0), "each has its permit"
    assert await one.claim_prediction(mine, "b", "p1")
    assert await state(one) == (2, 0), "it was this attempt's"
    assert await one.list_prediction_ids("acme") == {"p1"}
    await resync(one)
    assert await one.list_prediction_ids("acme") == {"p1"}


async def test_imported_prediction_expires_at_its_deadline(site: Site) -> None:
    one = await site.holder(limit=9)
    site.forget("permits")
    await one.admit()
    site.end_pause()
    assert await one.has_lost_state("acme")
    await one.import_running(
        "acme", [RunningPrediction("p1", "o/m", 60), RunningPrediction("p2", "o/m", 90)]
    )
    site.clock.now += 59
    assert await state(one) == (2, 0)
    site.clock.now += 2
    assert await state(one) == (1, 0)
    site.clock.now += 30
    assert await state(one) == (0, 0)
    assert await one.orphans("acme") == []


async def test_each_account_is_imported_once_per_generation(site: Site) -> None:
    one = await site.holder()
    await one.declare_limit(account_semaphore("other"), 3, per_minute=60_000)
    assert not await one.has_lost_state("acme")
    assert await one.has_lost_state("other")
    site.forget("permits")
    assert not await one.has_lost_state("acme"), "not before the lease is over"
    await one.import_running("acme", [])
    site.end_pause()
    assert await one.has_lost_state("acme"), "that was too early"
    await one.import_running("other", [])
    assert await one.has_lost_state("acme")
    await begin(one, "b", 1)
    admission = await begin(one, "b2", 1, account="other")
    assert [offer.entry for offer in admission.offers] == []
    await site.admit_again(one, "other")
    assert [offer.entry for offer in (await one.admit()).offers] == ["b2"]
    assert await one.has_lost_state("acme")
    site.forget("orphans")
    await one.admit()
    site.end_pause()
    await one.import_running("acme", [])
    assert await one.has_lost_state("acme"), "the list was asked for in the generation before"


async def test_entries_are_queued_in_resync_order_and_others_are_removed(
    site: Site,
) -> None:
    one, two = await site.holder(limit=1), await site.holder(limit=1)
    await take_all(one, await begin(one, "b0", 1))
    for name in ("b1", "b2", "b3"):
        await begin(one, name, 1)
    await begin(two, "theirs", 2)
    del one._mirror.entries["b2"]
    await resync(one)
    assert await state(two) == (1, 4)
    site.forget("entries")
    await two.admit()
    await one.admit()
    await site.admit_again(one)
    served = []
    for name in ("b0", "x", "y", "z", "z"):
        permits = list(one._mirror.permits) + list(two._mirror.permits)
        assert len(permits) == 1
        holder = one if one._mirror.permits else two
        batch = holder._mirror.permits[permits[0]].entry
        await finish(holder, permits[0], batch, failed(0))
        for each in (one, two):
            admission = await each.admit()
            if admission.offers:
                served.append(admission.offers[0].entry)
                await take_all(each, admission)
        if not (one._mirror.permits or two._mirror.permits):
            break
        assert name
    assert served == ["theirs", "b1", "b3", "theirs"]


async def test_resync_keeps_queue_position_and_batches_of_other_holders(site: Site) -> None:
    one, two = await site.holder(limit=1), await site.holder(limit=1)
    (permit,) = await take_all(two, await begin(two, "b0", 1))
    await begin(one, "b1", 1)
    await begin(two, "b2", 1)
    await resync(one)
    assert await state(two) == (1, 2)
    await finish(two, permit, "b0", failed(0))
    assert [offer.entry for offer in (await one.admit()).offers] == ["b1"]
    await two.semaphores()
    for batch in ("b1", "b2"):
        assert await two.results(batch) == []
    with site.server.client as client:
        assert client.hgetall(site.key("running")) == {
            "b1": one._session.holder, "b2": two._session.holder,
        }  # fmt: skip


async def test_taken_over_batch_is_not_queued_when_its_holder_returns(
    site: Site,
) -> None:
    one, late = await site.holder(limit=2), await site.holder(limit=2)
    permits = await take_all(late, await begin(late, "b", 4))
    await begin(late, "b2", 1)
    await finish(late, permits[0], "b", failed(0, "p0"))
    site.lapse(late, by=one)
    await one.semaphores()
    assert codes(list(await one.results("b"))) == {
        0: "prediction_failed", 2: "interrupted", 3: "interrupted",
    }  # fmt: skip
    assert await one.adopt(permits[1])
    assert (await late.admit()).offers == ()
    assert sorted(await late.interrupted_batches()) == ["b", "b2"]
    assert await state(one) == (1, 0)
    assert [each.permit for each in await one.open_attempts("acme")] == [permits[1]]
    assert await one.orphans("acme") == []
    await resync(late)
    assert await late.interrupted_batches() == []
    site.lapse(late, by=one)
    await one.semaphores()
    assert codes(list(await one.results("b"))).keys() == {0, 2, 3}


async def test_batch_unknown_to_its_holder_is_ended(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await begin(one, "b2", 2)
    await finish(one, permit, "b", failed(0))
    del one._mirror.batches["b2"], one._mirror.entries["b2"]
    await resync(one)
    await two.semaphores()
    assert codes(list(await two.results("b2"))) == {0: "interrupted", 1: "interrupted"}
    with site.server.client as client:
        assert client.hlen(site.key("running")) == 0


async def test_batch_owner_is_restored_by_resync(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "ended", 1))
    await finish(one, permit, "ended", failed(0))
    await begin(one, "b", 1)
    site.forget("running")
    await resync(one)
    with site.server.client as client:
        assert client.hgetall(site.key("running")) == {"b": one._session.holder}
    site.lapse(one, by=two)
    await two.semaphores()
    assert codes(list(await two.results("b"))) == {0: "interrupted"}


async def test_batch_of_an_unlisted_dead_holder_is_interrupted(site: Site) -> None:
    """Remove a process that is in no list of processes any more, as after a loss of state."""
    one, gone = await site.holder(), await site.holder()
    await begin(gone, "b", 1)
    site.lapse(gone, by=one)
    site.forget("holders")
    await one.admit()
    site.in_contact(one)
    await one.semaphores()
    assert await one.results("b") == [], "a lease is waited for"
    site.end_pause()
    await one.semaphores()
    assert codes(list(await one.results("b"))) == {0: "interrupted"}


async def test_results_missing_on_the_server_are_rewritten(site: Site) -> None:
    one = await site.holder()
    permits = await take_all(one, await begin(one, "b", 3, failures=(failed(2),)))
    await finish(one, permits[0], "b", failed(0, "p0"))
    await one.cancel_batch("b")
    assert await one.canceled_batches() == ["b"]
    before = await one.get_batch("b")
    rows = await one.results("b")
    site.forget()
    assert await one.get_batch("b") == before
    assert before is not None
    assert before.canceled
    assert sorted(row.task_index for row in await one.results("b")) == sorted(
        row.task_index for row in rows
    )
    assert await one.list_prediction_ids("acme") == {"p0"}
    assert [each.task for each in await one.open_attempts("acme")] == [1]
    assert [task.prompt for task in await one.tasks("b")] == [f"prompt {n}" for n in range(3)]
    await finish(one, permits[1], "b", failed(1, "p1"))
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.failed, batch.status) == (3, "canceled")


async def test_result_is_rewritten_to_a_known_batch_in_a_new_generation(
    site: Site,
) -> None:
    one = await site.holder()
    permits = await take_all(one, await begin(one, "b", 3))
    await finish(one, permits[0], "b", failed(0, "p0"))
    with site.server.client as client:
        client.delete(site.key("results:b"), site.key("predictions:acme"))
        client.hdel(site.key("batch:b"), "t0")
        client.hset(site.key("batch:b"), "failed", "0")
    site.set("generation", run="another")
    await one.admit()
    assert await one.results("b") == [failed(0, "p0")]
    assert await one.list_prediction_ids("acme") == {"p0"}
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.failed, batch.total) == (1, 3)
    # The batch is complete again: its waiting tasks were certainly not created.
    two = await site.holder()
    site.end_pause()
    site.lapse(one, by=two)
    await two.semaphores()
    assert codes(list(await two.results("b"))) == {0: "prediction_failed"}
    for permit in permits[1:]:
        assert await two.adopt(permit)


async def test_attempts_of_a_closed_holder_expire_at_their_recorded_time(site: Site) -> None:
    one, two, three = [await site.holder() for _ in range(3)]
    (offer,) = (await begin(one, "b", 1)).offers
    site.clock.now += 0.25
    await one.record_attempts({offer.permit: replace(attempt("b", 0, images=3), max_seconds=90.5)})
    assert await one.claim_prediction(offer.permit, "b", "p1")
    kept = one._mirror.permits[offer.permit]
    assert kept.ends_by == 1_000_090.75
    await one.close()
    assert await two.adopt(offer.permit)
    taken_over = two._mirror.permits[offer.permit]
    assert replace(taken_over, semaphores=(OWN,)) == kept
    assert taken_over.semaphores == [OWN]
    assert (taken_over.taken_at, taken_over.images, taken_over.task) == (1_000_000.25, 3, 0)
    assert (taken_over.cancel_after, taken_over.prediction) == (600, "p1")
    # The resync contains that time, so the attempt ends by it although another process adopts it.
    site.forget()
    await two.admit()
    await three.admit()
    await two.close()
    site.clock.now += 90
    assert await state(three) == (1, 0)
    site.clock.now += 1
    assert await state(three) == (0, 0)
