"""Many processes on one Redis: what each costs, and how dead ones and orphans are found."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from backends.conftest import Site, until
from backends.servers import RunningServer
from backends.steps import attempt, begin, failed, finish, state, take_all
from backends.worlds import wake_ups
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.redis.connection import LEASE_SECONDS
from replicate_mcp.backends.redis.session import RENEWALS_A_LEASE
from replicate_mcp.batches.recovery import IDLE_POLL_SECONDS
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import QueueEntry

FEW, MANY = 2, 60


class Counted:
    """Commands of a server, those in scripts included."""

    total = 0

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}


@contextmanager
def counted(server: RunningServer) -> Iterator[Counted]:
    """Count the server's commands during the block."""
    found = Counted()
    with server.client as client:
        client.config_resetstat()
        yield found
        stats = client.info("commandstats")
    for name, each in stats.items():
        if not name.startswith("cmdstat_config"):
            found.by_name[name.removeprefix("cmdstat_")] = int(each["calls"])
    found.total = sum(found.by_name.values())


async def with_joined(
    site: Site, measure: Callable[[RedisBackend], Awaitable[int]]
) -> dict[int, int]:
    """Return what is measured for one process beside few and beside many others, by number."""
    one = await site.holder()
    await measure(one)  # Loads the scripts.
    found = {}
    for joined in (FEW, MANY):
        while len(site.open) < joined:
            await site.holder()
        found[joined] = await measure(one)
    return found


# What a process costs.


async def poll(backend: RedisBackend) -> None:
    """Make the calls of a poll for orphans."""
    assert not await backend.has_lost_state("acme")
    assert await backend.orphans("acme") == []


async def settled(site: Site) -> None:
    """Remove the holders of the generation before, as the first process after a lease does."""
    first = await site.holder()
    site.in_contact(first)
    assert await first.orphans("acme") == []
    await first.close()
    site.open.remove(first)


async def test_idle_process_costs_as_much_beside_many_as_beside_few(site: Site) -> None:
    await settled(site)

    async def polls(one: RedisBackend) -> int:
        with counted(site.server) as commands:
            await poll(one)
        return commands.total

    async def renewals(one: RedisBackend) -> int:
        with counted(site.server) as commands:
            await one._session.renew()
        return commands.total

    async def quick_renewals(one: RedisBackend) -> int:
        with counted(site.server) as commands:
            assert await renew_quickly(one)
        return commands.total

    polled, renewed = await with_joined(site, polls), await with_joined(site, renewals)
    quickly = await with_joined(site, quick_renewals)
    assert polled[FEW] == polled[MANY]
    assert renewed[FEW] == renewed[MANY]
    assert quickly[FEW] == quickly[MANY] < renewed[MANY]
    interval = LEASE_SECONDS / RENEWALS_A_LEASE
    assert polled[MANY] / IDLE_POLL_SECONDS + renewed[MANY] / interval <= 10


async def test_task_costs_as_much_beside_many_as_beside_few(site: Site) -> None:
    batches = iter(range(99))

    async def task(one: RedisBackend) -> int:
        batch = f"b{next(batches)}"
        room = await begin(one, batch, 2, max_running=1)
        with counted(site.server) as commands:
            (permit,) = await take_all(one, room)
            room = await finish(one, permit, batch, failed(0, f"p of {batch}"))
        (permit,) = await take_all(one, room)
        await finish(one, permit, batch, failed(1, f"q of {batch}"))
        return commands.total

    found = await with_joined(site, task)
    assert found[FEW] == found[MANY] <= 80


