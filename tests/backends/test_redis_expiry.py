"""Expiry of Redis keys, and what a process resyncs; the tests set the stored state by hand."""

import anyio
import pytest

from backends.conftest import Fleet, until
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.attempt_store import RunningPrediction
from replicate_mcp.batches.journal import IdempotencyKey
from replicate_mcp.semaphores.adaptive_rate import Throttling

DAY = 86_400


def now(fleet: Fleet) -> float:
    with fleet.server.client as client:
        seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def ttl(fleet: Fleet, key: str) -> float:
    with fleet.server.client as client:
        return int(client.pttl(fleet.key(key))) / 1000


def add(fleet: Fleet, key: str, scores: dict[str, float]) -> None:
    with fleet.server.client as client:
        client.zadd(fleet.key(key), scores)


def members(fleet: Fleet, key: str) -> set[str]:
    with fleet.server.client as client:
        return set(client.zrange(fleet.key(key), 0, -1))


def forget_everything(fleet: Fleet) -> None:
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))


async def test_batch_keys_expire_after_two_days_while_running_and_one_day_after_its_end(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    await begin(one, "b", 2, key=IdempotencyKey("k", "d"))
    await one.record_results("b", [failed(0)])
    keys = ("batch:b", "tasks:b", "results:b", "request:server:k")
    for key in keys:
        assert DAY < ttl(fleet, key) <= 2 * DAY, key
    assert DAY < ttl(fleet, "caller:server") <= 2 * DAY
    await one.record_results("b", [failed(1)])
    for key in keys:
        assert DAY - 60 < ttl(fleet, key) <= DAY, key


async def test_batch_list_of_a_caller_drops_entries_older_than_two_days(fleet: Fleet) -> None:
    one = await fleet.holder()
    at = now(fleet)
    add(fleet, "caller:server", {"old": at - 2 * DAY - 9, "young": at - 2 * DAY + 60})
    await begin(one, "b", 1)
    assert members(fleet, "caller:server") == {"young", "b"}
    assert [each.id for each in await one.list_batches(["server"])] == ["b"]


async def test_prediction_ids_are_listed_for_two_hours_and_kept_for_a_day(fleet: Fleet) -> None:
    one = await fleet.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    at = now(fleet)
    ages = {"young": 7_190, "older": 7_210, "old": DAY - 60, "gone": DAY + 60}
    add(fleet, "predictions:acme", {name: (at - age) * 1e6 for name, age in ages.items()})
    add(
        fleet,
        "predictions:acme",
        {"entered": -(at - DAY - 60) * 1e6, "entered recently": -at * 1e6},
    )
    assert await one.list_prediction_ids("acme") == {"young"}
    assert await one.claim_prediction(permit, "b", "p1")
    assert members(fleet, "predictions:acme") == {
        "young", "older", "old", "entered recently", "p1",
    }  # fmt: skip
    assert DAY < ttl(fleet, "predictions:acme") <= 2 * DAY


async def test_lost_rate_restarts_at_the_declared_rate(fleet: Fleet) -> None:
    one = await fleet.holder(limit=99, per_minute=6)
    await begin(one, "b1", 9)
    await one.dequeue("b1")
    fleet.forget("rates")
    (account,) = await one.semaphores()
    assert account.requests_per_minute == 6
    assert len((await begin(one, "b", 9)).offers) == 5


async def test_resync_does_not_restore_an_older_rate(
    fleet: Fleet,
) -> None:
    one, two = await fleet.holder(limit=9), await fleet.holder(limit=9)
    async with one._session.lock() as turn:
        await turn.renew()
    (permit,) = await take_all(two, await begin(two, "b", 1))
    await two.requeue(permit, Throttling(retry_after=60, per_minute=6, burst=1))
    fleet.stop(one)
    one._session.invalidate()
    await one.declare_limit(OWN, 9, per_minute=60_000)
    (account,) = await one.semaphores()
    assert account.requests_per_minute == pytest.approx(5.4)


async def test_resync_raises_daily_image_count_but_never_lowers_it(fleet: Fleet) -> None:
    one = await fleet.holder(limit=9)
    (first,) = (await begin(one, "b", 1)).offers
    await one.record_attempts({first.permit: attempt("b", 0, images=4)}, images_per_day=9)
    async with one._session.lock() as turn:
        await turn.renew()
    day = int(now(fleet) // DAY)
    forget_everything(fleet)
    fleet.stop(one)
    await one.semaphores()
    with fleet.server.client as client:
        assert client.get(fleet.key(f"images:acme:{day}")) == "4"
        client.set(fleet.key(f"images:acme:{day}"), "7")
    one._session.invalidate()
    await one.semaphores()
    with fleet.server.client as client:
        assert client.get(fleet.key(f"images:acme:{day}")) == "7"
    fleet.go_on(one)


async def test_unclaimed_imported_prediction_expires_after_its_deadline(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    fleet.forget("permits")
    await until(lambda: one.has_lost_state("acme"))
    await one.import_running("acme", [RunningPrediction("p1", "o/m", 0.3)])
    assert len(await one.orphans("acme")) == 1

    async def is_gone() -> bool:
        return not await one.orphans("acme")

    await until(is_gone)
    assert await state(one) == (0, 0)


async def test_over_a_thousand_waiting_batches_all_receive_offers(fleet: Fleet) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=600))
    await one.declare_limit(OWN, 1, per_minute=600_000)
    (permit,) = await take_all(one, await begin(one, "first", 1))
    async with anyio.create_task_group() as group:
        for number in range(1_003):
            group.start_soon(begin, one, f"b{number}", 1)
    admission = await one.resize(OWN, 1_500)
    assert {offer.entry for offer in admission.offers} == {f"b{number}" for number in range(1_003)}
    await finish(one, permit, "first", failed(0, "p1"))
    await one.close()
