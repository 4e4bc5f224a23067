"""Each guard of the script alone, with the others satisfied: the tests set what Redis keeps."""

from collections.abc import Awaitable, Callable

import pytest
from redis import Redis

from backends.acting import OWN, attempt, begin, failed, finish, state, take_all
from backends.conftest import LEASE, Fleet, until
from backends.worlds import wake_ups
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.backend import RunningPrediction
from replicate_mcp.semaphores.permits import QueueEntry


class Kept:
    """What the server keeps for a fleet."""

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
        with self._fleet.server.client as client:
            seconds, microseconds = client.time()
        return float(seconds) + float(microseconds) / 1e6


def holder_key(backend: RedisBackend) -> str:
    return f"holder:{backend._membership.holder}"


async def with_one_gone(fleet: Fleet) -> tuple[Kept, RedisBackend]:
    """Who has been in contact for a lease, beside one that is gone with a prediction."""
    alive, gone = await fleet.holder(), await fleet.holder()
    await take_all(gone, await begin(gone, "b", 1))
    await fleet.lapses(gone)
    kept = Kept(fleet)

    async def in_contact_for_a_lease() -> bool:
        since = float(kept.get(holder_key(alive), "since"))
        return alive._membership.unbroken and since < kept.now() - LEASE

    await until(in_contact_for_a_lease)
    return kept, alive


async def test_nobody_is_declared_dead_by_who_knows_that_its_contact_was_broken(
    fleet: Fleet,
) -> None:
    _, alive = await with_one_gone(fleet)
    alive._membership._unbroken_since = float("inf")
    assert await alive.orphans("acme") == []
    alive._membership._unbroken_since = float("-inf")
    await until(lambda: alive.orphans("acme"))


async def test_nobody_is_declared_dead_by_who_was_in_contact_for_less_than_a_lease(
    fleet: Fleet,
) -> None:
    kept, alive = await with_one_gone(fleet)
    kept.set(holder_key(alive), since=kept.now())
    assert await alive.orphans("acme") == []
    kept.set(holder_key(alive), since=kept.now() - LEASE)
    await until(lambda: alive.orphans("acme"))


async def test_nobody_is_declared_dead_while_a_new_memory_is_told(fleet: Fleet) -> None:
    kept, alive = await with_one_gone(fleet)
    kept.set("generation", opens_at=kept.now() + 9)
    assert await alive.orphans("acme") == []
    kept.set("generation", opens_at=kept.now())
    await until(lambda: alive.orphans("acme"))


async def test_nobody_is_declared_dead_by_who_came_at_an_unknown_time(fleet: Fleet) -> None:
    kept, alive = await with_one_gone(fleet)
    kept.drop(holder_key(alive), "since")
    assert await alive.orphans("acme") == []


async def test_contact_that_began_in_the_future_is_counted_from_now(fleet: Fleet) -> None:
    kept, alive = await with_one_gone(fleet)
    kept.set(holder_key(alive), since=kept.now() + 3_600)
    assert await alive.orphans("acme") == []
    assert float(kept.get(holder_key(alive), "since")) <= kept.now()
    await until(lambda: alive.orphans("acme"))


async def test_a_permit_of_a_dead_process_is_taken_over_only_by_who_may_declare_it_dead(
    fleet: Fleet,
) -> None:
    kept, alive = await with_one_gone(fleet)
    (attempt_,) = await alive.open_attempts("acme")
    assert not await alive.adopt(attempt_.permit), "nobody has looked for the dead"
    await until(lambda: alive.orphans("acme"))
    kept.set(holder_key(alive), since=kept.now())
    assert await alive.orphans("acme") == []
    assert not await alive.adopt(attempt_.permit)
    kept.set(holder_key(alive), since=kept.now() - LEASE)
    await until(lambda: alive.adopt(attempt_.permit))


# The memory