async def test_admission_reads_as_often_for_many_waiting_accounts_as_for_few(site: Site) -> None:
    """Let each account wait with a batch of its own limit, and without units."""
    one, found = await site.holder(), []
    waiting = 0
    for accounts in (FEW, MANY):
        while waiting < accounts:
            name = f"account {waiting}"
            await one.declare_limit(account_semaphore(name), 0, per_minute=600)
            assert await one.has_lost_state(name)
            await one.import_running(name, [])
            await begin(one, f"b{waiting}", 1, account=name, max_running=1)
            waiting += 1
        with counted(site.server) as commands:
            assert (await one.admit()).offers == ()
        found.append(commands.total)
    assert found[0] == found[1]


async def test_imported_account_is_not_asked_for_again_in_the_same_generation(site: Site) -> None:
    one = await site.holder()
    assert not await one.has_lost_state("acme")
    with counted(site.server) as commands:
        assert not await one.has_lost_state("acme")
    assert commands.total == 0
    site.forget("permits")
    await one.admit()
    site.end_pause()
    assert await one.has_lost_state("acme")


async def test_only_the_process_of_an_offer_is_woken(site: Site) -> None:
    one, two, three = await site.holder(limit=1), await site.holder(), await site.holder()
    (permit,) = await take_all(one, await begin(one, "b1", 1))
    await begin(two, "b2", 1)
    await begin(three, "b3", 1)
    async with wake_ups(two) as woken, wake_ups(three) as asleep:
        await asleep.drain()

        async def release() -> None:
            with counted(site.server) as commands:
                await woken.next_after(lambda: finish(one, permit, "b1", failed(0)))
            assert commands.by_name["publish"] == 1

        await asleep.none_after(release)


# Quick renewals.


async def renew_quickly(backend: RedisBackend, *, refreshes: bool = False) -> bool:
    async with backend._session.priority_lock() as session:
        return await session._renew_quickly(refreshes=refreshes)


async def test_quick_renewal_extends_only_a_lease_that_has_not_ended(site: Site) -> None:
    one = await site.holder()
    site.set_lease(one, site.now() + 5)
    assert await renew_quickly(one)
    with site.server.client as client:
        ends_at = client.zscore(site.key("leases"), one._session.holder)
    assert ends_at is not None
    assert 50 < ends_at - site.now() <= 60
    site.set_lease(one, site.now() - 0.001)
    assert not await renew_quickly(one)
    with site.server.client as client:
        client.zrem(site.key("leases"), one._session.holder)
    assert not await renew_quickly(one)
    assert await one.admit()
    assert await renew_quickly(one)


@pytest.mark.parametrize("field", ["id", "run"])
async def test_quick_renewal_notices_another_generation(site: Site, field: str) -> None:
    one = await site.holder()
    site.set("generation", **{field: "1"})
    assert not await renew_quickly(one)
    await one.admit()
    assert await renew_quickly(one)
    site.forget("generation")
    assert not await renew_quickly(one)


async def test_quick_renewal_is_refused_before_a_resync(site: Site) -> None:
    one = await site.holder()
    one._session.invalidate()
    assert not await renew_quickly(one)
    await one.admit()
    assert await renew_quickly(one)


async def test_quick_renewal_refreshes_what_others_set_once_a_lease(site: Site) -> None:
    one, two = await site.holder(), await site.holder()
    await two.register("posters", 3)
    await two.resize("posters", 5, by_admin=True)
    await two.set_rate(account_semaphore("acme"), 30)
    before = one._mirror.encode()
    assert await renew_quickly(one)
    assert one._mirror.encode() == before
    assert await renew_quickly(one, refreshes=True)
    after = one._mirror.encode()
    assert [(each["name"], each["units"], each["by_admin"]) for each in after["set"]] == [
        ("posters", 5, True)
    ]
    assert after["rates"] != before["rates"]
    assert after["rates"] == two._mirror.encode()["rates"]


async def test_quick_renewal_works_when_the_memory_is_full(site: Site) -> None:
    one = await site.holder()
    site.set_lease(one, site.now() + 5)
    site.server.configure(maxmemory_policy="noeviction", maxmemory=1)
    try:
        assert await renew_quickly(one)
    finally:
        site.server.configure(maxmemory=0)
    with site.server.client as client:
        ends_at = client.zscore(site.key("leases"), one._session.holder)
    assert ends_at is not None
    assert ends_at > site.now() + 50


