"""Exact size bounds of the journal and the cache in Redis, and large reads."""

import json
from typing import Any

import pytest
from redis import Redis

from backends.conftest import Site
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.errors import JournalFull
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import QueueEntry

DAY = 86_400

TASK = len(json.dumps({"prompt": "prompt 0", "output_filename": "0.png", "model": "o/m"}))
BATCH = 2_048 + TASK
RESULT = len(failed(0).model_dump_json(exclude_none=True))


async def batch_ids(backend: RedisBackend, caller: str = "server") -> list[str]:
    return sorted(batch.id for batch in await backend.list_batches([caller]))


def packed(site: Site) -> Redis:
    """Return a client for packed records, which are not text."""
    return Redis(port=site.server.port)


# Batches.


async def test_journal_quota_is_exact_for_batches(site: Site) -> None:
    roomy = await site.holder(journal_bytes=2 * BATCH)
    await begin(roomy, "b1", 1)
    tight = await site.holder(journal_bytes=2 * BATCH - 1)
    with pytest.raises(JournalFull):
        await begin(tight, "b2", 1)
    await begin(roomy, "b2", 1)
    with pytest.raises(JournalFull):
        await begin(roomy, "b3", 1)
    assert await batch_ids(roomy) == ["b1", "b2"]
    await roomy.declare_limit(account_semaphore("other"), 3, per_minute=600)
    await begin(roomy, "theirs", 1, account="other")


async def test_results_count_towards_the_quota_and_evict_the_oldest_ended_batches(
    site: Site,
) -> None:
    one = await site.holder(journal_bytes=3 * BATCH + 2 * RESULT)
    for name in ("b1", "b2"):
        await begin(one, name, 1)
        await one.record_results(name, [failed(0)])
        site.clock.now += 1
    await begin(one, "b3", 1)
    assert await batch_ids(one) == ["b1", "b2", "b3"], "it fits exactly"
    await one.record_results("b3", [failed(0)])
    assert await batch_ids(one) == ["b2", "b3"], "its result has pushed out the oldest"
    await begin(one, "b4", 1)
    assert await batch_ids(one) == ["b2", "b3", "b4"]
    await begin(one, "b5", 1)
    await begin(one, "b6", 1)
    assert await batch_ids(one) == ["b4", "b5", "b6"]
    with pytest.raises(JournalFull):
        await begin(one, "b7", 1)
    assert await batch_ids(one) == ["b4", "b5", "b6"]


async def test_call_does_not_evict_its_own_data(site: Site) -> None:
    one = await site.holder(journal_bytes=2 * BATCH)
    await begin(one, "old", 1)
    await one.record_results("old", [failed(0)])
    await begin(one, "young", 1)
    assert await batch_ids(one) == ["young"], "the result of the old one takes room, too"
    await one.record_results("young", [failed(0).model_copy(update={"error": "x" * 9_000})])
    assert await batch_ids(one) == ["young"]
    await begin(one, "b", 1)
    assert await batch_ids(one) == ["b"]


async def test_batch_with_an_open_attempt_is_not_evicted(site: Site) -> None:
    one = await site.holder(journal_bytes=3 * (BATCH + RESULT))
    (permit,) = await take_all(one, await begin(one, "followed", 1))
    await one.record_results("followed", [failed(0)], waited=False)
    for name in ("b1", "b2", "b3"):
        site.clock.now += 1
        await begin(one, name, 1)
        await one.record_results(name, [failed(0)])
    assert await batch_ids(one) == ["b2", "b3", "followed"]
    await finish(one, permit, "followed", failed(0))
    await begin(one, "b4", 1)
    assert await batch_ids(one) == ["b2", "b3", "b4"]