@pytest.mark.parametrize("began_ago", [-3_600, 0])
async def test_a_clock_that_was_set_back_makes_a_pause_no_longer_than_a_lease(
    fleet: Fleet, began_ago: float
) -> None:
    one, kept = await fleet.holder(), Kept(fleet)
    await begin(one, "b", 9)
    began_at = kept.now() - began_ago
    kept.set("generation", began_at=began_at, opens_at=began_at + LEASE)
    room = await one.admit()
    assert room.paused_for is not None
    assert 0 < room.paused_for <= LEASE


async def test_a_memory_opens_when_the_longest_lease_of_those_that_came_is_over(
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


async def test_a_pause_is_said_only_where_something_waits(fleet: Fleet) -> None:
    one = await fleet.holder()
    fleet.forget("permits")
    room = await one.admit()
    assert (room.paused_for, room.next_in) == (None, None)
    room = await begin(one, "b", 1)
    assert room.paused_for is not None
    assert room.next_in == pytest.approx(room.paused_for, abs=0.01)


MAY_NOT_BE_LOST: dict[str, Callable[[RedisBackend, int], Awaitable[object]]] = {
    "admit": lambda one, _: one.admit(),
    "leave": lambda one, _: one.leave("b", 1),
    "release": lambda one, permit: one.release(permit),
    "put_back": lambda one, permit: one.put_back(permit),
    "finish": lambda one, permit: one.finish(permit, "b", failed(0)),
    "record": lambda one, _: one.record("b", [failed(5)]),
    "abandon": lambda one, permit: one.abandon(permit),
    "adopt": lambda one, permit: one.adopt(permit),
    "claim": lambda one, permit: one.claim_prediction(permit, "b", "p1"),
    "cancel_batch": lambda one, _: one.cancel_batch("b"),
    "orphans": lambda one, _: one.orphans("acme"),
    "semaphores": lambda one, _: one.semaphores(),
}
MAY_BE_REFUSED: dict[str, Callable[[RedisBackend, int], Awaitable[object]]] = {
    "declare": lambda one, _: one.declare(OWN, 3, per_minute=600),
    "begin": lambda one, _: begin(one, "b2", 1),
    "join": lambda one, _: one.join(QueueEntry("c", (OWN,), None, 1)),
    "take": lambda one, _: one.take([1]),
    "note": lambda one, _: one.note_attempts({1: attempt("b", 1)}),
    "enter_running": lambda one, _: one.enter_running("acme", []),
}


@pytest.mark.parametrize("step", [*MAY_NOT_BE_LOST, *MAY_BE_REFUSED])
async def test_what_may_not_be_lost_renews_the_lease_before_all_and_so_is_done_without_memory(
    fleet: Fleet, step: str
) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=60))
    await one.declare(OWN, 2, per_minute=60_000)
    permit, _ = await take_all(one, await begin(one, "b", 6))
    with fleet.server.client as client:
        client.pexpire(fleet.key(holder_key(one)), 30_000)
    await (MAY_NOT_BE_LOST | MAY_BE_REFUSED)[step](one, permit)
    ttl = Kept(fleet).ttl(holder_key(one))
    assert (ttl > 30) is (step in MAY_NOT_BE_LOST)
    await one.close()


async def test_a_process_that_is_told_again_looks_for_its_offers(fleet: Fleet) -> None:
    one = await fleet.holder()
    await begin(one, "b", 1)

    async def is_told_again() -> None:
        one._membership.doubt()
        await one.declare(OWN, 3, per_minute=60_000)

    async with wake_ups(one) as woken:
        await woken.next_after(is_told_again)
    assert [offer.entry for offer in (await one.admit()).offers] == ["b"]


# Numbers


async def test_permits_that_are_entered_and_offers_of_the_same_step_have_numbers_of_their_own(
    fleet: Fleet,
) -> None:
    one = await fleet.holder(limit=5)
    fleet.forget("permits")
    await begin(one, "b", 5)
    await until(lambda: one.forgot("acme"))
    running = [RunningPrediction("p1", "o/m", 60), RunningPrediction("p2", "o/m", 60)]
    room = await one.enter_running("acme", running)
    assert len(room.offers) == 3
    entered = {each.permit for each in await one.orphans("acme")}
    assert not entered & {offer.permit for offer in room.offers}
    assert len(await take_all(one, room)) == 3
    assert await state(one) == (5, 2)


