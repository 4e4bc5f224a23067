"""Backend calls that are retried until the backend is available, and calls in the background."""

import asyncio
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from batches.virtual_time import in_virtual_time
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.observer import NullObserver
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer


class Call:
    """A backend call that fails at first; records when and with which arguments it is made."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.times: list[float] = []
        self.arguments: list[tuple[Any, ...]] = []

    async def __call__(self, *arguments: Any) -> AdmissionResult:
        self.times.append(asyncio.get_running_loop().time())
        self.arguments.append(arguments)
        if self._errors:
            raise self._errors.pop(0)
        return AdmissionResult((Offer(7, "b_1"),))


AWAY = BackendUnavailable("It is away.")


def steps_of(group: TaskGroup, backend: SqliteBackend) -> tuple[BatchServices, list[int]]:
    """Return backend calls, and the permits of the offers dispatched to a batch."""
    dispatcher, permits = OfferDispatcher(backend), list[int]()
    dispatcher.subscribe("b_1", lambda offers: permits.extend(offer.permit for offer in offers))
    return BatchServices(backend, dispatcher, group, NullObserver()), permits


@in_virtual_time
async def test_call_is_retried_every_second_until_the_backend_is_available() -> None:
    backend = await SqliteBackend.open()
    async with anyio.create_task_group() as group:
        steps, permits = steps_of(group, backend)
        call = Call(AWAY, AWAY)
        assert await steps.retry_until_available(call, 1, "b") == AdmissionResult(
            (Offer(7, "b_1"),)
        )
        assert (call.times, call.arguments) == ([0, 1, 2], [(1, "b")] * 3)
        assert permits == []
        with pytest.raises(KeyError):
            await steps.retry_until_available(Call(KeyError("a fault")))
    await backend.close()


@in_virtual_time
async def test_admission_returned_by_a_call_is_dispatched() -> None:
    backend = await SqliteBackend.open()
    async with anyio.create_task_group() as group:
        steps, permits = steps_of(group, backend)
        call = Call(AWAY)
        await steps.retry_and_dispatch(call, 1)
        assert (call.times, call.arguments, permits) == ([0, 1], [(1,)] * 2, [7])
    await backend.close()


@pytest.mark.parametrize(("errors", "times"), [([], [0]), ([AWAY, AWAY], [0, 0, 1])])
@in_virtual_time
async def test_failed_backend_call_is_retried_in_the_background_without_blocking(
    errors: list[Exception], times: list[float]
) -> None:
    backend = await SqliteBackend.open()
    async with anyio.create_task_group() as group:
        steps, permits = steps_of(group, backend)
        call = Call(*errors)
        await steps.try_then_background(call, 1)
        assert asyncio.get_running_loop().time() == 0
        assert permits == ([] if errors else [7])
        await anyio.sleep(5)
        assert (call.times, call.arguments, permits) == (times, [(1,)] * len(times), [7])
    await backend.close()


@in_virtual_time
async def test_background_error_is_logged_and_stops_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = await SqliteBackend.open()
    ended: list[int] = []

    async def works(number: int) -> None:
        await anyio.sleep(1)
        ended.append(number)

    async def fails() -> None:
        raise KeyError("a fault")

    async with anyio.create_task_group() as group:
        steps, _ = steps_of(group, backend)
        steps.spawn(works, 1)
        steps.spawn(fails)
        steps.spawn(works, 2)
        assert (steps.permits, steps.attempts, steps.journal) == (backend, backend, backend)
        assert type(steps.observer) is NullObserver
    assert ended == [1, 2]
    assert "work in the background failed" in caplog.text
    await backend.close()
