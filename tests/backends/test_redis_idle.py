"""The small scripts of the calls that idle Redis processes make, each with its exact results."""

from typing import Any

import pytest

from backends.conftest import Site
from backends.steps import OWN, attempt, begin, take_all
from backends.test_redis_many import renew_quickly, settled
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.semaphores.names import account_semaphore

OTHER = account_semaphore("other")
DAY = 86_400


async def renew(backend: RedisBackend, *, quickly: bool) -> None:
    """Renew the lease, and refresh what is mirrored of the shared state."""
    if quickly:
        assert await renew_quickly(backend, refreshes=True)
    else:
        await backend._session.renew()


def shared(backend: RedisBackend) -> dict[str, Any]:
    """Return what a process mirrors of the shared state."""
    encoded = backend._mirror.encode()
    return {name: encoded[name] for name in ("set", "rates", "images")}


async def changed_rates(backend: RedisBackend, *, quickly: bool) -> list[str]:
    """Return the accounts whose rates a renewal sends."""
    session = backend._session
    arguments = {"generation": session.generation, **session._refresh_arguments()}
    answer = await session._call("renew_quickly" if quickly else "renew", arguments, 0)
    _, rates, _ = answer[-1]
    return [account for account, *_ in rates]


def lease_end(site: Site, backend: RedisBackend) -> float:
    with site.server.client as client:
        ends_at = client.zscore(site.key("leases"), backend._session.holder)
    assert ends_at is not None
    return float(ends_at)


# Renewals.


@pytest.mark.parametrize("quickly", [False, True])
async def test_lease_is_renewed_from_the_server_time(site: Site, quickly: bool) -> None:
    one = await site.holder()
    for _ in range(3):
        before = site.now()
        await renew(one, quickly=quickly)
        assert before + site.LEASE <= lease_end(site, one) <= site.now() + site.LEASE


async def test_lease_is_renewed_when_the_memory_is_full(site: Site) -> None:
    one = await site.holder()
    site.set_lease(one, site.now() + 5)
    site.server.configure(maxmemory_policy="noeviction", maxmemory=1)
    try:
        await renew(one, quickly=False)
    finally:
        site.server.configure(maxmemory=0)
    assert lease_end(site, one) > site.now() + 50


async def test_refused_quick_renewal_leaves_the_lease(site: Site) -> None:
    one = await site.holder()
    ends_at = round(site.now()) + 5.0
    site.set_lease(one, ends_at)
    site.set("generation", run="1")
    assert not await renew_quickly(one)
    assert lease_end(site, one) == ends_at


@pytest.mark.parametrize("quickly", [False, True])
async def test_renewal_mirrors_the_limits_rates_and_images_of_others(
    site: Site, quickly: bool
) -> None:
    site.clock.now = 20 * DAY + 0.25
    one, two = await site.holder(limit=9, per_minute=60), await site.holder(limit=9, per_minute=60)
    await two.register("team", 3)
    await two.resize("team", 7, by_admin=True)
    await two.resize(OWN, 5)
    (offer,) = (await begin(two, "b", 1)).offers
    site.clock.now += 0.25
    await two.record_attempts({offer.permit: attempt("b", 0, images=4)})
    assert shared(one)["images"] == []
    await renew(one, quickly=quickly)
    await renew(two, quickly=not quickly)
    found = shared(one)
    assert {(each["name"], each["units"], each["by_admin"]) for each in found["set"]} == {
        ("team", 7, True), (OWN, 5, False),
    }  # fmt: skip
    assert all(each["at"] == pytest.approx(site.now(), abs=60) for each in found["set"])
    assert found["images"] == [{"account": "acme", "day": 20, "count": 4}]
    assert float(found["rates"][0]["values"][3]) == pytest.approx(59.25 - 1, abs=1)
    assert shared(two) == found
    site.clock.now += DAY
    await renew(one, quickly=quickly)
    assert shared(one)["images"] == []


@pytest.mark.parametrize("quickly", [False, True])
async def test_renewal_sends_only_the_rates_that_changed(site: Site, quickly: bool) -> None:
    one, two = await site.holder(per_minute=60), await site.holder(per_minute=60)
    for each in (one, two):
        await each.declare_limit(OTHER, 3, per_minute=60)
    await two.set_rate(OWN, 30)
    await two.set_rate(OTHER, 20)
    await renew(one, quickly=quickly)
    before = shared(one)["rates"]
    assert [each["account"] for each in before] == ["acme", "other"]
    await two.set_rate(OTHER, 10)
    assert await changed_rates(one, quickly=quickly) == ["other"]
    await renew(one, quickly=quickly)
    assert await changed_rates(one, quickly=quickly) == []
    after = shared(one)["rates"]
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("quickly", [False, True])
async def test_renewal_drops_a_rate_that_the_server_lost(site: Site, quickly: bool) -> None:
    one = await site.holder(per_minute=60)
    await one.set_rate(OWN, 30)
    await renew(one, quickly=quickly)
    assert len(shared(one)["rates"]) == 1
    site.forget("rates")
    await renew(one, quickly=quickly)
    assert shared(one)["rates"] == []


# The search for orphans.


async def has_orphans(site: Site, backend: RedisBackend, account: str = "acme") -> bool:
    """Return what the small script of the search returns."""
    (found,) = await backend._session.read("has_orphans", account=account)
    return bool(found)


async def test_search_is_needed_where_a_lease_has_ended(site: Site) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    site.set("generation", reaped_at=site.clock.now)
    assert not await has_orphans(site, one)
    site.set_lease(other, site.now() + 0.5)
    assert not await has_orphans(site, one)
    site.set_lease(other, site.now() - 0.001)
    assert await has_orphans(site, one)


async def test_search_is_needed_for_orphans_of_the_account(site: Site) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    (permit,) = await take_all(other, await begin(other, "b", 1))
    site.set("generation", reaped_at=site.clock.now)
    assert not await has_orphans(site, one)
    await other.abandon(permit)
    site.set("generation", reaped_at=site.clock.now)
    assert await has_orphans(site, one)
    for account in ("acm", "acme2", "acme ", "other"):
        assert not await has_orphans(site, one, account)


@pytest.mark.parametrize(
    ("seconds", "is_due"), [(0.0, False), (0.96875, False), (1.0, True), (-0.5, False), (-1, True)]
)
async def test_search_for_orphans_of_others_is_due_once_a_second(
    site: Site, seconds: float, is_due: bool
) -> None:
    await settled(site)
    one, other = await site.holder(), await site.holder()
    site.set("generation", reaped_at=site.clock.now - seconds)
    assert not await has_orphans(site, one, "other"), "there are none at all"
    (permit,) = await take_all(other, await begin(other, "b", 1))
    await other.abandon(permit)
    site.set("generation", reaped_at=site.clock.now - seconds)
    assert await has_orphans(site, one, "other") is is_due
    with site.server.client as client:
        client.hdel(site.key("generation"), "reaped_at")
    assert await has_orphans(site, one, "other"), "nobody has searched"
