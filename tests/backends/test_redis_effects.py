"""What the commands of the Redis script change and return, in cases easily overlooked."""

from dataclasses import replace

import pytest

from backends.conftest import Site
from backends.steps import OWN, attempt, begin, failed, finish, state, succeeded, take_all
from replicate_mcp.batches.attempt_store import AttemptRecord, RunningPrediction
from replicate_mcp.batches.journal import IdempotencyKey, JournalTask, NewBatch, RetriedTasks
from replicate_mcp.errors import BackendUnavailable, SemaphoreInUse
from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.semaphores.admission import OFFER_STALE_SECONDS, OFFER_TTL_SECONDS
from replicate_mcp.semaphores.permit_store import QueueEntry

DAY = 86_400

# Calls.


async def test_first_call_of_a_process_has_no_effect_after_later_ones(site: Site) -> None:
    one = await site.holder()
    permits = await take_all(one, await begin(one, "b", 2))
    empty = await site.holder(declares=False)
    arguments = {**empty._mirror.encode(), "label": "", "generation": one._session.generation}
    answer = await one._server.call("register", one._session.holder, arguments, sequence=1)
    assert answer == ["late"]
    assert [each.permit for each in await one.open_attempts("acme")] == permits


# Offers.


async def test_late_acceptance_of_offers_resumes_the_admission(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 3)
    first, second = (await one.enqueue(QueueEntry("c", ("team",), None, 2))).offers
    site.clock.now += OFFER_STALE_SECONDS + 0.01
    admission = await one.enqueue(QueueEntry("d", ("team",), None, 1))
    assert [offer.entry for offer in admission.offers] == ["c", "c"], "the holder is stalled"
    accepted = await one.accept_offers([first.permit])
    site.clock.now += 0.01
    assert [offer.entry for offer in accepted.admission.offers] == ["c"]
    accepted = await one.accept_offers([second.permit])
    assert [offer.entry for offer in accepted.admission.offers] == ["d"]


@pytest.mark.parametrize(
    ("seconds", "is_withdrawn"),
    [(OFFER_TTL_SECONDS, False), (OFFER_TTL_SECONDS + 0.015625, True), (-1, False), (-1.5, True)],
)
async def test_offer_is_withdrawn_after_its_time_or_if_it_is_from_the_future(
    site: Site, seconds: float, is_withdrawn: bool
) -> None:
    one, two = await site.holder(), await site.holder()
    (offer,) = (await begin(one, "b", 1)).offers
    site.clock.now += seconds
    await two.admit()
    with site.server.client as client:
        assert client.hexists(site.key("offers"), str(offer.permit)) is not is_withdrawn


async def test_waiting_entry_is_not_paused_while_admission_is_open(site: Site) -> None:
    one = await site.holder(limit=1)
    admission = await begin(one, "b", 5)
    assert len(admission.offers) == 1
    assert (admission.paused_for, admission.retry_in) == (None, None)


async def test_waiting_entry_whose_record_was_lost_is_left_out(site: Site) -> None:
    one = await site.holder()
    with site.server.client as client:
        client.zadd(site.key("queue"), {"lost": 1})
    assert [offer.entry for offer in (await begin(one, "b", 1)).offers] == ["b"]
    assert await state(one) == (1, 0)


# Predictions and their attempts.


async def test_prediction_is_claimed_for_a_batch_that_is_lost_or_an_attempt_that_has_ended(
    site: Site,
) -> None:
    one = await site.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    await one.release(first)
    assert await one.claim_prediction(first, "b", "p1")
    assert not await one.claim_prediction(second, "b", "p1")
    site.forget("batch:b")
    assert not await one.claim_prediction(second, "b", "p1")
    assert await one.claim_prediction(second, "b", "p2")
    assert site.get("batch:b", "account") is None
    with site.server.client as client:
        assert set(client.zrange(site.key("predictions:acme"), 0, -1)) == {"p1", "p2"}


