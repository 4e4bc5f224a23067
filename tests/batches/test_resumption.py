"""What the journal has of a batch, from which another process resumes it."""

from dataclasses import replace
from typing import Any, cast

import anyio

from batches.direct import ACCOUNT, MODEL, Replicate, refused, running_process, task
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.journal import JournalTask, TakenOver
from replicate_mcp.batches.journal_inputs import decode_inputs, encode_inputs
from replicate_mcp.batches.resumption import RecordedTasks
from replicate_mcp.replicate_api.gateway import Target
from replicate_mcp.replicate_api.model_resolver import Model, ModelResolver
from replicate_mcp.tasks.model_name import ModelName

GONE = "nobody/gone"


class Models:
    async def find(self, name: ModelName, *_: Any) -> Model | None:
        return None if str(name) == GONE else Model(Target(name, "v1"), None)


async def test_tasks_are_planned_as_they_were_and_those_that_cannot_be_created_fail() -> None:
    tasks = [
        replace(task(0, seed=7), expected_count=2, complete_at_count=2),
        replace(task(1, webhook_token="x"), secrets=("webhook_token",)),
        replace(task(2), model=GONE),
        task(3),
    ]
    recorded = RecordedTasks(
        [JournalTask(each.prompt, each.output_filename, each.model) for each in tasks],
        decode_inputs(encode_inputs(tasks, max_running=None)).tasks,
    )
    models = cast(ModelResolver, Models())
    planned, failures = await recorded.plan((0, 1, 2), cast(Any, None), models, ACCOUNT)
    target = Target(ModelName.parse(MODEL), "v1")
    assert planned[0] == replace(tasks[0], target=target, seed=7)
    assert [(index, row.error_code, row.retryable) for index, row in failures.items()] == [
        (1, "interrupted", True),
        (2, "model_not_found", False),
    ]
    assert "webhook_token is a secret" in failures[1].error
    assert GONE in failures[2].error


@in_virtual_time
async def test_batch_goes_on_in_order_and_takes_back_what_turns_out_not_to_run_elsewhere() -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process(limit=1, resume="always") as process:
        batch = await process.start(replicate.gateway(), *(task(n, f"p{n}") for n in range(4)))
        await anyio.sleep(25)  # The first has ended, and the second runs.
        (permit,) = batch.creating
        resumption, entry = process.runner._resumption, await _entry(process, batch.id)
        batch.let_go()
        await anyio.sleep(0)
        await process.store.dequeue(batch.id)
        resumed = await resumption.restore(
            batch.id, TakenOver(1000, entry), replicate.gateway(), process.runner._reconciler
        )
        again = resumed.batch
        assert (again.finished, again.invalid, again.elsewhere) == (1, 1, {1})
        assert (list(resumed.unstarted), again.running) == ([2, 3], 1)
        process.runner._track(again)
        process.group.start_soon(resumption.run, resumed)
        await anyio.sleep(1)
        assert (list(again.pending), again.elsewhere) == ([2, 3], {1})
        await process.store.give_back(permit)
        await anyio.sleep(0.6)
        assert again.elsewhere == set()
        assert [*again.creating.values(), *again.pending] == [1, 2, 3]
        rows = await process.rows(again)
    assert len(rows) == 4


async def _entry(process: Any, batch_id: str) -> Any:
    from replicate_mcp.semaphores.permit_store import QueueEntry

    account = (await process.store.get_batch(batch_id)).account
    (own,) = await process.store.semaphores()
    return QueueEntry(batch_id, (own.name,), account, 0)


@in_virtual_time
async def test_batch_with_a_rejected_token_fails_with_the_reason() -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process(limit=1, resume="always") as process:
        batch = await process.start(replicate.gateway(), task(0), task(1))
        await anyio.sleep(1)
        batch.let_go()
        await anyio.sleep(0)
        replicate.always("other", refused(401))
        resumption, entry = process.runner._resumption, await _entry(process, batch.id)
        resumed = await resumption.restore(
            batch.id, TakenOver(1000, entry), replicate.gateway(), process.runner._reconciler
        )
        await resumption.run(resumed)
        rows = {row.task_index: row for row in await process.store.results(batch.id)}
    assert cast(Any, rows[1]).error_code == "unauthorized"
