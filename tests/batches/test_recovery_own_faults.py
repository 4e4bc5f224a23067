"""Internal errors during recovery: the row is recorded immediately, the permit freed later."""

from typing import Any

import anyio
import pytest

from batches.direct import (
    ACCOUNT,
    Replicate,
    running_process,
    wrapped,
)
from batches.orphans import CAR, failing, freed, kind, left, now, recovered, recovery_of
from batches.virtual_time import in_virtual_time
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.tasks.result import TaskFailure

# Internal errors.


@in_virtual_time
async def test_internal_error_ends_the_task_immediately_and_frees_its_permit_at_the_deadline() -> (
    None
):
    replicate = Replicate()
    async with running_process(limit=1, wrap=wrapped(tasks=failing(KeyError("x")))) as process:
        await left(process, CAR, waiting=2)
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert isinstance(row, TaskFailure)
        assert (kind(row), row.prediction_id) == (("create_outcome_unknown", False), None)
        assert (row.prompt, row.output_filename) == ("prompt 0", "")
        assert row.error.startswith("Its process ended, and recovering its result failed: see the ")
        assert row.error.endswith("/predictions before sending it again.")
        assert now() < 4
        (account,) = await process.store.semaphores()
        assert (account.in_use, account.waiting) == (1, 2)
        while (await process.store.semaphores())[0].waiting == 2:
            await anyio.sleep(1)
        assert now() == pytest.approx(600 + 60 + 60, abs=1.1)


@in_virtual_time
async def test_internal_error_keeps_the_prediction_id_in_the_result() -> None:
    replicate = Replicate()
    async with running_process(wrap=wrapped(tasks=failing(KeyError("x")))) as process:
        (permit,) = await left(process, CAR)
        assert await process.store.claim_prediction(permit, "b_1", "p0")
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert (await recovered(process))[0].prediction_id == "p0"


@in_virtual_time
async def test_unrecordable_result_keeps_no_permit_beyond_its_deadline() -> None:
    broken = wrapped(tasks=failing(KeyError("x")), record_results=failing(ValueError("y")))
    async with running_process(wrap=broken) as process:
        await left(process, CAR)
        process.runner.recover(ACCOUNT, Replicate().gateway())
        await anyio.sleep(600 + 119)
        assert await process.in_use() == 1
        assert await freed(process) == pytest.approx(600 + 120, abs=4)


@in_virtual_time
async def test_result_is_recorded_after_a_temporary_backend_outage() -> None:
    async def unavailable(record: Any, *args: Any, **kwargs: Any) -> Any:
        if now() < 20:
            raise BackendUnavailable("locked")
        return await record(*args, **kwargs)

    broken = wrapped(tasks=failing(KeyError("x")), record_results=unavailable)
    async with running_process(wrap=broken) as process:
        await left(process, CAR)
        process.runner.recover(ACCOUNT, Replicate().gateway())
        await recovered(process)
        assert now() == pytest.approx(20, abs=1.1)


@in_virtual_time
async def test_deadline_uses_the_replicate_clock_with_a_token() -> None:
    replicate = Replicate(clock_offset_seconds=3_600)
    gateway = replicate.gateway()
    await gateway.sync_clock()
    async with running_process(wrap=wrapped(tasks=failing(KeyError("x")))) as process:
        await left(process, CAR, sent_at=gateway.now())
        process.runner.recover(ACCOUNT, gateway)
        await recovered(process)
        assert await freed(process) == pytest.approx(600 + 120, abs=4)


@in_virtual_time
async def test_deadline_uses_the_local_clock_without_a_token() -> None:
    replicate = Replicate(clock_offset_seconds=3_600)

    async def revoked(tasks: Any, batch: str) -> Any:
        recovery_of(process)._gateways.clear()
        raise KeyError("x")

    async with running_process(wrap=wrapped(tasks=revoked)) as process:
        await left(process, CAR)
        process.runner.recover(ACCOUNT, replicate.gateway())
        await recovered(process)
        assert await freed(process) == pytest.approx(600 + 120, abs=4)