async def test_result_claims_its_prediction_although_its_attempt_has_ended(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    first, second = await take_all(one, await begin(one, "b", 2))
    await one.release(first)
    await finish(one, first, "b", succeeded(0, "p1"))
    assert await one.finish(second, "b", succeeded(1, "p1")) is None
    site.forget("batch:b")
    await finish(two, second, "b", succeeded(1, "p2"))
    with site.server.client as client:
        assert set(client.zrange(site.key("predictions:acme"), 0, -1)) == {"p1", "p2"}


async def test_unfinished_prediction_is_left_only_by_its_holder(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await two.finish(permit, "b", failed(0, "p1"), ended=False)
    assert not await two.adopt(permit)
    await one.finish(permit, "b", failed(0, "p1"), ended=False)
    assert await two.adopt(permit)


async def test_imported_prediction_is_listed_without_the_details_of_an_attempt(site: Site) -> None:
    one = await site.holder()
    site.forget("permits")
    await one.admit()
    site.end_pause()
    assert await one.has_lost_state("acme")
    await one.import_running("acme", [RunningPrediction("p1", "o/m", 60.0)])
    (orphan,) = await one.orphans("acme")
    assert replace(orphan, permit=0) == replace(
        orphan, permit=0, batch="", task=0, model="o/m", inputs={}, cancel_after=0, sent_at=0.0,
        prediction_id="p1",
    )  # fmt: skip
    assert DAY < site.ttl("predictions:acme") <= 2 * DAY


async def test_adopted_attempt_whose_description_was_lost_can_still_be_finished(
    site: Site,
) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await one.abandon(permit)
    with site.server.client as client:
        client.hdel(site.key("attempts"), str(permit))
    assert await two.adopt(permit)
    kept = two._mirror.permits[permit]
    assert (kept.model, kept.inputs, kept.sent_at) == ("", "", 0.0)
    await finish(two, permit, "b", failed(0, "p1"))
    assert await state(one) == (0, 0)


async def test_attempts_of_a_dead_process_outlive_a_loss_of_state(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    (permit,) = await take_all(gone, await begin(gone, "b", 1))
    assert await gone.claim_prediction(permit, "b", "p1")
    site.forget("permits")
    await one.admit()
    (found,) = await one.open_attempts("acme")
    assert (found.permit, found.prediction_id) == (permit, "p1")
    assert await state(one) == (1, 0)


async def test_open_attempts_of_an_account_are_listed_as_they_were_recorded(site: Site) -> None:
    one = await site.holder(limit=2)
    await one.declare_limit("account:other", 1, per_minute=60_000)
    assert await one.has_lost_state("other")
    await one.import_running("other", [])
    await take_all(one, await begin(one, "theirs", 1, account="other"))
    (offer,) = [each for each in (await begin(one, "b", 1)).offers if each.entry == "b"]
    await one.record_attempts({offer.permit: attempt("b", 0)})
    (found,) = await one.open_attempts("acme")
    assert found == AttemptRecord(
        offer.permit, "b", 0, "o/m", hash_inputs({"prompt": "p"}), 600, 1_000.0, None
    )
    with site.server.client as client:
        client.delete(site.key("attempts"))
    (found,) = await one.open_attempts("acme")
    assert found == AttemptRecord(offer.permit, "b", 0, "", {}, 600, 0.0, None)


async def test_process_that_cannot_send_its_state_counts_as_dead(site: Site) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    assert await one.claim_prediction(permit, "b", "p1")
    one._session.invalidate()
    with site.server.client as client:
        client.set(site.key("predictions:acme"), "no predictions")
        with pytest.raises(BackendUnavailable, match="WRONGTYPE"):
            await one.admit()
        assert client.zscore(site.key("leases"), one._session.holder) == 0


async def test_restored_result_leaves_the_permit_of_its_imported_prediction(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    await one.finish(permit, "b", failed(0, "p1"), ended=False)
    site.forget()
    await two.admit()
    site.end_pause()
    assert await two.has_lost_state("acme")
    await two.import_running("acme", [RunningPrediction("p1", "o/m", 60.0)])
    await one.admit()
    assert [row.prediction_id for row in await two.results("b")] == ["p1"]
    assert await state(two) == (1, 0)
    assert [each.prediction_id for each in await two.orphans("acme")] == ["p1"]


# Batches and their results.


async def test_successes_and_failures_are_counted_apart(site: Site) -> None:
    one = await site.holder()
    permits = await take_all(one, await begin(one, "b", 4))
    for task, permit in enumerate(permits):
        await finish(one, permit, "b", succeeded(task, f"p{task}"))
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.succeeded, batch.failed, batch.status) == (3, 0, "running")
    await one.record_results("b", [failed(3)])
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.succeeded, batch.failed, batch.status) == (3, 1, "completed")


async def test_batch_that_another_process_ended_is_not_listed_as_canceled(site: Site) -> None:
    one, two = await site.holder(limit=0), await site.holder(limit=0)
    await begin(one, "b1", 1)
    await begin(one, "b2", 1)
    await begin(one, "b3", 1)
    await two.cancel_batch("b1")
    await two.cancel_batch("b2")
    await two.record_results("b2", [failed(0)], waited=False)
    assert await one.canceled_batches() == ["b1"]


async def test_newest_batches_of_one_caller_are_listed(site: Site) -> None:
    one = await site.holder(limit=0)
    for number in range(4):
        await begin(one, f"b{number}", 1)
        site.clock.now += 1
    for limit in (1, 2, 3):
        assert [each.id for each in await one.list_batches(["server"], limit=limit)] == [
            f"b{3 - place}" for place in range(limit)
        ]


async def test_batch_opened_again_under_its_own_key_is_the_same(site: Site) -> None:
    one = await site.holder()
    key = IdempotencyKey("k", "d")
    first = await begin(one, "b", 2, key=key)
    again = await begin(one, "b", 2, key=key)
    assert again.offers == first.offers
    assert await state(one) == (2, 0)


async def test_recorded_results_lower_the_number_that_waits(site: Site) -> None:
    one = await site.holder(limit=1)
    await begin(one, "b", 4)
    assert await state(one) == (1, 3)
    await one.record_results("b", [failed(2), failed(3)])
    assert await state(one) == (1, 1)


async def test_batch_of_a_dead_process_has_no_process(site: Site) -> None:
    one, gone = await site.holder(limit=1), await site.holder(limit=1)
    await take_all(gone, await begin(gone, "b", 2))
    assert site.get("running", "b") == gone._session.holder
    site.lapse(gone, by=one)
    await one.semaphores()
    assert site.get("running", "b") is None
    assert [row.task_index for row in await one.results("b")] == [1]


async def test_process_learns_which_of_its_batches_others_have_ended(site: Site) -> None:
    one, gone = await site.holder(limit=1), await site.holder(limit=1)
    await take_all(gone, await begin(gone, "b", 2))
    gone._session.invalidate()
    await gone.admit()
    assert await gone.interrupted_batches() == []
    site.lapse(gone, by=one)
    await one.semaphores()
    await gone.admit()
    assert await gone.interrupted_batches() == ["b"]


async def test_batch_keeps_its_inputs_and_the_tasks_that_it_repeats(site: Site) -> None:
    one = await site.holder()
    plain = NewBatch("b1", "server", "acme", "global", (JournalTask("a fox", "1", "o/m"),))
    for each in (
        plain,
        replace(plain, id="b2", inputs="x" * 100),
        replace(plain, id="b3", retry=RetriedTasks("b1", (0,))),
    ):
        await one.open_batch(each, QueueEntry(each.id, (OWN,), "acme", 1))
    assert [await one.inputs(batch) for batch in ("b1", "b2", "b3")] == [None, "x" * 100, None]
    states = [await one.get_batch(batch) for batch in ("b1", "b2", "b3")]
    assert [state and state.retry for state in states] == [None, None, RetriedTasks("b1", (0,))]
    plain_size, *sizes = [int(site.get("bytes:acme", f"b:b{n}") or 0) for n in (1, 2, 3)]
    assert [size - plain_size for size in sizes] == [100, len("[0]")]


async def test_batch_restored_over_its_own_tasks_has_them_once(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 2)
    site.forget("batch:b")
    one._session.invalidate()
    await one.admit()
    assert len(await one.tasks("b")) == 2


# Semaphores.


async def test_limit_of_an_account_is_the_lowest_declared_one_again_once_unset(site: Site) -> None:
    one = await site.holder(limit=5)
    await site.holder(limit=4)
    await one.resize(OWN, 2)
    await one.unset(OWN)
    assert [each.limit for each in await one.semaphores()] == [4]


async def test_registered_name_cannot_be_removed_by_another_process(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    await one.register("team", 3)
    await two.register("team", 3)
    with pytest.raises(SemaphoreInUse):
        await one.remove("team")


async def test_lost_rate_is_found_behind_many_declarations_without_one(site: Site) -> None:
    one = await site.holder(limit=9, per_minute=60)
    lines = f"name\n{OWN}\n{1:016d}\n\n"
    with site.server.client as client:
        client.zadd(site.key("declared"), {f"{lines}{number}": 0 for number in range(250)})
    site.forget("rates")
    (account,) = await one.semaphores()
    assert account.requests_per_minute == 60


async def test_name_that_a_batch_waits_for_outlives_its_registration(site: Site) -> None:
    one, two = await site.holder(limit=0), await site.holder(limit=0)
    await one.register("team", 3)
    assert (await begin(two, "b", 1, also=("team",))).offers == ()
    await one.close()
    assert await state(two, "team") == (0, 1)


async def test_account_has_no_rate_if_no_process_declares_it_any_more(site: Site) -> None:
    one = await site.holder()
    waiting = [await site.holder(declares=False) for _ in range(2)]
    for number, each in enumerate(waiting):
        await begin(each, f"b{number}", 1)
    await one.close()
    site.forget("rates")
    (account,) = await waiting[0].semaphores()
    assert (account.limit, account.requests_per_minute) == (3, None)


async def test_name_whose_only_users_are_dead_can_be_removed(site: Site) -> None:
    one, gone = await site.holder(), await site.holder()
    for each in (one, gone):
        await each.register("team", 3)
    await gone.enqueue(QueueEntry("c", ("team",), None, 1))
    with pytest.raises(SemaphoreInUse):
        await one.remove("team")
    site.lapse(gone, by=one)
    await one.remove("team")
    assert [each.name for each in await one.semaphores()] == [OWN]


async def test_name_in_use_and_awaited_alike_cannot_be_removed(site: Site) -> None:
    one = await site.holder()
    await one.register("team", 1)
    (offer,) = (await one.enqueue(QueueEntry("c", ("team",), None, 2))).offers
    await one.accept_offers([offer.permit])
    assert await state(one, "team") == (1, 1)
    with pytest.raises(SemaphoreInUse):
        await one.remove("team")


async def test_images_of_a_requeued_attempt_are_free_again(site: Site) -> None:
    one = await site.holder()
    offers = (await begin(one, "b", 2)).offers
    attempts = {
        offer.permit: attempt("b", task, images=task + 2) for task, offer in enumerate(offers)
    }
    await one.record_attempts(attempts)
    await one.requeue(offers[1].permit)
    day = int(site.clock.now // DAY)
    with site.server.client as client:
        assert client.get(site.key(f"images:acme:{day}")) == "2"