async def test_numbers_rise_though_the_clock_of_the_server_is_behind(fleet: Fleet) -> None:
    one, kept = await fleet.holder(limit=2), Kept(fleet)
    ahead = int((kept.now() + 3_600) * 1e6)
    kept.set("generation", permit=ahead)
    numbers = [offer.permit for offer in (await begin(one, "b1", 2)).offers]
    assert numbers == [ahead + 1, ahead + 2]
    await one.leave("b1")
    numbers = [offer.permit for offer in (await begin(one, "b2", 2)).offers]
    assert numbers == [ahead + 3, ahead + 4]


async def test_numbers_rise_above_what_a_process_has_seen_though_all_is_forgotten(
    fleet: Fleet,
) -> None:
    one, kept = await fleet.holder(limit=1), Kept(fleet)
    ahead = int((kept.now() + 3_600) * 1e6)
    kept.set("generation", permit=ahead)
    await begin(one, "b", 1)
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))
    await until(lambda: one.forgot("acme"))
    room = await one.enter_running("acme", [])
    assert [offer.permit for offer in room.offers] == [ahead + 2]


# What goes by itself


async def test_the_days_images_are_kept_for_two_days_at_most(fleet: Fleet) -> None:
    one, kept = await fleet.holder(), Kept(fleet)
    first, second = (await begin(one, "b", 2)).offers
    await one.note_attempts({first.permit: attempt("b", 0), second.permit: attempt("b", 1)})
    day = int(kept.now() // 86_400)
    assert 86_400 < kept.ttl(f"images:acme:{day}") <= 2 * 86_400


async def test_nothing_is_left_of_a_batch_in_the_queue_and_among_the_permits(fleet: Fleet) -> None:
    one = await fleet.holder()
    await one.register("team", 3)
    (permit,) = await take_all(one, await begin(one, "b", 1, also=("team",), at_most=1))
    await finish(one, permit, "b", failed(0, "p1"))
    room = await one.join(QueueEntry("c", ("team",), None, 1))
    await one.take([offer.permit for offer in room.offers])
    await one.release(room.offers[0].permit)
    await one.leave("c")
    for key in ("permits", "offers", "entries", "units", "held", "alike"):
        with fleet.server.client as client:
            assert client.hkeys(fleet.key(key)) == ["#"], key
    with fleet.server.client as client:
        assert client.hlen(fleet.key("attempts")) == 0
        assert client.hlen(fleet.key("running")) == 0
        assert client.zcard(fleet.key("queue")) == 1


async def test_nothing_is_left_of_a_process_that_left(fleet: Fleet) -> None:
    one, other = await RedisBackend.open(fleet.server.url(fleet.prefix)), await fleet.holder()
    await one.register("team", 3)
    await one.join(QueueEntry("c", ("team",), None, 9))
    me = one._membership.holder
    await one.close()
    assert [each.name for each in await other.semaphores()] == [OWN]
    with Redis(port=fleet.server.port) as client:  # Records are packed: they are no text.
        read = {
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"string": client.get,
        }
        for key in client.keys(fleet.key("*")):
            assert me not in repr((key, read[client.type(key)](key)))


@pytest.mark.parametrize(
    ("ago", "looks"), [(0, False), (1.5, True), (-5, True)], ids=["lately", "before", "ahead"]
)
async def test_the_dead_are_looked_for_once_a_second_by_all_together(
    fleet: Fleet, ago: float, looks: bool
) -> None:
    kept, alive = await with_one_gone(fleet)
    kept.set("generation", looked_at=kept.now() - ago)
    await alive.admit()
    with fleet.server.client as client:
        assert client.hlen(fleet.key("holders")) == (2 if looks else 3)
