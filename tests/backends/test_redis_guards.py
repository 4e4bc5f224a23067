"""Each guard of the Redis script alone: the tests set the stored state so that all others pass."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from redis import Redis

from backends.conftest import LEASE, Fleet, Site, server_time, since, until
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from backends.worlds import wake_ups
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.redis.decoding import REASONS
from replicate_mcp.batches.attempt_store import RunningPrediction
from replicate_mcp.errors import SemaphoreInUse
from replicate_mcp.semaphores import adaptive_rate
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.semaphores.rate_limit import Rate


class StoredState:
    """The stored state of a fleet's server."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def get(self, key: str, field: str) -> str:
        with self._fleet.server.client as client:
            value = client.hget(self._fleet.key(key), field)
        assert isinstance(value, str)
        return value

    def set(self, key: str, **fields: object) -> None:
        with self._fleet.server.client as client:
            for field, value in fields.items():
                client.hset(self._fleet.key(key), field, str(value))

    def drop(self, key: str, field: str) -> None:
        with self._fleet.server.client as client:
            assert client.hdel(self._fleet.key(key), field)

    def ttl(self, key: str) -> float:
        with self._fleet.server.client as client:
            return int(client.pttl(self._fleet.key(key))) / 1000

    def now(self) -> float:
        return server_time(self._fleet.server)

    def set_since(self, backend: RedisBackend, at: float) -> None:
        """Set when a holder's unbroken contact began."""
        self.set("holders", **{since(backend): at})


async def holder_with_dead_peer(fleet: Fleet) -> tuple[StoredState, RedisBackend]:
    """Return a holder in contact for a lease, and a dead one with a running prediction."""
    alive, gone = await fleet.holder(), await fleet.holder()
    await take_all(gone, await begin(gone, "b", 1))
    await fleet.lapses(gone)
    stored = StoredState(fleet)

    async def in_contact_for_a_lease() -> bool:
        began_at = float(stored.get("holders", since(alive)))
        return alive._session.is_connected_for_a_lease and began_at < stored.now() - LEASE

    await until(in_contact_for_a_lease)
    return stored, alive


async def test_holder_with_interrupted_contact_declares_no_other_dead(
    fleet: Fleet,
) -> None:
    _, alive = await holder_with_dead_peer(fleet)
    alive._session._unbroken_since = float("inf")
    assert await alive.orphans("acme") == []
    alive._session._unbroken_since = float("-inf")
    await until(lambda: alive.orphans("acme"))


async def test_holder_with_contact_shorter_than_a_lease_declares_no_other_dead(
    fleet: Fleet,
) -> None:
    stored, alive = await holder_with_dead_peer(fleet)
    stored.set_since(alive, stored.now())
    assert await alive.orphans("acme") == []
    stored.set_since(alive, stored.now() - LEASE)
    await until(lambda: alive.orphans("acme"))


async def test_no_holder_is_declared_dead_while_lost_state_is_resynced(fleet: Fleet) -> None:
    stored, alive = await holder_with_dead_peer(fleet)
    stored.set("generation", opens_at=stored.now() + 9)
    assert await alive.orphans("acme") == []
    stored.set("generation", opens_at=stored.now())
    await until(lambda: alive.orphans("acme"))


async def test_holder_with_unknown_join_time_declares_no_other_dead(fleet: Fleet) -> None:
    stored, alive = await holder_with_dead_peer(fleet)
    stored.drop("holders", since(alive))
    assert await alive.orphans("acme") == []


async def test_contact_start_in_the_future_is_reset_to_now(fleet: Fleet) -> None:
    stored, alive = await holder_with_dead_peer(fleet)
    stored.set_since(alive, stored.now() + 3_600)
    assert await alive.orphans("acme") == []
    assert float(stored.get("holders", since(alive))) <= stored.now()
    await until(lambda: alive.orphans("acme"))


async def test_permit_of_a_dead_holder_is_adopted_only_by_a_holder_allowed_to_declare_it_dead(
    fleet: Fleet,
) -> None:
    stored, alive = await holder_with_dead_peer(fleet)
    (attempt_,) = await alive.open_attempts("acme")
    assert not await alive.adopt(attempt_.permit), "no holder has searched for dead ones"
    await until(lambda: alive.orphans("acme"))
    stored.set_since(alive, stored.now())
    assert await alive.orphans("acme") == []
    assert not await alive.adopt(attempt_.permit)
    stored.set_since(alive, stored.now() - LEASE)
    await until(lambda: alive.adopt(attempt_.permit))


