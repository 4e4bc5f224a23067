"""Redis memory used by the journal, after repeated resyncs and after a loss of state."""

import pytest

from backends.conftest import Fleet, until
from backends.steps import begin, failed
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.redis.mirror import MAX_ENDED_BATCH_BYTES
from replicate_mcp.errors import BackendUnavailable, JournalFull

MIB = 1024**2


async def make(backend: RedisBackend, *batches: str) -> None:
    """Open and end batches of 1 MiB each."""
    for batch in batches:
        await begin(backend, batch, 1, prompt="x" * MIB)
        await backend.record_results(batch, [failed(0)])


async def is_known(backend: RedisBackend, batch: str) -> bool:
    try:
        return await backend.get_batch(batch) is not None
    except BackendUnavailable:
        return False


def lose_everything(fleet: Fleet) -> None:
    with fleet.server.client as client:
        client.delete(*client.keys(fleet.key("*")))


async def test_evicted_batch_is_not_restored_by_resync(fleet: Fleet) -> None:
    one = await fleet.holder(journal_bytes=2 * MIB)
    await make(one, "b1", "b2")
    await one.record_results("b1", [failed(0)])
    assert not await is_known(one, "b1")
    one._session.invalidate()
    await one.admit()
    assert not await is_known(one, "b1")
    assert len(await one.tasks("b2")) == 1


async def test_resynced_batches_are_counted_and_never_rejected(fleet: Fleet) -> None:
    one = await fleet.holder(journal_bytes=3 * MIB)
    await make(one, "b1", "b2")
    await begin(one, "runs", 1, prompt="x" * MIB)
    lose_everything(fleet)
    await until(lambda: is_known(one, "runs"))
    assert not await is_known(one, "b1"), "the oldest has made room"
    with pytest.raises(JournalFull):
        await begin(one, "b3", 1, prompt="x" * (2 * MIB))
    await begin(one, "b3", 1, prompt="x" * (MIB // 2))


async def test_mirror_restores_only_a_few_megabytes_of_ended_batches(
    fleet: Fleet,
) -> None:
    one = await fleet.holder()
    most = MAX_ENDED_BATCH_BYTES // MIB
    await make(one, *[f"b{number}" for number in range(most + 4)])
    lose_everything(fleet)
    await until(lambda: is_known(one, f"b{most + 3}"))
    known = [batch.id for batch in await one.list_batches(["server"])]
    assert most - 2 <= len(known) <= most
    assert "b0" not in known


async def test_expired_batches_and_cache_values_leave_no_keys(fleet: Fleet) -> None:
    """Check that batches and cached values leave no keys once they have expired."""
    one = await fleet.holder(journal_bytes=2 * MIB)
    await make(one, "b1", "b2")
    await begin(one, "runs", 1)
    with fleet.server.client as client:
        kept = [key for key in client.keys(fleet.key("*")) if "batch" in key or "bytes" in key]
        assert len(kept) >= 4
        assert [key for key in kept if not 0 < client.ttl(key) <= 2 * 86_400] == []


async def test_journal_quota_approximates_redis_memory_use(fleet: Fleet) -> None:
    """Use batches of one short task, which have the largest overhead."""
    one = await fleet.holder(journal_bytes=MIB)
    with fleet.server.client as client:
        before = client.info("memory")["used_memory"]
        for number in range(800):
            await begin(one, f"b_{number:016x}", 1)
            await one.record_results(f"b_{number:016x}", [failed(0)])
        taken = client.info("memory")["used_memory"] - before
    assert len(await one.list_batches(["server"], limit=1_000)) < 800
    assert taken < 1.5 * MIB


async def test_lost_batch_written_again_is_counted_once(fleet: Fleet) -> None:
    one = await fleet.holder(journal_bytes=3 * MIB)
    await begin(one, "runs", 2, prompt="x" * (MIB // 2))
    fleet.forget("batch:runs", "tasks:runs")
    await one.record_results("runs", [failed(0)])
    assert await is_known(one, "runs")
    await begin(one, "b", 1, prompt="x" * (MIB * 3 // 2))
    await one.record_results("runs", [failed(1)])
    await one.record_results("b", [failed(0)])
    assert await is_known(one, "runs")