async def test_declarations_are_removed_with_their_process(site: Site) -> None:
    one, two = await site.holder(limit=9), await site.holder(limit=4)
    await two.register("posters", 3)
    with site.server.client as client:
        assert client.zcard(site.key("declared")) == 1 + 2 * 3
    own = account_semaphore("acme")
    assert await limits(one) == {own: 4, "posters": 3}
    await two.declare_limit(own, 11, per_minute=60_000)
    assert await limits(one) == {own: 9, "posters": 3}
    await two.close()
    site.open.remove(two)
    with site.server.client as client:
        assert client.zcard(site.key("declared")) == 1 + 2
    assert await limits(one) == {own: 9}


async def limits(backend: RedisBackend) -> dict[str, int]:
    return {each.name: each.limit for each in await backend.semaphores()}


# How dead processes and orphans are found.


async def test_end_of_a_lease_is_noticed_by_the_next_poll_of_any_process(site: Site) -> None:
    one, two, gone = [await site.holder() for _ in range(3)]
    (permit,) = await take_all(gone, await begin(gone, "b", 1))
    for each in (one, two):
        site.in_contact(each)
    assert await one.orphans("acme") == []
    site.set("generation", reaped_at=site.clock.now)
    site.set_lease(gone, site.now() + 30)
    assert await two.orphans("acme") == [], "its lease has not ended"
    site.set_lease(gone, site.now() - 0.001)
    assert [each.permit for each in await two.orphans("acme")] == [permit]
    assert [each.permit for each in await one.orphans("acme")] == [permit]


async def test_many_dead_processes_are_removed_in_one_call(site: Site) -> None:
    alive = await site.holder(limit=MANY)
    gone = [await site.holder(limit=MANY) for _ in range(20)]
    await alive.register("team", MANY)
    for number, each in enumerate(gone):
        room = await each.enqueue(QueueEntry(f"c{number}", ("team",), None, 2))
        await each.accept_offers([offer.permit for offer in room.offers[:1]])
        (offer, *_) = [o for o in (await begin(each, f"b{number}", 2)).offers if o.entry[0] == "b"]
        await each.record_attempts({offer.permit: attempt(f"b{number}", 0)})
    for each in gone:
        site.lapse(each, by=alive)
    with counted(site.server) as commands:
        assert await state(alive, "team") == (0, 0)
    assert commands.by_name["hgetall"] < 2 * len(gone), "it is not all read again for each"
    assert await state(alive) == (len(gone), 0)
    assert len(await alive.orphans("acme")) == len(gone)
    for number in range(len(gone)):
        assert [row.task_index for row in await alive.results(f"b{number}")] == [1]


async def test_orphans_are_listed_by_account_and_until_they_have_a_holder(site: Site) -> None:
    one, gone = await site.holder(limit=9), await site.holder(limit=9)
    permits = {}
    for account in ("acme", "acme 5", "acm"):
        if account != "acme":
            await gone.declare_limit(account_semaphore(account), 3, per_minute=60_000)
            assert await gone.has_lost_state(account)
            await gone.import_running(account, [])
        room = await begin(gone, f"b of {account}", 1, account=account)
        (permits[account],) = await take_all(gone, room)
    await gone.close()
    for account, permit in permits.items():
        assert [each.permit for each in await one.orphans(account)] == [permit]
    assert await one.orphans("ac") == []
    assert await one.adopt(permits["acme 5"])
    assert await one.orphans("acme 5") == []
    await finish(one, permits["acm"], "b of acm", failed(0))
    assert await one.orphans("acm") == []
    assert [each.permit for each in await one.orphans("acme")] == [permits["acme"]]
    assert listed_orphans(site) == {f"acme {permits['acme']}"}