# Generation.


@pytest.mark.parametrize("began_ago", [-3_600, 0])
async def test_clock_set_back_pauses_admission_for_at_most_a_lease(
    fleet: Fleet, began_ago: float
) -> None:
    one, stored = await fleet.holder(), StoredState(fleet)
    await begin(one, "b", 9)
    began_at = stored.now() - began_ago
    stored.set("generation", began_at=began_at, opens_at=began_at + LEASE)
    admission = await one.admit()
    assert admission.paused_for is not None
    assert 0 < admission.paused_for <= LEASE


async def test_admission_reopens_after_the_longest_lease_of_registered_holders(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    await begin(one, "b", 1)
    fleet.forget("permits")
    paused = (await one.admit()).paused_for
    assert paused is not None
    assert paused <= LEASE
    patient = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=LEASE + 2))
    paused = (await one.admit()).paused_for
    assert paused is not None
    assert LEASE + 1 < paused <= LEASE + 2
    hasty = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=0.1))
    paused = (await one.admit()).paused_for
    assert paused is not None
    assert paused > LEASE + 1, "a shorter one changes nothing"
    await hasty.close()
    await patient.close()


async def test_admission_pause_is_reported_only_to_waiting_holders(fleet: Fleet) -> None:
    one = await fleet.holder()
    fleet.forget("permits")
    admission = await one.admit()
    assert (admission.paused_for, admission.retry_in) == (None, None)
    admission = await begin(one, "b", 1)
    assert admission.paused_for is not None
    assert admission.retry_in == pytest.approx(admission.paused_for, abs=0.01)


MAY_NOT_BE_LOST: dict[str, Callable[[RedisBackend, int], Awaitable[object]]] = {
    "admit": lambda one, _: one.admit(),
    "dequeue": lambda one, _: one.dequeue("b", 1),
    "release": lambda one, permit: one.release(permit),
    "requeue": lambda one, permit: one.requeue(permit),
    "finish": lambda one, permit: one.finish(permit, "b", failed(0)),
    "record_results": lambda one, _: one.record_results("b", [failed(5)]),
    "abandon": lambda one, permit: one.abandon(permit),
    "adopt": lambda one, permit: one.adopt(permit),
    "claim_prediction": lambda one, permit: one.claim_prediction(permit, "b", "p1"),
    "cancel_batch": lambda one, _: one.cancel_batch("b"),
    "orphans": lambda one, _: one.orphans("acme"),
    "semaphores": lambda one, _: one.semaphores(),
    "give_back": lambda one, permit: one.give_back(permit),
    "mark_resumable": lambda one, _: one.mark_resumable("b"),
    "unstarted_tasks": lambda one, _: one.unstarted_tasks("b"),
}
MAY_BE_REFUSED: dict[str, Callable[[RedisBackend, int], Awaitable[object]]] = {
    "declare_limit": lambda one, _: one.declare_limit(OWN, 3, per_minute=600),
    "open_batch": lambda one, _: begin(one, "b2", 1),
    "enqueue": lambda one, _: one.enqueue(QueueEntry("c", (OWN,), None, 1)),
    "accept_offers": lambda one, _: one.accept_offers([1]),
    "record_attempts": lambda one, _: one.record_attempts({1: attempt("b", 1)}),
    "import_running": lambda one, _: one.import_running("acme", []),
    "take_over": lambda one, _: one.take_over("b2"),
}


@pytest.mark.parametrize("step", [*MAY_NOT_BE_LOST, *MAY_BE_REFUSED])
async def test_critical_calls_renew_the_lease_first_and_work_when_memory_is_full(
    fleet: Fleet, step: str
) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=60))
    await one.declare_limit(OWN, 2, per_minute=60_000)
    permit, _ = await take_all(one, await begin(one, "b", 6))
    if step == "orphans":
        await one.abandon(permit)  # Without an orphan, the call is only a small read.
    with fleet.server.client as client:
        client.zincrby(fleet.key("leases"), -30, one._session.holder)
    await (MAY_NOT_BE_LOST | MAY_BE_REFUSED)[step](one, permit)
    assert (fleet.lease_left(one) > 30) is (step in MAY_NOT_BE_LOST)
    await one.close()


