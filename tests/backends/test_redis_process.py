"""A process on a Redis server as a whole: its label, its lease while it runs, and its warnings."""

import anyio

from backends.conftest import Fleet, Site, until
from backends.steps import OWN, begin
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.semaphores.permit_store import HolderUsage


async def test_process_without_a_label_is_listed_without_one(site: Site) -> None:
    one = await RedisBackend.open(site.server.url(site.prefix, lease=60), clock=site.clock)
    site.open.append(one)
    await one.declare_limit(OWN, 3, per_minute=60_000)
    await begin(one, "b", 1)
    assert await one.usage_by_holder() == [HolderUsage("", OWN, in_use=1, waiting=0)]


async def test_semaphores_on_a_server_are_those_of_the_fleet(site: Site) -> None:
    assert (await site.holder()).scope == "fleet"


async def test_server_that_forgets_on_restart_is_warned_of(site: Site) -> None:
    (warning,) = await (await site.holder()).config_warnings()
    assert "append-only file" in warning


async def test_running_process_renews_its_lease(fleet: Fleet) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=0.2))
    with fleet.server.client as client:

        def ends_at() -> float:
            found = client.zscore(fleet.key("leases"), one._session.holder)
            assert found is not None
            return float(found)

        before = ends_at()

        async def renewed() -> bool:
            return ends_at() > before

        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            await until(renewed)
            group.cancel_scope.cancel()
    await one.close()