def listed_orphans(site: Site) -> set[str]:
    with site.server.client as client:
        return set(client.zrange(site.key("orphans"), 0, -1)) - {"#"}


async def test_returning_process_has_no_orphans(site: Site) -> None:
    """Let a process return that was declared dead, with a permit of which it knows nothing."""
    one, late = await site.holder(limit=9), await site.holder(limit=9)
    kept, dropped = await take_all(late, await begin(late, "b", 2))
    site.lapse(late, by=one)
    assert [each.permit for each in await one.orphans("acme")] == [kept, dropped]
    del late._mirror.permits[dropped]
    await late.admit()
    assert listed_orphans(site) == set()
    assert await one.orphans("acme") == []
    assert [each.permit for each in await one.open_attempts("acme")] == [kept]
    # The same after a loss of state, which makes every permit an orphan first.
    site.forget("permits")
    await one.admit()
    assert listed_orphans(site) == {f"acme {kept}"}
    await late.admit()
    assert listed_orphans(site) == set()


@pytest.mark.parametrize(("ago", "in_use"), [(0.5, 1), (1.0, 0), (-1.0, 0)])
async def test_units_of_other_accounts_orphans_are_released_by_one_poll_a_second(
    site: Site, ago: float, in_use: int
) -> None:
    one, gone = await site.holder(), await site.holder()
    await gone.declare_limit(account_semaphore("other"), 3, per_minute=60_000)
    assert await gone.has_lost_state("other")
    await gone.import_running("other", [])
    await take_all(gone, await begin(gone, "b", 1, account="other"))
    site.in_contact(one)
    await one.orphans("acme")
    await gone.close()
    site.clock.now += 700.5
    site.set("generation", reaped_at=site.clock.now - ago)
    assert await one.orphans("acme") == []
    usage = await one.usage_by_holder()
    assert sum(each.in_use for each in usage) == in_use


# Polls between two renewals, which need no call.


async def quiet(site: Site, one: RedisBackend) -> None:
    """Renew the lease of a listening process, so that it knows that there are no orphans."""
    await until_listening(one)
    await one._session.renew()
    assert one._session.has_no_orphans
    one._session._quiet_until = float("-inf")
    assert not one._session.has_no_orphans, "the time is over"
    assert await renew_quickly(one)
    with counted(site.server) as commands:
        assert await one.orphans("acme") == []
    assert commands.total == 0


async def until_listening(one: RedisBackend) -> None:
    async def listening() -> bool:
        return one._server.is_listening

    await until(listening)


async def test_poll_after_a_renewal_is_no_call_until_a_permit_is_abandoned(site: Site) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    (permit,) = await take_all(other, await begin(other, "b", 1))
    async with wake_ups(one) as woken:
        await quiet(site, one)
        await woken.none_after(lambda: other.abandon(permit))
        assert [each.permit for each in await one.orphans("acme")] == [permit]
        await one._session.renew()
        assert [each.permit for each in await one.orphans("acme")] == [permit], "it is still there"
        assert await one.adopt(permit)
        await quiet(site, one)
        await woken.none_after(other.close)
        await quiet(site, one)


async def test_poll_is_a_call_again_when_the_first_lease_ends(site: Site) -> None:
    await settled(site)
    one, gone = await site.holder(), await site.holder()
    (permit,) = await take_all(gone, await begin(gone, "b", 1))
    site.in_contact(one)
    async with wake_ups(one):
        site.set_lease(gone, site.now() + 0.5)
        await quiet(site, one)

        async def found() -> bool:
            return [each.permit for each in await one.orphans("acme")] == [permit]

        await until(found)


