"""The allowance of the journal on Redis to the byte: what counts, makes room, or is refused."""

import pytest

from backends.conftest import Site
from backends.steps import begin, failed, finish, take_all
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.batches.journal import IdempotencyKey
from replicate_mcp.errors import JournalFull

DAY = 86_400
KEY_BYTES = 512


def counted(site: Site, field: str) -> int:
    """Return the bytes of a state, or of a batch with `b:` before its id."""
    return int(site.get("bytes:acme", field) or 0)


def used(site: Site) -> int:
    return sum(counted(site, state) for state in ("running", "ended", "forgotten"))


async def ended(site: Site, backend: RedisBackend, batch: str, *, key: str | None = None) -> None:
    """Open and end a batch of one task, a second before the next."""
    await begin(backend, batch, 1, key=IdempotencyKey(key, "digest") if key else None)
    await backend.record_results(batch, [failed(0)])
    site.clock.now += 1


async def known(backend: RedisBackend, *batches: str) -> list[str]:
    return [batch for batch in batches if await backend.get_batch(batch) is not None]


async def size_of_a_batch(site: Site, backend: RedisBackend) -> int:
    """Return the bytes of a new batch of one task: of `b_size`, which has ended then."""
    await begin(backend, "b_size", 1)
    size = counted(site, "b:b_size")
    await backend.record_results("b_size", [failed(0)])
    site.clock.now += 1
    return size


@pytest.mark.parametrize("spare", [0, -1])
async def test_batch_that_lacks_one_byte_evicts_an_ended_one(site: Site, spare: int) -> None:
    roomy = await site.holder(limit=0)
    size = await size_of_a_batch(site, roomy)
    await ended(site, roomy, "b_1")
    tight = await site.holder(limit=0, journal_bytes=used(site) + size + spare)
    await begin(tight, "b_new", 1)
    assert await known(tight, "b_size", "b_1") == (["b_1"] if spare else ["b_size", "b_1"])


async def test_eviction_stops_once_the_batch_fits_exactly(site: Site) -> None:
    roomy = await site.holder(limit=0)
    size = await size_of_a_batch(site, roomy)
    await ended(site, roomy, "b_1")
    allowed = used(site) - counted(site, "b:b_size") + size
    tight = await site.holder(limit=0, journal_bytes=allowed)
    await begin(tight, "b_new", 1)
    assert await known(tight, "b_size", "b_1", "b_new") == ["b_1", "b_new"]
    assert used(site) == allowed


@pytest.mark.parametrize("lacking", [1, 2, 3])
async def test_batch_with_an_open_attempt_makes_no_room(site: Site, lacking: int) -> None:
    roomy = await site.holder()
    (permit,) = await take_all(roomy, await begin(roomy, "b_open", 1))
    await roomy.finish(permit, "b_open", failed(0, "p1"), ended=False)
    await begin(roomy, "b_size", 1)
    size = counted(site, "b:b_size")
    tight = await site.holder(journal_bytes=used(site) + size - lacking)
    with pytest.raises(JournalFull):
        await begin(tight, "b_new", 1)
    assert await known(tight, "b_open") == ["b_open"]
    roomy = await site.holder(journal_bytes=used(site) + size)
    await begin(roomy, "b_new", 1)


async def test_refused_batch_evicts_none(site: Site) -> None:
    roomy = await site.holder(limit=0)
    size = await size_of_a_batch(site, roomy)
    await begin(roomy, "b_runs", 1)
    tight = await site.holder(limit=0, journal_bytes=counted(site, "running") + size - 1)
    with pytest.raises(JournalFull):
        await begin(tight, "b_new", 1)
    assert await known(tight, "b_size") == ["b_size"]


async def test_idempotency_key_of_an_evicted_batch_counts_until_it_expires(site: Site) -> None:
    roomy = await site.holder(limit=0)
    size = await size_of_a_batch(site, roomy)
    await ended(site, roomy, "b_key", key="k")
    tight = await site.holder(limit=0, journal_bytes=size + KEY_BYTES)
    await begin(tight, "b_new", 1)
    assert await known(tight, "b_size", "b_key", "b_new") == ["b_new"]
    assert counted(site, "forgotten") == counted(site, "b:b_key") == KEY_BYTES
    assert used(site) == size + KEY_BYTES
    await tight.record_results("b_new", [failed(0)])
    tight = await site.holder(limit=0, journal_bytes=size + KEY_BYTES - 1)
    with pytest.raises(JournalFull):
        await begin(tight, "b_2", 1)
    assert await known(tight, "b_new") == ["b_new"], "it would not have been enough"
    site.clock.now += DAY + 1
    await begin(tight, "b_2", 1)
    assert counted(site, "forgotten") == 0