async def test_resynced_holder_is_woken_for_its_offers(fleet: Fleet) -> None:
    one = await fleet.holder()
    await begin(one, "b", 1)

    async def resync() -> None:
        one._session.invalidate()
        await one.declare_limit(OWN, 3, per_minute=60_000)

    async with wake_ups(one) as woken:
        await woken.next_after(resync)
    assert [offer.entry for offer in (await one.admit()).offers] == ["b"]


# Sequence numbers.


async def test_imported_permits_and_offers_of_the_same_call_have_distinct_numbers(
    fleet: Fleet,
) -> None:
    one = await fleet.holder(limit=5)
    fleet.forget("permits")
    await begin(one, "b", 5)
    await until(lambda: one.has_lost_state("acme"))
    running = [RunningPrediction("p1", "o/m", 60), RunningPrediction("p2", "o/m", 60)]
    admission = await one.import_running("acme", running)
    assert len(admission.offers) == 3
    entered = {each.permit for each in await one.orphans("acme")}
    assert not entered & {offer.permit for offer in admission.offers}
    assert len(await take_all(one, admission)) == 3
    assert await state(one) == (5, 2)


async def test_permit_numbers_increase_although_the_server_clock_is_behind(fleet: Fleet) -> None:
    one, stored = await fleet.holder(limit=2), StoredState(fleet)
    ahead = int((stored.now() + 3_600) * 1e6)
    stored.set("generation", permit=ahead)
    numbers = [offer.permit for offer in (await begin(one, "b1", 2)).offers]
    assert numbers == [ahead + 1, ahead + 2]
    await one.dequeue("b1")
    numbers = [offer.permit for offer in (await begin(one, "b2", 2)).offers]
    assert numbers == [ahead + 3, ahead + 4]


async def test_permit_numbers_stay_above_those_already_seen_after_state_loss(
    fleet: Fleet,
) -> None:
    one, stored = await fleet.holder(limit=1), StoredState(fleet)
    ahead = int((stored.now() + 3_600) * 1e6)
    stored.set("generation", permit=ahead)
    await begin(one, "b", 1)
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))
    await until(lambda: one.has_lost_state("acme"))
    admission = await one.import_running("acme", [])
    assert [offer.permit for offer in admission.offers] == [ahead + 2]


# Expiry.