async def test_idempotency_key_of_an_evicted_batch_counts_for_a_day(site: Site) -> None:
    one = await site.holder(journal_bytes=BATCH + RESULT + 512)
    begun_at = site.clock.now
    await begin(one, "b1", 1, key=IdempotencyKey("k 1", "d 1"))
    site.clock.now += 100
    await one.record_results("b1", [failed(0)])
    site.clock.now += 100
    await begin(one, "b2", 1)
    assert await batch_ids(one) == ["b2"]
    assert DAY - 101 < site.ttl("request:server:k 1") <= DAY - 99
    await one.record_results("b2", [failed(0)])
    await begin(one, "b3", 1)
    await one.record_results("b3", [failed(0)])
    assert await batch_ids(one) == ["b3"]
    tight = await site.holder(journal_bytes=BATCH + 511)
    with pytest.raises(JournalFull):
        await begin(tight, "b4", 1)
    with pytest.raises(IdempotencyKeyExists) as taken:
        await one.check_idempotency_key("server", "k 1")
    assert (taken.value.batch_id, taken.value.digest) == ("b1", "d 1")
    site.clock.now = begun_at + 100 + DAY - 1
    with pytest.raises(IdempotencyKeyExists):
        await one.check_idempotency_key("server", "k 1")
    site.clock.now += 1
    await one.check_idempotency_key("server", "k 1")
    await begin(tight, "b4", 1)


async def test_idempotency_key_of_another_batch_is_unchanged_by_eviction(site: Site) -> None:
    """Open another batch under the key of `b1`, which was lost without its key."""
    one = await site.holder(journal_bytes=2 * BATCH)
    await begin(one, "b1", 1, key=IdempotencyKey("k", "d1"))
    await one.record_results("b1", [failed(0)])
    with site.server.client as client:
        client.set(site.key("request:server:k"), "another d2")
    await begin(one, "b2", 1)
    with site.server.client as client:
        assert client.get(site.key("request:server:k")) == "another d2"
        assert client.hget(site.key("bytes:acme"), "forgotten") is None


@pytest.mark.parametrize("count", [3, 1_000, 2_003])
async def test_expired_data_does_not_count_towards_the_quota(site: Site, count: int) -> None:
    one = await site.holder(journal_bytes=BATCH)
    for name, at in (("ended", -1.0), ("running", 0.0), ("forgotten", -5.0)):
        with site.server.client as client:
            batches = [f"{name}{number}" for number in range(count)]
            expires = site.clock.now + at
            client.zadd(site.key(f"{name}_batches:acme"), dict.fromkeys(batches, expires))
            sizes: dict[str, Any] = {f"b:{batch}": 10 for batch in batches}
            client.hset(site.key("bytes:acme"), mapping={**sizes, name: 10 * count})
    await begin(one, "b", 1)
    with site.server.client as client:
        assert client.hgetall(site.key("bytes:acme")) == {
            "b:b": str(BATCH), "running": str(BATCH),
        }  # fmt: skip
        for name, expected in (("ended", []), ("running", ["b"]), ("forgotten", [])):
            assert client.zrange(site.key(f"{name}_batches:acme"), 0, -1) == expected


async def test_unexpired_data_counts_towards_the_quota(site: Site) -> None:
    one = await site.holder(journal_bytes=2 * BATCH)
    await begin(one, "b1", 1)
    site.clock.now += 2 * DAY - 1
    await begin(one, "b2", 1)
    with pytest.raises(JournalFull):
        await begin(one, "b3", 1)
    site.clock.now += 1
    await begin(one, "b3", 1)
    await one.record_results("b2", [failed(0)])
    await one.record_results("b3", [failed(0)])
    assert await batch_ids(one) == ["b3"], "b2 has made room for the results"
    site.clock.now += DAY
    await begin(one, "b4", 1)
    with site.server.client as client:
        assert client.hgetall(site.key("bytes:acme")) == {
            "b:b4": str(BATCH), "running": str(BATCH),
        }  # fmt: skip


async def test_batch_with_lost_size_continues_without_counting(site: Site) -> None:
    one = await site.holder(journal_bytes=2 * BATCH)
    await begin(one, "b1", 1)
    site.forget("bytes:acme")
    await one.record_results("b1", [failed(0)])
    batch = await one.get_batch("b1")
    assert batch is not None
    assert batch.status == "completed"
    await begin(one, "b2", 1)
    await begin(one, "b3", 1)
    assert await batch_ids(one) == ["b1", "b2", "b3"]