async def test_evicted_key_takes_part_of_the_room_that_its_batch_made(site: Site) -> None:
    roomy = await site.holder(limit=0)
    await ended(site, roomy, "b_key", key="k")
    size = await size_of_a_batch(site, roomy)
    await ended(site, roomy, "b_last")
    freed = counted(site, "b:b_key") - KEY_BYTES
    tight = await site.holder(limit=0, journal_bytes=used(site) + size - freed - 1)
    await begin(tight, "b_new", 1)
    assert await known(tight, "b_key", "b_size", "b_last", "b_new") == ["b_last", "b_new"]


async def test_batch_that_lacks_a_byte_beside_a_key_evicts_an_ended_one(site: Site) -> None:
    roomy = await site.holder(limit=0)
    await ended(site, roomy, "b_key", key="k")
    size = await size_of_a_batch(site, roomy)
    tight = await site.holder(limit=0, journal_bytes=used(site) + KEY_BYTES)
    await begin(tight, "b_1", 1)
    assert await known(tight, "b_key", "b_size") == ["b_size"]
    assert counted(site, "forgotten") == KEY_BYTES
    await roomy.record_results("b_1", [failed(0)])
    tight = await site.holder(limit=0, journal_bytes=used(site) + size - 1)
    await begin(tight, "b_2", 1)
    assert await known(tight, "b_size", "b_1", "b_2") == ["b_1", "b_2"]


async def test_evicted_batch_leaves_the_list_of_its_caller(site: Site) -> None:
    roomy = await site.holder(limit=0)
    size = await size_of_a_batch(site, roomy)
    await ended(site, roomy, "b_key", key="k")
    tight = await site.holder(limit=0, journal_bytes=size + KEY_BYTES)
    await begin(tight, "b_new", 1)
    with site.server.client as client:
        assert client.zrange(site.key("caller:server"), 0, -1) == ["b_new"]


@pytest.mark.parametrize("over", [0, 1])
async def test_results_over_the_allowance_evict_an_ended_batch(site: Site, over: int) -> None:
    roomy = await site.holder(limit=0)
    await size_of_a_batch(site, roomy)
    await begin(roomy, "b_runs", 2)
    before = counted(site, "b:b_runs")
    await roomy.record_results("b_runs", [failed(0)])
    row = counted(site, "b:b_runs") - before
    tight = await site.holder(limit=0, journal_bytes=used(site) + row - over)
    await tight.record_results("b_runs", [failed(1)], waited=False)
    assert await known(tight, "b_size") == ([] if over else ["b_size"])
    assert await known(tight, "b_runs") == ["b_runs"]


async def test_results_over_the_allowance_count_no_expired_key(site: Site) -> None:
    roomy = await site.holder(limit=0)
    await ended(site, roomy, "b_key", key="k")
    tight = await site.holder(limit=0, journal_bytes=used(site) + 2 * KEY_BYTES)
    await begin(tight, "b_runs", 2)
    assert counted(site, "forgotten") == KEY_BYTES
    site.clock.now += DAY / 2
    await ended(site, roomy, "b_1")
    site.clock.now += DAY / 2
    tight = await site.holder(limit=0, journal_bytes=used(site))
    await tight.record_results("b_runs", [failed(0)], waited=False)
    assert await known(tight, "b_1", "b_runs") == ["b_1", "b_runs"]
    assert counted(site, "forgotten") == 0


async def test_batch_restored_over_the_allowance_evicts_others(site: Site) -> None:
    one = await site.holder(limit=0)
    await ended(site, one, "b_1")
    await begin(one, "b_runs", 1)
    size = counted(site, "b:b_runs")
    site.forget("batch:b_runs", "tasks:b_runs", "running_batches:acme", "bytes:acme")
    site.set("bytes:acme", **{"b:b_1": 4_000, "ended": 4_000})
    one._server._journal_bytes = size
    one._session.invalidate()
    await one.admit()
    assert await known(one, "b_1", "b_runs") == ["b_runs"]


async def test_batch_restored_twice_is_counted_once(site: Site) -> None:
    one = await site.holder(limit=0)
    await begin(one, "b", 1)
    size = counted(site, "b:b")
    for _ in range(2):
        site.forget("batch:b", "tasks:b")
        one._session.invalidate()
        await one.admit()
        assert await known(one, "b") == ["b"]
        assert used(site) == counted(site, "b:b") == size
    await one.record_results("b", [failed(0)])
    assert counted(site, "running") == 0
    assert used(site) == counted(site, "b:b") > size


async def test_finished_attempts_count_as_results(site: Site) -> None:
    one = await site.holder()
    (permit,) = await take_all(one, await begin(one, "b", 1))
    before = counted(site, "b:b")
    await finish(one, permit, "b", failed(0, "p1"))
    assert counted(site, "ended") == counted(site, "b:b") > before