@pytest.mark.parametrize("quickly", [False, True])
async def test_renewal_tells_until_when_no_orphan_can_be_unannounced(
    site: Site, quickly: bool
) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    (permit,) = await take_all(other, await begin(other, "b", 1))

    async def quiet_for() -> float:
        one._session._quiet_until = float("-inf")
        await (renew_quickly(one) if quickly else one._session.renew())
        return one._session._quiet_until - steady_time()

    assert 55 < await quiet_for() <= 60, "until their own leases end"
    site.set_lease(other, site.now() + 5)
    assert 3 < await quiet_for() <= 5
    site.set_lease(other, site.now() - 5)
    assert -2 < await quiet_for() <= 0
    await other.admit()
    await other.abandon(permit)
    site.set_lease(other, site.now() + 50)
    assert -2 < await quiet_for() <= 0
    assert await one.adopt(permit)
    assert 40 < await quiet_for() <= 50


async def test_poll_is_a_call_after_messages_may_have_been_lost(site: Site) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    (permit,) = await take_all(other, await begin(other, "b", 1))
    async with wake_ups(one):
        await quiet(site, one)
        with site.server.client as client:
            client.client_kill_filter(_type="pubsub")

        async def interrupted() -> bool:
            return not one._session.has_no_orphans

        await until(interrupted)
        await other.abandon(permit)
        assert [each.permit for each in await one.orphans("acme")] == [permit]


async def test_poll_is_a_call_while_the_process_does_not_listen(site: Site) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    (permit,) = await take_all(other, await begin(other, "b", 1))
    async with wake_ups(one):
        await quiet(site, one)
    await other.abandon(permit)
    assert [each.permit for each in await one.orphans("acme")] == [permit]


# Other layouts of the keys.


async def test_state_in_the_layout_before_begins_a_new_generation(site: Site) -> None:
    """Build the keys as they were: a key for each holder, and a count of its permits."""
    one, gone = await site.holder(), await site.holder()
    (lost,) = await take_all(gone, await begin(gone, "b", 2, max_running=1))
    (mine,) = await take_all(one, await begin(one, "b2", 2, max_running=1))
    generation = site.get("generation", "id")
    with site.server.client as client:
        client.hdel(site.key("generation"), "layout")
        client.delete(site.key("leases"), site.key("orphans"), site.key("holders"))
        client.zrem(site.key("queue"), "#")
        client.zadd(site.key("queue"), {f"#{generation}": 0})
        client.hset(site.key("held"), mapping={"#": str(generation), gone._session.holder: "1"})
        client.hset(site.key("holders"), mapping={"#": str(generation), "them": "label"})
        client.hset(site.key("holder:them"), mapping={"since": "0", "sequence": "1"})
    room = await one.admit()
    assert room.offers == ()
    assert room.paused_for is not None
    assert site.get("generation", "id") != generation
    assert await state(one) == (2, 1), "what runs is still counted"
    await site.admit_again(one)
    site.in_contact(one)
    assert [each.permit for each in await one.orphans("acme")] == [lost]
    assert [row.task_index for row in await one.results("b")] == [1]
    assert [o.entry for o in (await finish(one, mine, "b2", failed(0))).offers] == ["b2"]
    assert await one.adopt(lost)
    await finish(one, lost, "b", failed(0))
    assert await state(one) == (1, 0)


async def test_state_of_another_layout_alone_begins_a_new_generation(site: Site) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    site.set("generation", layout=1)
    generation = site.get("generation", "id")
    await one.admit()
    assert site.get("generation", "id") != generation
    assert [each.permit for each in await one.open_attempts("acme")] == [permit]


async def test_state_of_a_newer_version_is_left_alone(site: Site) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    site.set("generation", layout=99)
    generation = site.get("generation", "id")
    for call in (one.admit, one._session.renew, lambda: one.get_batch("b")):
        with pytest.raises(BackendUnavailable, match="newer version"):
            await call()
    with pytest.raises(BackendUnavailable, match="newer version"):
        await site.holder()
    assert site.get("generation", "id") == generation
    assert site.get("permits", "#") == generation
    assert permit in one._mirror.permits