async def test_daily_image_counts_expire_after_two_days(fleet: Fleet) -> None:
    one, stored = await fleet.holder(), StoredState(fleet)
    first, second = (await begin(one, "b", 2)).offers
    await one.record_attempts({first.permit: attempt("b", 0), second.permit: attempt("b", 1)})
    day = int(stored.now() // 86_400)
    assert 86_400 < stored.ttl(f"images:acme:{day}") <= 2 * 86_400


async def test_finished_batch_leaves_no_queue_or_permit_keys(fleet: Fleet) -> None:
    one = await fleet.holder()
    await one.register("team", 3)
    (permit,) = await take_all(one, await begin(one, "b", 1, also=("team",), max_running=1))
    await finish(one, permit, "b", failed(0, "p1"))
    admission = await one.enqueue(QueueEntry("c", ("team",), None, 1))
    await one.accept_offers([offer.permit for offer in admission.offers])
    await one.release(admission.offers[0].permit)
    await one.dequeue("c")
    for key in ("permits", "offers", "entries", "units", "cancel_afters"):
        with fleet.server.client as client:
            assert client.hkeys(fleet.key(key)) == ["#"], key
    with fleet.server.client as client:
        assert client.hlen(fleet.key("attempts")) == 0
        assert client.hlen(fleet.key("running")) == 0
        assert client.zrange(fleet.key("queue"), 0, -1) == ["#"]
        assert client.zrange(fleet.key("orphans"), 0, -1) == ["#"]


async def test_closed_holder_leaves_no_keys(fleet: Fleet) -> None:
    one, other = await RedisBackend.open(fleet.server.url(fleet.prefix)), await fleet.holder()
    await one.register("team", 3)
    await one.enqueue(QueueEntry("c", ("team",), None, 9))
    me = one._session.holder
    await one.close()
    assert [each.name for each in await other.semaphores()] == [OWN]
    with Redis(port=fleet.server.port) as client:  # Records are packed, not text.
        read = {
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"string": client.get,
        }
        for key in client.keys(fleet.key("*")):
            assert me not in repr((key, read[client.type(key)](key)))


@pytest.mark.parametrize(
    ("ago", "reaps"), [(0, False), (1.5, True), (-5, True)], ids=["recently", "before", "ahead"]
)
async def test_dead_holders_are_reaped_once_a_second_across_all_holders(
    fleet: Fleet, ago: float, reaps: bool
) -> None:
    stored, alive = await holder_with_dead_peer(fleet)
    stored.set("generation", reaped_at=stored.now() - ago)
    await alive.admit()
    with fleet.server.client as client:
        assert client.hlen(fleet.key("holders")) == 1 + 3 * (1 if reaps else 2)


# With a clock set by the test.


async def dead_holder_with_attempt(
    site: Site, *, max_seconds: float = 700, prediction: str | None = None
) -> tuple[RedisBackend, RedisBackend, int]:
    """Return a live holder, a dead one, and the permit of the dead one's attempt."""
    alive, gone = await site.holder(label="alive"), await site.holder(label="gone")
    (offer,) = (await begin(gone, "b", 1)).offers
    recorded = replace(attempt("b", 0), max_seconds=max_seconds)
    await gone.record_attempts({offer.permit: recorded})
    if prediction is not None:
        assert await gone.claim_prediction(offer.permit, "b", prediction)
    site.lapse(gone, by=alive)
    return alive, gone, offer.permit


@pytest.mark.parametrize(
    ("unbroken", "began", "pause", "finds"),
    [
        (True, -60.0, 0.0, True),
        (True, -59.0, 0.0, False),
        (False, -60.0, 0.0, False),
        (True, 30.0, 0.0, False),
        (True, -60.0, 5.0, False),
        (True, None, 0.0, False),
    ],
)
async def test_holder_is_declared_dead_after_a_lease_of_contact_by_both_clocks(
    site: Site, unbroken: bool, began: float | None, pause: float, finds: bool
) -> None:
    alive, _, permit = await dead_holder_with_attempt(site)
    if not unbroken:
        alive._session._unbroken_since = float("inf")
    if began is None:
        with site.server.client as client:
            client.hdel(site.key("holders"), since(alive))
    else:
        site.set("holders", **{since(alive): site.now() + began})
    site.set("generation", opens_at=site.now() + pause)
    assert [each.permit for each in await alive.orphans("acme")] == [permit] * finds
    assert [share.holder for share in await alive.usage_by_holder()] == ["" if finds else "gone"]
    if began is not None and began > 0:
        stored = site.get("holders", since(alive))
        assert stored is not None
        assert float(stored) <= site.now(), "it is counted from now"
    site.in_contact(alive)
    site.end_pause()
    assert [each.permit for each in await alive.orphans("acme")] == [permit]


@pytest.mark.parametrize(
    ("seconds", "reaps"), [(0.0, False), (0.96875, False), (1.0, True), (-0.03125, True)]
)
async def test_dead_holders_are_reaped_at_most_once_a_second(
    site: Site, seconds: float, reaps: bool
) -> None:
    alive, _, permit = await dead_holder_with_attempt(site)
    site.set("generation", reaped_at=site.clock.now)
    site.clock.now += seconds
    await alive.admit()
    assert [share.holder for share in await alive.usage_by_holder()] == ["" if reaps else "gone"]
    if reaps:
        assert site.get("generation", "reaped_at") == str(site.clock.now).removesuffix(".0")
    assert await alive.adopt(permit) is reaps


async def test_state_of_a_dead_holder_is_removed_and_that_of_others_stays(
    site: Site,
) -> None:
    alive, gone = await site.holder(limit=5), await site.holder(limit=4)
    for each in (alive, gone):
        await each.register("team", 3)
        admission = await each.enqueue(
            QueueEntry(f"c{len(site.open)}-{id(each)}", ("team",), None, 2)
        )
        await each.accept_offers([admission.offers[0].permit])
    await gone.register("studio", 1)
    first, _ = await take_all(gone, await begin(gone, "theirs", 2))
    await begin(gone, "waits", 2)
    mine = await begin(alive, "mine", 3)
    assert len(mine.offers) == 1, "of the contexts: the batch waits"
    await finish(gone, first, "theirs", failed(0))
    site.lapse(gone, by=alive)
    states = {each.name: each for each in await alive.semaphores()}
    assert {name: each.limit for name, each in states.items()} == {OWN: 5, "team": 3}
    assert (states["team"].in_use, states["team"].waiting) == (2, 0)
    assert states[OWN].in_use == 1 + 1
    assert [each.task for each in await alive.orphans("acme")] == [1]
    offers = (await alive.admit()).offers
    assert [offer.entry for offer in offers].count("mine") == 3
    rows = [*await alive.results("theirs"), *await alive.results("waits")]
    assert [(row.task_index, getattr(row, "error_code", "")) for row in rows] == [
        (0, "prediction_failed"), (0, "interrupted"), (1, "interrupted"),
    ]  # fmt: skip
    assert await alive.results("mine") == []
    with site.server.client as client:
        assert gone._session.holder not in client.hgetall(site.key("holders"))
        assert client.smembers(site.key("stalled")) == set()
    assert (
        len(await take_all(alive, AdmissionResult(tuple(o for o in offers if o.entry == "mine"))))
        == 3
    )


@pytest.mark.parametrize(("later", "in_use"), [(699.5, 1), (700.0, 1), (700.5, 0)])
async def test_units_of_an_orphan_are_released_once_its_prediction_must_have_ended(
    site: Site, later: float, in_use: int
) -> None:
    alive, _, permit = await dead_holder_with_attempt(site)
    (other,) = await take_all(alive, await begin(alive, "mine", 1))
    site.clock.now += later
    assert await state(alive) == (1 + in_use, 0)
    assert await state(alive) == (1 + in_use, 0), "they return once"
    assert len(await alive.usage_by_holder()) == 1 + in_use
    assert [each.permit for each in await alive.orphans("acme")] == [permit]
    assert await alive.adopt(permit)
    await finish(alive, permit, "b", failed(0, "p1"))
    assert await state(alive) == (1, 0), "and not once more with its result"
    await finish(alive, other, "mine", failed(0))
    assert await state(alive) == (0, 0)


async def test_permit_of_a_live_holder_outlasts_the_deadline_of_its_prediction(
    site: Site,
) -> None:
    alive, gone, _ = await dead_holder_with_attempt(site)
    (mine,) = await take_all(alive, await begin(alive, "mine", 1))
    site.clock.now += 10_000
    assert await state(alive) == (1, 0)
    assert [each.permit for each in await alive.open_attempts("acme")] == [mine]
    (row,) = await gone.results("b")
    assert (row.task_index, getattr(row, "error_code", "")) == (0, "create_outcome_unknown")


@pytest.mark.parametrize(("minutes", "is_closed"), [(49.99, False), (50.0, False), (50.01, True)])
@pytest.mark.parametrize("prediction", [None, 'p"1'])
async def test_orphaned_attempt_can_be_adopted_for_fifty_minutes(
    site: Site, minutes: float, is_closed: bool, prediction: str | None
) -> None:
    alive, _, permit = await dead_holder_with_attempt(site, prediction=prediction)
    site.clock.now += minutes * 60
    assert [each.permit for each in await alive.orphans("acme")] == [permit] * (not is_closed)
    rows = await alive.results("b")
    assert [(getattr(row, "error_code", ""), row.prediction_id) for row in rows] == [
        ("create_outcome_unknown", prediction)
    ] * is_closed
    day = 1_000_000 // 86_400
    with site.server.client as client:
        assert client.get(site.key(f"images:acme:{day}")) == "1", "it may have been made"
    assert await alive.adopt(permit) is not is_closed


async def test_orphan_with_a_result_is_closed_once_its_prediction_must_have_ended(
    site: Site,
) -> None:
    alive, gone, permit = await dead_holder_with_attempt(site)
    await alive.record_results("b", [failed(0)], waited=False)
    assert [each.permit for each in await alive.orphans("acme")] == [permit]
    site.clock.now += 700.5
    assert await alive.orphans("acme") == []
    assert await alive.results("b") == [failed(0)]
    assert await state(alive) == (0, 0)
    await gone.close()


async def test_orphan_is_adopted_by_one_holder_and_repeated_adoption_succeeds(site: Site) -> None:
    alive, _, permit = await dead_holder_with_attempt(site)
    other = await site.holder()
    alive._session._unbroken_since = float("inf")
    assert not await alive.adopt(permit), "it is not known that its process is gone"
    site.in_contact(alive)
    assert [each.permit for each in await alive.orphans("acme")] == [permit]
    assert await alive.adopt(permit)
    assert await alive.adopt(permit), "an answer was lost"
    assert not await other.adopt(permit)
    await other.abandon(permit)
    assert await other.orphans("acme") == [], "it was not that one's to leave"
    await alive.abandon(permit)
    assert [each.permit for each in await other.orphans("acme")] == [permit]
    assert await other.adopt(permit)
    assert not await alive.adopt(permit + 1), "no such permit"


# Names.


async def limits(backend: RedisBackend) -> dict[str, int]:
    return {each.name: each.limit for each in await backend.semaphores()}


async def test_unset_name_keeps_the_lowest_limit_of_earlier_registrations(
    site: Site,
) -> None:
    one, two = await site.holder(), await site.holder()
    await one.register("team", 7)
    await one.resize("team", 9, by_admin=True)
    await two.register("team", 2)
    await two.unset("team")
    assert await limits(two) == {OWN: 3, "team": 7}
    await one.close()
    assert await limits(two) == {OWN: 3, "team": 7}
    await two.resize("team", 4)
    assert await limits(two) == {OWN: 3, "team": 4}


async def test_removing_a_name_removes_only_its_own_entries(site: Site) -> None:
    one = await site.holder()
    for name in ("team", "studio"):
        await one.register(name, 1)
        offers = (await one.enqueue(QueueEntry(f"of {name}", (name,), None, 1))).offers
        (offer,) = [each for each in offers if each.entry == f"of {name}"]
        await one.accept_offers([offer.permit])
        await one.release(offer.permit)
    await one.remove("team")
    with site.server.client as client:
        assert set(client.hkeys(site.key("entries"))) == {"#", "of studio"}
        assert client.hkeys(site.key("set")) != []
    assert await limits(one) == {OWN: 3, "studio": 1}
    admission = await one.enqueue(QueueEntry("of studio", ("studio",), None, 1))
    assert [offer.entry for offer in admission.offers] == ["of studio"]


async def test_waiting_entry_keeps_its_name(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    await one.register("team", 1)
    admission = await two.enqueue(QueueEntry("c", ("team",), None, 2))
    assert len(admission.offers) == 1
    await one.close()
    assert await limits(two) == {OWN: 3, "team": 1}
    assert two._mirror.declared["team"] == (1, None)
    with pytest.raises(SemaphoreInUse, match="in use"):
        await two.remove("team")


# Repeated calls.


async def test_repeated_accept_and_record_calls_count_once(site: Site) -> None:
    one, other = await site.holder(limit=9), await site.holder(limit=9)
    await one.register("team", 3)
    offers = (await one.enqueue(QueueEntry("c", ("team",), None, 2))).offers
    numbers = [offer.permit for offer in offers]
    for _ in range(2):
        assert (await one.accept_offers(numbers)).permits == set(numbers)
        assert await state(one, "team") == (2, 0)
    assert (await other.accept_offers(numbers)).permits == frozenset()
    first, second = [o for o in (await begin(one, "b", 2)).offers if o.entry == "b"]
    attempts = {first.permit: attempt("b", 0), second.permit: attempt("b", 1)}
    for _ in range(2):
        recorded = await one.record_attempts(attempts, images_per_day=2)
        assert recorded.cancel_after == {first.permit: 600, second.permit: 597}
        assert recorded.quota_resets_in is None
    assert (await other.record_attempts(attempts)).cancel_after == {}
    day = int(site.clock.now // 86_400)
    with site.server.client as client:
        assert client.get(site.key(f"images:acme:{day}")) == "2"
    assert await state(one) == (2, 0)


async def test_call_is_late_after_a_later_one_but_not_when_repeated(
    site: Site,
) -> None:
    one = await site.holder()
    admission = await begin(one, "b", 3)
    server, me = one._server, one._session.holder
    last = one._session._sequence
    assert await server.call("dequeue", me, {"entry": "b", "wanted": 1}, sequence=last - 1) == [
        "late"
    ]
    assert await state(one) == (3, 0)
    last = one._session._sequence
    for _ in range(2):
        answer = await server.call("dequeue", me, {"entry": "b", "wanted": 1}, sequence=last)
        assert answer[0] == "ok"
    assert await state(one) == (1, 0)
    assert len(await take_all(one, admission)) == 1
    # Reads have no number, and calls of an unknown process are answered like this.
    assert (await server.call("get_batch", me, {"batch": "b"}))[0] == "ok"
    generation = site.get("generation", "id")
    for sequence in (0, 1):
        answer = await server.call("admit", "unknown", {}, sequence=sequence)
        assert answer == ["register", generation]


@pytest.mark.parametrize("which", ["renew", "close", "restore_batch"])
async def test_session_calls_renew_the_lease_first(site: Site, which: str) -> None:
    one = await site.holder()
    if which == "restore_batch":
        await begin(one, "b", 1)
    with site.server.client as client:
        client.config_resetstat()
        async with one._session.lock() as turn:
            if which == "renew":
                await turn.renew()
            elif which == "restore_batch":
                await turn.restore(one._mirror.batches["b"], entirely=False)
            else:
                await turn.call("close", reasons=REASONS)
        stats = client.info("commandstats")
    assert stats["cmdstat_zadd"]["calls"] == 1


# Rates learned from creations, as in Python.


async def stored_rate(site: Site, backend: RedisBackend) -> dict[str, float]:
    """Return the fields of a process's stored rate."""
    await backend._session.renew()
    (record,) = backend._mirror.encode()["rates"]
    names = [each.name for each in fields(Rate)]
    return {name: float(value) for name, value in zip(names, record["values"], strict=True)}


def in_python(rate: Rate) -> dict[str, Any]:
    return {name: pytest.approx(float(value), rel=1e-12) for name, value in asdict(rate).items()}


async def test_rate_equals_that_of_the_same_calls_in_python(site: Site) -> None:
    one = await site.holder(limit=99, per_minute=60)
    at = site.clock.now
    rate = Rate.initial(60, at)
    assert await stored_rate(site, one) == in_python(rate)
    first, second, third = (await begin(one, "b", 3)).offers
    rate = rate.refilled_at(at).consume(3)
    assert await stored_rate(site, one) == in_python(rate)
    site.clock.now += 0.03125
    await one.record_attempts({first.permit: attempt("b", 0), second.permit: attempt("b", 1)})
    rate = adaptive_rate.on_sent(rate.refilled_at(site.clock.now), 2)
    assert await stored_rate(site, one) == in_python(rate)
    site.clock.now += 0.5
    await one.dequeue("b")
    rate = rate.refilled_at(site.clock.now).refund(1)
    assert await stored_rate(site, one) == in_python(rate)
    assert third.permit not in one._mirror.permits
    site.clock.now += 1.25
    throttling = Throttling(retry_after=8, burst=2)
    await one.requeue(first.permit, throttling)
    rate = adaptive_rate.on_throttled(
        rate.refilled_at(site.clock.now), throttling, sent_at=at + 0.03125
    )
    assert await stored_rate(site, one) == in_python(rate)
    await one.requeue(second.permit)
    assert await stored_rate(site, one) == in_python(rate), "it was no 429"
    states = {each.name: each for each in await one.semaphores()}
    assert states[OWN].throttled_for == pytest.approx(8)
    site.clock.now += 7.5
    states = {each.name: each for each in await one.semaphores()}
    assert states[OWN].throttled_for == pytest.approx(0.5)
    site.clock.now += 0.5
    states = {each.name: each for each in await one.semaphores()}
    assert states[OWN].throttled_for is None
    await one.set_rate(OWN, 30)
    rate = rate.with_manual(30, site.clock.now)
    assert (await stored_rate(site, one))["full_per_minute"] == rate.full_per_minute == 30
    assert await stored_rate(site, one) == in_python(rate)
    await one.declare_limit(OWN, 99, per_minute=600)
    assert await stored_rate(site, one) == in_python(rate), "it was set by hand"


async def test_attempts_of_several_accounts_update_their_own_rates_in_one_call(
    site: Site,
) -> None:
    one = await site.holder(limit=9, per_minute=60)
    await one.declare_limit("account:other", 9, per_minute=60)
    await one.import_running("other", [])
    assert await one.has_lost_state("other")
    await one.import_running("other", [])
    await begin(one, "b1", 2)
    admission = await begin(one, "b2", 1, account="other")
    site.clock.now += 0.015625
    await take_all(one, admission)
    await one._session.renew()
    accepted = {
        record["account"]: float(record["values"][8]) for record in one._mirror.encode()["rates"]
    }
    assert accepted == {"acme": 2.0, "other": 1.0}
    assert [
        float(record["values"][3]) for record in one._mirror.encode()["rates"]
    ] == pytest.approx([57.5 + 0.015625, 58.5 + 0.015625])