async def test_journal_index_keys_expire_after_two_days(site: Site) -> None:
    one = await site.holder(journal_bytes=9 * BATCH)
    await begin(one, "b1", 1)
    await begin(one, "b2", 1)
    await one.record_results("b2", [failed(0)])
    for key in ("bytes:acme", "running_batches:acme", "ended_batches:acme"):
        assert DAY < site.ttl(key) <= 2 * DAY, key
    with site.server.client as client:
        assert client.hgetall(site.key("bytes:acme")) == {
            "b:b1": str(BATCH), "b:b2": str(BATCH + RESULT), "running": str(BATCH),
            "ended": str(BATCH + RESULT),
        }  # fmt: skip
        expires = client.zrange(site.key("ended_batches:acme"), 0, -1, withscores=True)
        assert expires == [("b2", site.clock.now + DAY)]
        expires = client.zrange(site.key("running_batches:acme"), 0, -1, withscores=True)
        assert expires == [("b1", site.clock.now + 2 * DAY)]


# Cached responses of Replicate.


async def remember(
    backend: RedisBackend, key: str, size: int, *, seconds: float = 100, value: str = "v"
) -> None:
    await backend._session.read(
        "set_cached", key=key, value=value, seconds=seconds, size=size, max_bytes=1_000
    )


async def recalled(backend: RedisBackend, keys: str) -> str:
    return "".join([key for key in keys if await backend.get_cached(key) is not None])


async def test_cache_quota_is_exact_and_the_oldest_values_are_evicted(site: Site) -> None:
    one = await site.holder()
    for key, size in (("a", 400), ("b", 400), ("c", 200)):
        await remember(one, key, size)
    assert await recalled(one, "abc") == "abc"
    await remember(one, "d", 1)
    assert await recalled(one, "abcd") == "bcd"
    await remember(one, "b", 399, value="new value")
    assert await one.get_cached("b") == "new value"
    await remember(one, "e", 400)
    assert await recalled(one, "bcde") == "bcde"
    await remember(one, "f", 1)
    assert await recalled(one, "bcdef") == "bdef", "c is the oldest: b was written again"
    await remember(one, "g", 1_000)
    assert await recalled(one, "bdefg") == "g"
    with site.server.client as client:
        assert client.hgetall(site.key("memos")) == {"m:g": "1000", "all": "1000"}


async def test_expired_cached_values_do_not_count(site: Site) -> None:
    one = await site.holder()
    await remember(one, "a", 500, seconds=200)
    await remember(one, "b", 500, seconds=99.5)
    assert 99 < site.ttl("memo:b") <= 99.5
    site.clock.now += 99.25
    assert await recalled(one, "ab") == "ab"
    site.clock.now += 0.25
    assert await recalled(one, "ab") == "a", "its time is over, to the moment"
    await remember(one, "c", 500)
    assert await recalled(one, "abc") == "ac"
    with site.server.client as client:
        assert client.hgetall(site.key("memos")) == {"m:a": "500", "m:c": "500", "all": "1000"}
        assert client.zrange(site.key("memos_expire"), 0, -1) == ["c", "a"]
        assert sorted(client.zrange(site.key("memos_written"), 0, -1)) == ["a", "c"]
        assert client.exists(site.key("memo:b")) == 0


async def test_cached_values_with_lost_index_are_counted_from_zero(site: Site) -> None:
    one = await site.holder()
    await remember(one, "a", 900)
    site.forget("memos_written", "memos_expire")
    await remember(one, "b", 900)
    assert await recalled(one, "ab") == "ab"
    site.forget("memos")
    await remember(one, "c", 900)
    assert await recalled(one, "bc") == "bc"
    await remember(one, "d", 900)
    assert await recalled(one, "bcd") == "d"


async def test_cached_value_is_returned_unchanged(site: Site) -> None:
    one = await site.holder()
    value = '  {"a": "b c"}\n\n with blanks '
    await one.set_cached("key with blanks", value, seconds=10)
    assert await one.get_cached("key with blanks") == value
    await one.set_cached("empty", "", seconds=10)
    assert await one.get_cached("empty") == ""
    assert await one.get_cached("unknown") is None


# Large queues.


