"""The offer dispatcher: each offer reaches its entry once, and admission runs in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores import backend_calls as steps_module
from replicate_mcp.semaphores import offer_dispatcher as holder_module
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer, QueueEntry

SOON = 0.05


class Watched(SqliteBackend):
    """A backend in memory that counts its admission calls, and may return scripted results.

    Attributes:
        decided_at: the time of each admission call.
        rooms: scripted results; an error is raised. Afterwards the backend decides itself.
    """

    decided_at: list[float]
    rooms: list[AdmissionResult | BackendUnavailable]

    async def admit(self) -> AdmissionResult:
        self.decided_at.append(anyio.current_time())
        if self.rooms:
            answer = self.rooms.pop(0)
            if isinstance(answer, BackendUnavailable):
                raise answer
            return answer
        return await super().admit()

    async def decided(self, times: int) -> None:
        with anyio.fail_after(10):
            while len(self.decided_at) < times:
                await anyio.sleep(0.002)


@asynccontextmanager
async def watched() -> AsyncIterator[tuple[Watched, OfferDispatcher]]:
    backend = await Watched.open(":memory:")
    assert isinstance(backend, Watched)
    backend.decided_at, backend.rooms = [], []
    yield backend, OfferDispatcher(backend)
    await backend.close()


@asynccontextmanager
async def running(holder: OfferDispatcher) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(holder.run)
        yield
        group.cancel_scope.cancel()


def offers(*numbers: int, entry: str = "a") -> tuple[Offer, ...]:
    return tuple(Offer(number, entry) for number in numbers)


async def test_each_offer_is_dispatched_once_to_its_entry() -> None:
    async with watched() as (_, holder):
        taken: list[tuple[str, Sequence[Offer]]] = []
        holder.subscribe("a", lambda offers: taken.append(("a", offers)))
        holder.subscribe("b", lambda offers: taken.append(("b", offers)))
        admission = AdmissionResult(offers(1, 3) + offers(2, entry="b"))
        holder.dispatch(admission)
        assert taken == [("a", [Offer(1, "a"), Offer(3, "a")]), ("b", [Offer(2, "b")])]
        holder.dispatch(admission)
        holder.dispatch(AdmissionResult())
        holder.dispatch(AdmissionResult(offers(3, 4)))
        assert taken[2:] == [("a", [Offer(4, "a")])]


async def test_offers_to_an_unsubscribed_entry_are_dropped() -> None:
    async with watched() as (_, holder):
        taken: list[Sequence[Offer]] = []
        holder.subscribe("a", taken.append)
        holder.unsubscribe("a")
        holder.unsubscribe("unknown")
        holder.dispatch(AdmissionResult(offers(5)))
        holder.subscribe("a", taken.append)
        holder.dispatch(AdmissionResult(offers(5)))
        assert taken == [], "it was offered before anybody attended"
        holder.dispatch(AdmissionResult(offers(6)))
        assert taken == [[Offer(6, "a")]]


async def test_first_offer_is_dispatched_after_calls_without_offers() -> None:
    async with watched() as (_, holder):
        taken: list[Sequence[Offer]] = []
        holder.subscribe("a", taken.append)
        holder.dispatch(AdmissionResult())
        holder.dispatch(AdmissionResult(offers(1)))
        assert taken == [[Offer(1, "a")]]


async def test_admission_pause_is_reported_while_it_lasts() -> None:
    async with watched() as (_, holder):
        assert holder.paused_for == 0
        holder.dispatch(AdmissionResult(paused_for=60))
        assert 59 < holder.paused_for <= 60
        holder.dispatch(AdmissionResult())
        assert holder.paused_for > 59
        holder.dispatch(AdmissionResult(paused_for=SOON))
        await anyio.sleep(2 * SOON)
        assert holder.paused_for == 0


async def test_admission_runs_again_at_the_time_of_the_last_decision() -> None:
    async with watched() as (backend, holder), running(holder):
        await anyio.wait_all_tasks_blocked()
        holder.dispatch(AdmissionResult(retry_in=600))
        await anyio.wait_all_tasks_blocked()
        begun = anyio.current_time()
        holder.dispatch(AdmissionResult(retry_in=SOON))
        holder.dispatch(AdmissionResult(retry_in=300))
        await backend.decided(1)
        assert SOON <= backend.decided_at[0] - begun < 1
        await anyio.sleep(2 * SOON)
        assert len(backend.decided_at) == 1, "the others were no later decisions of their own"
        backend.rooms = [AdmissionResult(retry_in=SOON), AdmissionResult()]
        holder.dispatch(AdmissionResult(retry_in=0))
        await backend.decided(3)


async def test_dispatcher_polls_only_while_an_entry_is_subscribed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder_module, "ADMIT_POLL_SECONDS", SOON)
    async with watched() as (backend, holder), running(holder):
        await anyio.sleep(4 * SOON)
        assert backend.decided_at == []
        holder.subscribe("a", lambda _: None)
        begun = anyio.current_time()
        await backend.decided(3)
        assert anyio.current_time() - begun >= 2 * SOON
        holder.unsubscribe("a")
        await anyio.sleep(2 * SOON)
        seen = len(backend.decided_at)
        await anyio.sleep(4 * SOON)
        assert len(backend.decided_at) == seen


async def test_admission_runs_for_waiting_entries_at_the_time_last_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder_module, "ADMIT_POLL_SECONDS", 600)
    async with watched() as (backend, holder), running(holder):
        holder.subscribe("a", lambda _: None)
        holder.dispatch(AdmissionResult(retry_in=SOON))
        await backend.decided(1)
        await anyio.sleep(2 * SOON)
        assert len(backend.decided_at) == 1


def test_admission_poll_and_retry_intervals_are_one_second() -> None:
    assert (holder_module.ADMIT_POLL_SECONDS, steps_module.RETRY_DELAY_SECONDS) == (1.0, 1.0)


async def test_unavailable_backend_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder_module, "ADMIT_POLL_SECONDS", SOON)
    async with watched() as (backend, holder), running(holder):
        backend.rooms = [BackendUnavailable("It is away."), AdmissionResult(offers(7))]
        taken: list[Sequence[Offer]] = []
        holder.subscribe("a", taken.append)
        holder.dispatch(AdmissionResult(retry_in=0))
        await backend.decided(2)
        await anyio.sleep(0)
        assert taken == [[Offer(7, "a")]]
        assert backend.decided_at[1] - backend.decided_at[0] >= SOON * 0.9
        holder.unsubscribe("a")
        backend.rooms = [BackendUnavailable("It is away again."), AdmissionResult()]
        seen = len(backend.decided_at)
        holder.dispatch(AdmissionResult(retry_in=0))
        await backend.decided(seen + 2)


async def test_each_ring_of_another_process_is_received_immediately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder_module, "ADMIT_POLL_SECONDS", 600)
    async with watched() as (backend, holder), running(holder):
        other = await SqliteBackend.open(":memory:")
        for each in (backend, other):
            await each.register("team", 1)
        held = await other.enqueue(QueueEntry("theirs", ("team",), None, 1))
        await other.accept_offers([offer.permit for offer in held.offers])
        taken: list[Sequence[Offer]] = []
        holder.subscribe("mine", taken.append)
        holder.dispatch(await backend.enqueue(QueueEntry("mine", ("team",), None, 1)))
        wakeups = [asyncio.ensure_future(holder.wait_for_wakeup()) for _ in range(2)]
        await other.release(held.offers[0].permit)
        with anyio.fail_after(5):
            await asyncio.gather(*wakeups)
            while not taken:
                await anyio.sleep(0.002)
        assert [offer.entry for offer in taken[0]] == ["mine"]
        again = asyncio.ensure_future(holder.wait_for_wakeup())
        await anyio.sleep(SOON)
        assert not again.done(), "each ring wakes once"
        again.cancel()
        await other.close()


# Critical calls.


@asynccontextmanager
async def sure_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[BackendCalls, list[Sequence[Offer]]]]:
    monkeypatch.setattr(steps_module, "RETRY_DELAY_SECONDS", 0.01)
    async with watched() as (_, holder), anyio.create_task_group() as group:
        taken: list[Sequence[Offer]] = []
        holder.subscribe("a", taken.append)
        yield BackendCalls(holder, group), taken


def failing(times: int, error: Exception) -> Callable[..., Awaitable[AdmissionResult]]:
    """Return a call that fails `times` times, and then offers the number that it was given."""
    left = [error] * times

    async def step(number: int) -> AdmissionResult:
        if left:
            raise left.pop()
        return AdmissionResult(offers(number))

    return step


async def test_critical_call_is_retried_until_it_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sure_steps(monkeypatch) as (steps, taken):
        assert await steps.retry_until_available(
            failing(3, BackendUnavailable("Away.")), 1
        ) == AdmissionResult(offers(1))
        assert taken == []
        await steps.retry_and_dispatch(failing(3, BackendUnavailable("Away.")), 2)
        assert taken == [[Offer(2, "a")]]


async def test_other_errors_of_a_call_are_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sure_steps(monkeypatch) as (steps, _):
        with pytest.raises(KeyError):
            await steps.retry_until_available(failing(1, KeyError("a fault")), 1)


async def test_failed_backend_call_is_retried_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sure_steps(monkeypatch) as (steps, taken):
        await steps.try_then_background(failing(0, BackendUnavailable("Away.")), 1)
        assert taken == [[Offer(1, "a")]]
        await steps.try_then_background(failing(2, BackendUnavailable("Away.")), 2)
        assert len(taken) == 1
        with anyio.fail_after(5):
            while len(taken) < 2:
                await anyio.sleep(0.002)
        assert taken[1] == [Offer(2, "a")]


async def test_background_error_is_logged_and_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with sure_steps(monkeypatch) as (steps, taken):
        steps.spawn(failing(1, KeyError("a fault")), 1)  # type: ignore[arg-type]
        await anyio.wait_all_tasks_blocked()
        steps.spawn(steps.retry_and_dispatch, failing(0, KeyError()), 2)
        await anyio.wait_all_tasks_blocked()
    assert taken == [[Offer(2, "a")]]
    assert "KeyError" in caplog.text
