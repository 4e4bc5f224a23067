"""What the journal keeps for a retry: inputs and repeated tasks, within the allowance."""

import pytest

from backends.conftest import Site
from backends.steps import OWN, failed
from backends.worlds import World
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.space import BATCH_BYTES
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import JournalTask, NewBatch, RetriedTasks
from replicate_mcp.errors import InvalidInput
from replicate_mcp.semaphores.permit_store import QueueEntry

INPUTS = '[3,{"seed":7}]\n[{"text":"\\u00e9"},"png",1,1]'

RETRY = RetriedTasks("b_first", (4,))

TASK = JournalTask("a fox", "fox.png", "o/m")


async def begin(backend: Backend, batch: str, inputs: str, retry: RetriedTasks | None) -> None:
    new = NewBatch(batch, "server", "acme", "replicate-global", (TASK,), inputs=inputs, retry=retry)
    await backend.open_batch(new, QueueEntry(batch, (OWN,), "acme", 1))


async def test_inputs_and_repeated_tasks_are_kept_until_the_batch_is_deleted(world: World) -> None:
    backend = await world.holder()
    await begin(backend, "b_1", INPUTS, RETRY)
    await begin(backend, "b_2", "", None)
    assert await backend.inputs("b_1") == INPUTS
    assert await backend.inputs("b_2") is None
    assert await backend.inputs("b_3") is None
    found = {each.id: each for each in await backend.list_batches(["server"])}
    assert {name: each.retry for name, each in found.items()} == {"b_1": RETRY, "b_2": None}
    assert {each.first_prompt for each in found.values()} == {"a fox"}
    state = await backend.get_batch("b_1")
    assert state is not None
    assert state.retry == RETRY
    other = await world.holder()
    assert await other.inputs("b_1") == INPUTS
    assert await backend.tasks("b_1") == [TASK]


async def test_inputs_count_against_the_accounts_allowance(world: World) -> None:
    backend = await world.holder(journal_bytes=2 * BATCH_BYTES + 3_000)
    with pytest.raises(InvalidInput, match=r"takes 0\.1 MiB in the journal"):
        await begin(backend, "b_large", "x" * (BATCH_BYTES + 3_000), None)
    await begin(backend, "b_1", "x" * 2_000, RETRY)
    await backend.record_results("b_1", [failed(0)])
    # Without the inputs, both would fit.
    await begin(backend, "b_2", "x" * 2_000, RETRY)
    assert [each.id for each in await backend.list_batches(["server"])] == ["b_2"]
    assert await backend.inputs("b_1") is None


async def test_lost_batch_is_restored_with_its_inputs(site: Site) -> None:
    one = await site.holder()
    await begin(one, "b_1", INPUTS, RETRY)
    site.forget()
    await one.admit()
    assert await one.inputs("b_1") == INPUTS
    state = await one.get_batch("b_1")
    assert state is not None
    assert state.retry == RETRY
    assert isinstance(one, RedisBackend)
    assert site.ttl("inputs:b_1") == pytest.approx(site.ttl("tasks:b_1"), abs=5)