@pytest.mark.parametrize("count", [999, 1_000, 1_001, 2_001])
async def test_all_waiting_entries_are_read(site: Site, count: int) -> None:
    one = await site.holder()
    await one.register("team", 1)
    (offer,) = (await one.enqueue(QueueEntry("c", ("team",), None, 2))).offers
    with packed(site) as client:
        record = client.hget(site.key("entries"), "c")
        assert isinstance(record, bytes)
        names = [f"c{number}" for number in range(count - 1)]
        client.hset(site.key("entries"), mapping=dict.fromkeys(names, record))
        client.zadd(site.key("queue"), {name: 10 + place for place, name in enumerate(names)})
    admission = await one.resize("team", 3_000)
    assert {each.entry for each in admission.offers} == {"c", *names}
    assert len(admission.offers) == 1 + count
    assert offer in admission.offers


# Recorded data.


async def test_unknown_batch_or_key_is_absent_in_every_read(site: Site) -> None:
    one = await site.holder()
    assert await one.get_batch("unknown") is None
    assert await one.tasks("unknown") == []
    assert await one.results("unknown") == []
    await one.check_idempotency_key("server", "unknown")
    await one.record_results("unknown", [failed(0)])
    await one.cancel_batch("unknown")
    assert await one.get_batch("unknown") is None
    with site.server.client as client:
        assert client.keys(site.key("batch:*")) == []


async def test_batch_list_respects_its_limit(site: Site) -> None:
    one = await site.holder(limit=0)
    for number in range(5):
        await begin(one, f"b{number}", 1, caller="token:x" if number == 2 else "server")
        site.clock.now += 1
    listed = await one.list_batches(["server", "token:x"], limit=3)
    assert [batch.id for batch in listed] == ["b4", "b3", "b2"]
    assert [batch.first_prompt for batch in listed] == ["prompt 0"] * 3
    assert [batch.id for batch in await one.list_batches(["token:x"])] == ["b2"]
    assert [batch.id for batch in await one.list_batches(["server"], limit=1)] == ["b4"]
    assert await one.list_batches(["unknown"]) == []
    with site.server.client as client:
        client.delete(site.key("batch:b4"))
    assert [batch.id for batch in await one.list_batches(["server"])] == ["b3", "b1", "b0"]


async def test_results_are_read_by_offset_and_limit(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b", 5)
    await one.record_results("b", [failed(task) for task in (3, 1, 4, 0)])

    async def read(after: int, limit: int | None) -> list[int]:
        return [row.task_index for row in await one.results("b", after=after, limit=limit)]

    assert await read(0, None) == [3, 1, 4, 0]
    assert await read(1, 2) == [1, 4]
    assert await read(0, 1) == [3]
    assert await read(3, 9) == [0]
    assert await read(4, None) == []
    assert await read(0, 0) == []


async def test_times_keep_full_precision(site: Site) -> None:
    one = await site.holder()
    site.clock.now = 1_000_000.123456789
    (permit,) = await take_all(one, await begin(one, "b", 1))
    site.clock.now = 1_000_007.000000321
    await finish(one, permit, "b", failed(0))
    batch = await one.get_batch("b")
    assert batch is not None
    assert (batch.created_at, batch.ended_at) == (1_000_000.123456789, 1_000_007.000000321)
    assert (batch.caller, batch.account, batch.semaphore) == ("server", "acme", "replicate-global")
    assert (batch.total, batch.succeeded, batch.failed, batch.canceled) == (1, 0, 1, False)


async def test_daily_image_count_expires_two_days_after_its_first_use(site: Site) -> None:
    one = await site.holder()
    (first, second) = (await begin(one, "b", 2)).offers
    day = int(site.clock.now // DAY)
    await one.record_attempts({first.permit: attempt("b", 0, images=5)}, images_per_day=9)
    assert DAY < site.ttl(f"images:acme:{day}") <= 2 * DAY
    recorded = await one.record_attempts(
        {second.permit: attempt("b", 1, images=4)}, images_per_day=9
    )
    assert len(recorded.cancel_after) == 1, "nine fit exactly"
    (third,) = (await begin(one, "b2", 1)).offers
    recorded = await one.record_attempts({third.permit: attempt("b2", 0)}, images_per_day=9)
    assert recorded.cancel_after == {}
    assert recorded.quota_resets_in == pytest.approx((day + 1) * DAY - site.clock.now)
    await one.requeue(second.permit)
    with site.server.client as client:
        assert client.get(site.key(f"images:acme:{day}")) == "5"
    assert await state(one) == (3, 0), "what was put back is offered again"
    assert OWN in {each.name for each in await one.semaphores()}
