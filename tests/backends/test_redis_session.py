"""A process's session with Redis: contact that is unbroken, lost, renewed, or rejected."""

import dataclasses
import logging

import anyio
import pytest

from backends.conftest import Site
from backends.steps import begin, failed
from backends.test_redis_mirror import add
from replicate_mcp.backends.redis.connection import Address, RedisConnection
from replicate_mcp.backends.redis.encoding import encode_row
from replicate_mcp.backends.redis.mirror import ENDED_BATCH_TTL_SECONDS, Mirror
from replicate_mcp.backends.redis.session import Session
from replicate_mcp.errors import BackendUnavailable


class Own:
    """A process's own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at(url: str, lease: float) -> RedisConnection:
    return RedisConnection(dataclasses.replace(Address.parse(url), lease=lease))


async def test_session_counts_as_connected_after_a_lease_without_gaps(site: Site) -> None:
    clock = Own()
    server = at(site.server.url(site.prefix), 60.0)
    membership = Session(server, Mirror(), "label", clock)
    found = [membership.is_connected_for_a_lease]
    # The lease is renewed at each of these times; contact is checked before and after.
    for clock.now in (100.0, 159.5, 160.0, 220.0, 280.5, 340.0, 340.5):
        found.append(membership.is_connected_for_a_lease)
        await membership.renew()
        found.append(membership.is_connected_for_a_lease)
    assert found == [
        False,
        False, False,
        False, False,
        True, True,
        True, True,
        True, False,
        False, False,
        True, True,
    ]  # fmt: skip
    await server.close()


async def test_failed_call_interrupts_the_contact(site: Site) -> None:
    clock = Own()
    server = at(site.server.url(site.prefix), 60.0)
    membership = Session(server, Mirror(), "label", clock)
    await membership.renew()
    clock.now = 60.0
    assert membership.is_connected_for_a_lease
    with pytest.raises(BackendUnavailable):
        await membership.call("no such step")
    await membership.renew()
    assert not membership.is_connected_for_a_lease
    clock.now = 120.0
    assert membership.is_connected_for_a_lease
    with pytest.raises(BackendUnavailable):
        await membership.read("no such step")
    await membership.read("semaphores", reasons={})
    assert not membership.is_connected_for_a_lease
    await server.close()


@pytest.mark.parametrize("kind", ["step", "read"])
async def test_server_that_repeatedly_loses_the_session_raises_an_error(
    site: Site, kind: str
) -> None:
    server = at(site.server.url(site.prefix), 0.0)
    membership = Session(server, Mirror(), "label")
    with (
        anyio.fail_after(10),
        pytest.raises(BackendUnavailable, match="forgets this process again and again: its memory"),
    ):
        await (
            membership.call("set_rate") if kind == "step" else membership.read("usage_by_holder")
        )
    await server.close()


async def test_lease_renewal_continues_while_the_server_is_unreachable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    server = at("redis://127.0.0.1:1/0", 0.03)
    membership = Session(server, Mirror(), "label")
    with anyio.move_on_after(5) as tried:
        async with anyio.create_task_group() as group:
            group.start_soon(membership.renew_lease)
            while len(caplog.messages) < 3:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
    assert not tried.cancelled_caught
    assert all("cannot be used" in message for message in caplog.messages)
    await server.close()


@pytest.mark.parametrize("results", [0, 1, 199, 200, 201, 405])
async def test_resync_rewrites_any_number_of_results(site: Site, results: int) -> None:
    one = await site.holder()
    await begin(one, "b", 410)
    for start in range(0, results, 200):
        await one.record_results(
            "b", [failed(task) for task in range(start, min(start + 200, results))]
        )
    site.forget()
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.total, batch.failed) == (410, results)
    assert [row.task_index for row in await one.results("b")] == [*range(results)]
    assert site.get("batch:b", "generation") == site.get("generation", "id")
    # State is lost again, except for the batch itself.
    site.forget("results:b", "permits")
    with site.server.client as client:
        client.hdel(site.key("batch:b"), *(f"t{task}" for task in range(410)))
        client.hset(site.key("batch:b"), mapping={"failed": "0", "generation": "1"})
    await one.admit()
    assert [row.task_index for row in await one.results("b")] == [*range(results)]
    assert site.get("batch:b", "generation") == site.get("generation", "id")
    assert site.get("batch:b", "failed") == str(results)


async def test_state_loss_is_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    one = await site.holder()
    assert caplog.messages == []
    site.forget("permits")
    await one.admit()
    one._session.invalidate()
    await one.admit()
    assert len(caplog.messages) == 1
    assert "lost its state or was restarted" in caplog.messages[0]
    assert "nothing is started for 60 s" in caplog.messages[0]


async def test_renewal_drops_ended_batches_from_the_mirror_after_an_hour(site: Site) -> None:
    clock = Own()
    server, mirror = at(site.server.url(site.prefix), 60.0), Mirror(clock)
    add(mirror, "b")
    mirror.add_results("b", [encode_row(failed(0))])
    membership = Session(server, mirror, "label")
    await membership.renew()
    assert list(mirror.batches) == ["b"]
    clock.now += ENDED_BATCH_TTL_SECONDS + 1
    await membership.renew()
    assert mirror.batches == {}
    await server.close()
