"""Reconciliation: which prediction belongs to an attempt without a response, for all waiters."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from batches.direct import (
    OTHER_TOKEN,
    TOKEN,
    Answer,
    Process,
    Replicate,
    changed,
    finished,
    late,
    lost,
    recorded,
    refused,
    running_process,
    slow,
    unsent,
    wrapped,
)
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.reconciliation import Reconciler, Verdict
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.gateway import Gateway

CAR: dict[str, Any] = {"prompt": "a red car"}
BOAT: dict[str, Any] = {"prompt": "a blue boat"}
NOT_MADE, UNKNOWN, REFUSED = Verdict.NOT_MADE, Verdict.UNKNOWN, Verdict.REFUSED


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Waiter:
    """One call of `resolve`: its result and when it returned."""

    answer: str | Verdict | None = None
    at: float | None = None


@dataclass
class Account:
    """An account's reconciliation, over the in-memory backend and the simulator."""

    replicate: Replicate
    process: Process
    group: TaskGroup
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        spawn: Callable[..., object] = self.process.runner._services.spawn
        self.reconciler = Reconciler("acme", self.process.backend, spawn)
        self.gateway = self.replicate.gateway(TOKEN)

    @property
    def backend(self) -> Backend:
        return self.process.store

    async def attempt(
        self, inputs: dict[str, Any] = CAR, *, batch: str = "b_1", cancel_after: int = 600
    ) -> int:
        """Record an attempt; return its permit."""
        permits = await recorded(
            self.backend, self.gateway, inputs, batch=batch, cancel_after=cancel_after
        )
        return next(iter(permits))

    def wait(
        self, permit: int, gateway: Gateway | None = None, *, to_cancel: bool = False
    ) -> Waiter:
        """Resolve an attempt in the background."""
        waiter = Waiter()

        async def find() -> None:
            waiter.answer = await self.reconciler.resolve(
                permit, gateway or self.gateway, to_cancel=to_cancel
            )
            waiter.at = now()

        self.group.start_soon(find)
        return waiter

    async def find(self, permit: int, gateway: Gateway | None = None) -> str | Verdict:
        """Resolve an attempt."""
        return await self.reconciler.resolve(permit, gateway or self.gateway)


@asynccontextmanager
async def account(
    wrap: Callable[[Backend], Backend] = lambda each: each, **settings: Any
) -> AsyncIterator[Account]:
    """Return an account; by default, its predictions run for longer than a test."""
    replicate = Replicate(**{"predict_seconds": 3_000, **settings})
    async with running_process(wrap=wrap) as process, anyio.create_task_group() as group:
        yield Account(replicate, process, group)
        group.cancel_scope.cancel()


@in_virtual_time
async def test_matched_prediction_is_claimed_for_its_attempt() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        prediction = acme.replicate.made()
        assert await acme.find(permit) == prediction
        (attempt,) = await acme.backend.open_attempts("acme")
        assert attempt.prediction_id == prediction
        # The prediction is known then, so the list is not read for it.
        assert await acme.find(permit) == prediction
        assert len(acme.replicate.times("list")) == 1


@in_virtual_time
async def test_attempt_of_a_finished_task_is_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with account() as acme:
        permit = await acme.attempt()
        await acme.backend.finish(permit, "b_1", finished())
        assert await acme.find(permit) is UNKNOWN
        assert await acme.find(12_345) is UNKNOWN
        assert acme.replicate.calls == []
    assert not caplog.records


@in_virtual_time
async def test_waiter_cancelled_during_a_list_read_does_not_block_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with account() as acme:
        first = await acme.attempt()
        second = await acme.attempt(BOAT, batch="b_2")
        prediction = acme.replicate.made(BOAT)
        acme.replicate.answer("list", slow(0.5))
        waiter = acme.wait(second)
        with anyio.move_on_after(0.2):
            await acme.find(first)
        await anyio.sleep(0.5)
        assert waiter.answer == prediction
    assert not caplog.records


@in_virtual_time
async def test_unlisted_attempt_is_not_created_after_ten_seconds() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        await anyio.sleep(100)
        assert await acme.find(permit) is NOT_MADE
        assert now() == 110
        assert acme.replicate.times("list") == [100.0 + n for n in range(11)], "once a second"


@in_virtual_time
async def test_later_listed_prediction_proves_an_attempt_was_not_created() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        waiter = acme.wait(permit)
        await anyio.sleep(2.5)
        other = await acme.attempt(BOAT, batch="b_2")
        prediction = acme.replicate.made(BOAT)
        await acme.backend.claim_prediction(other, "b_2", prediction)
        await anyio.sleep(1)
        assert (waiter.answer, waiter.at) == (NOT_MADE, 3)


@pytest.mark.parametrize("is_claimed", [True, False])
@in_virtual_time
async def test_prediction_of_another_attempt_does_not_delay_the_decision(is_claimed: bool) -> None:
    async with account() as acme:
        permit = await acme.attempt(CAR | {"seed": 1})
        other = await acme.attempt(CAR | {"seed": 2}, batch="b_2")
        prediction = acme.replicate.made(CAR | {"seed": 2})
        if is_claimed:
            await acme.backend.claim_prediction(other, "b_2", prediction)
        assert await acme.find(permit) is NOT_MADE
        assert now() == 10


@in_virtual_time
async def test_attempt_to_cancel_is_awaited_until_the_list_shows_it() -> None:
    async with account(list_lag_seconds=30) as acme:
        permit = await acme.attempt()
        prediction = acme.replicate.made()
        waiter = acme.wait(permit, to_cancel=True)
        await anyio.sleep(29)
        assert waiter.answer is None
        await anyio.sleep(2)
        assert waiter.answer == prediction


@in_virtual_time
async def test_not_created_is_returned_only_to_waiters_that_do_not_cancel() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        cancels, asks = acme.wait(permit, to_cancel=True), acme.wait(permit)
        await anyio.sleep(15)
        assert (cancels.answer, asks.answer) == (None, NOT_MADE)
        # Its task is retried: that permit belongs to no attempt any more.
        await acme.backend.requeue(permit)
        await anyio.sleep(1)
        assert cancels.answer is UNKNOWN


@pytest.mark.parametrize("other_is_asked_for", [False, True])
@in_virtual_time
async def test_ambiguous_prediction_is_not_returned_for_cancelling_while_an_equal_attempt_runs(
    other_is_asked_for: bool,
) -> None:
    async with account(list_deadlines=False) as acme:
        cancelled = await acme.attempt(batch="b_1")
        other = await acme.attempt(batch="b_2")
        # Both were sent at once; it cannot be determined which of them created this one.
        acme.replicate.made()
        waiter = acme.wait(cancelled, to_cancel=True)
        asks = acme.wait(other) if other_is_asked_for else None
        await anyio.sleep(30)
        assert waiter.answer is None
        assert asks is None or asks.answer is not NOT_MADE
        # The other's response arrives, so the remaining prediction belongs to the cancelled one.
        (first,) = acme.replicate.predictions
        second = acme.replicate.made()
        await acme.backend.finish(other, "b_2", finished(prediction=first.id))
        await anyio.sleep(2)
        assert waiter.answer == second


@in_virtual_time
async def test_prediction_of_an_equal_attempt_made_during_a_list_read_is_not_cancelled() -> None:
    async with account(list_deadlines=False) as acme:
        cancelled = await acme.attempt(batch="b_1")
        acme.replicate.answer("list", slow(0.5))
        waiter = acme.wait(cancelled, to_cancel=True)
        await anyio.sleep(0.2)
        await acme.attempt(batch="b_2")
        acme.replicate.made()
        await anyio.sleep(5)
        assert waiter.answer is None


@in_virtual_time
async def test_prediction_matching_only_cancelled_attempts_is_assigned_to_them() -> None:
    async with account(list_deadlines=False) as acme:
        permits = [await acme.attempt(batch=f"b_{n}") for n in range(3)]
        made = {acme.replicate.made() for _ in permits}
        waiters = [acme.wait(permit, to_cancel=True) for permit in permits]
        await anyio.sleep(1)
        assert {waiter.answer for waiter in waiters} == made


@in_virtual_time
async def test_prediction_matching_no_other_attempt_is_returned_for_cancelling() -> None:
    async with account() as acme:
        cancelled = await acme.attempt()
        await acme.attempt(batch="b_2")  # Equal, with its own `Cancel-After`.
        await acme.attempt(BOAT, batch="b_3")
        prediction = acme.replicate.made(cancel_after=600)
        waiter = acme.wait(cancelled, to_cancel=True)
        await anyio.sleep(1)
        assert waiter.answer == prediction


@in_virtual_time
async def test_following_waiter_gets_an_ambiguous_prediction() -> None:
    async with account(list_deadlines=False) as acme:
        permit = await acme.attempt()
        await acme.attempt(batch="b_2")
        prediction = acme.replicate.made()
        cancels, asks = acme.wait(permit, to_cancel=True), acme.wait(permit)
        await anyio.sleep(1)
        assert (cancels.answer, asks.answer) == (prediction, prediction)


@in_virtual_time
async def test_prediction_of_an_equal_attempt_does_not_prove_not_created() -> None:
    async with account(list_deadlines=False) as acme:
        slow_one = await acme.attempt(batch="b_1")
        permit = await acme.attempt(batch="b_2")
        prediction = acme.replicate.made()
        waiter = acme.wait(permit)
        # The other's response is still missing: its request may not have reached Replicate yet.
        await anyio.sleep(40)
        assert waiter.answer is None
        later = acme.replicate.made()
        await acme.backend.finish(slow_one, "b_1", finished(prediction=later))
        await anyio.sleep(2)
        assert waiter.answer == prediction


@in_virtual_time
async def test_equal_attempt_ending_during_a_list_read_takes_no_prediction_from_another() -> None:
    async with account(list_deadlines=False) as acme:
        other = await acme.attempt(batch="b_1")
        permit = await acme.attempt(batch="b_2")
        prediction, others = acme.replicate.made(), acme.replicate.made()
        waiter = acme.wait(permit)
        acme.replicate.answer("list", refused(500), refused(500), late(0.5))
        await anyio.sleep(1.5)
        acme.replicate.made(BOAT)  # The list is up to date.
        await anyio.sleep(0.6)
        await acme.backend.finish(other, "b_1", finished(prediction=others))
        await anyio.sleep(2)
        assert waiter.answer == prediction


@in_virtual_time
async def test_list_age_counts_from_its_request_not_its_response() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        acme.replicate.answer("list", late(12))
        waiter = acme.wait(permit)
        await anyio.sleep(5)  # Its upload was slow.
        prediction = acme.replicate.made()
        await anyio.sleep(15)
        assert waiter.answer == prediction


@in_virtual_time
async def test_lost_attempts_minutes_apart_are_matched_from_one_list() -> None:
    async with account() as acme:
        permits, made = [], []
        for number in range(3):
            permits.append(await acme.attempt({"prompt": f"car {number}"}, batch=f"b_{number}"))
            made.append(acme.replicate.made({"prompt": f"car {number}"}))
            await anyio.sleep(300)
        waiters = [acme.wait(permit) for permit in permits[::-1]]
        await anyio.sleep(0.5)
        assert [waiter.answer for waiter in waiters] == made[::-1]
        assert len(acme.replicate.times("list")) == 1


# The first response to a list read with each token, and when the attempt is resolved.
ANSWERS: list[Any] = [
    pytest.param({TOKEN: refused(500)}, 0, id="500 beside one that works"),
    pytest.param({TOKEN: refused(401)}, 0, id="revoked beside one that works"),
    pytest.param({TOKEN: unsent}, 0, id="no connection beside one that works"),
    pytest.param({TOKEN: refused(500), OTHER_TOKEN: refused(500)}, 1, id="500 for both"),
    pytest.param({TOKEN: refused(401), OTHER_TOKEN: refused(500)}, 1, id="revoked and 500"),
    pytest.param({TOKEN: refused(500), OTHER_TOKEN: refused(403)}, 1, id="500 and forbidden"),
    pytest.param({TOKEN: refused(401), OTHER_TOKEN: unsent}, 1, id="revoked and no connection"),
    pytest.param({TOKEN: refused(404), OTHER_TOKEN: refused(429)}, 1, id="404 and 429"),
    pytest.param({TOKEN: refused(400), OTHER_TOKEN: refused(402)}, 1, id="400 and 402"),
    pytest.param({TOKEN: lost(carried_out=True), OTHER_TOKEN: unsent}, 1, id="lost and unsent"),
]


def by_token(answers: dict[str, Answer]) -> Answer:
    """Return a response for each token; other tokens get the simulator's."""

    async def answer(request: Any, forward: Any) -> Any:
        token = request.headers["authorization"].removeprefix("Bearer ")
        if token in answers:
            return await answers.pop(token)(request, forward)
        return await forward(request)

    return answer


@pytest.mark.parametrize(("answers", "at"), ANSWERS)
@in_virtual_time
async def test_failed_list_read_is_retried_or_made_with_another_token(
    answers: dict[str, Answer], at: float
) -> None:
    async with account() as acme:
        first = await acme.attempt()
        second = await acme.attempt(BOAT, batch="b_2")
        made = [acme.replicate.made(CAR), acme.replicate.made(BOAT)]
        acme.replicate.always("list", by_token(dict(answers)))
        waiters = [
            acme.wait(first),
            acme.wait(second, acme.replicate.gateway(OTHER_TOKEN)),
        ]
        await anyio.sleep(5)
        assert [waiter.answer for waiter in waiters] == made
        assert [waiter.at for waiter in waiters] == [at, at]


@pytest.mark.parametrize("status", [401, 403])
@in_virtual_time
async def test_rejection_is_returned_when_every_token_is_rejected(status: int) -> None:
    async with account() as acme:
        permit = await acme.attempt()
        acme.replicate.always("list", refused(status))
        other = acme.replicate.gateway(OTHER_TOKEN)
        waiters = [
            acme.wait(permit),
            acme.wait(permit, other),
            acme.wait(permit, other, to_cancel=True),
        ]
        await anyio.sleep(0.5)
        assert [waiter.answer for waiter in waiters] == [REFUSED] * 3
        # Each token is tried once.
        assert [call.token for call in acme.replicate.calls] == [TOKEN, OTHER_TOKEN]


@in_virtual_time
async def test_token_added_while_another_is_rejected_is_tried() -> None:
    async with account() as acme:
        first = await acme.attempt()
        second = await acme.attempt(BOAT, batch="b_2")
        made = [acme.replicate.made(CAR), acme.replicate.made(BOAT)]
        acme.replicate.answer("list", slow(0.5, refused(401)))
        waiter = acme.wait(first)
        await anyio.sleep(0.2)
        later = acme.wait(second, acme.replicate.gateway(OTHER_TOKEN))
        await anyio.sleep(5)
        assert [waiter.answer, later.answer] == made


@in_virtual_time
async def test_not_created_is_decided_by_the_later_of_two_waiters() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        first = acme.wait(permit)
        await anyio.sleep(8)
        second = acme.wait(permit)  # Its upload was slow: it may be created only now.
        await anyio.sleep(9.5)
        assert (first.answer, second.answer) == (None, None)
        await anyio.sleep(1)
        assert (first.at, second.at) == (18, 18)
        assert (first.answer, second.answer) == (NOT_MADE, NOT_MADE)


@in_virtual_time
async def test_truncated_list_becomes_conclusive_for_the_later_of_two_waiters() -> None:
    async with account(page_size=1) as acme:
        permit = await acme.attempt()
        await anyio.sleep(10)
        for number in range(30):
            acme.replicate.made({"prompt": f"boat {number}"})
        first = acme.wait(permit)
        await anyio.sleep(8)
        second = acme.wait(permit)
        await anyio.sleep(9.5)
        assert (first.answer, second.answer) == (None, None)
        await anyio.sleep(1)
        assert (first.answer, second.answer) == (UNKNOWN, UNKNOWN)


@in_virtual_time
async def test_all_waiters_of_one_attempt_are_answered_and_any_may_be_cancelled() -> None:
    async with account(list_lag_seconds=5) as acme:
        permit = await acme.attempt()
        prediction = acme.replicate.made()
        waiters = [acme.wait(permit) for _ in range(2)]
        with anyio.move_on_after(2):
            await acme.find(permit)
        await anyio.sleep(5)
        assert [waiter.answer for waiter in waiters] == [prediction] * 2
        assert acme.replicate.times("list") == [0, 1, 2, 3, 4, 5], "one reader for all"


@in_virtual_time
async def test_list_polling_stops_without_waiters_and_restarts() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        with anyio.move_on_after(2.5):
            await acme.find(permit)
        await anyio.sleep(20)
        assert acme.replicate.times("list") == [0, 1, 2]
        prediction = acme.replicate.made()
        assert await acme.find(permit) == prediction
        assert acme.replicate.times("list") == [0, 1, 2, 22.5]


@in_virtual_time
async def test_prediction_claimed_meanwhile_by_another_attempt_is_not_returned() -> None:
    async def claimed(claim: Any, permit: int, batch: str, prediction: str) -> bool:
        if permit == first and batch == "b_1":
            await claim(second, "b_2", prediction)
        return bool(await claim(permit, batch, prediction))

    async with account(wrapped(claim_prediction=claimed), list_deadlines=False) as acme:
        first = await acme.attempt()
        second = await acme.attempt(batch="b_2")
        acme.replicate.made()
        waiter = acme.wait(first)
        await anyio.sleep(5)
        assert waiter.answer is None
        prediction = acme.replicate.made()
        first = 0
        await anyio.sleep(1)
        assert waiter.answer == prediction


@pytest.mark.parametrize("error", [BackendUnavailable("It is away."), KeyError("unforeseen")])
@in_virtual_time
async def test_reconciler_recovers_from_any_error_on_the_next_poll(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [error, error]

    async def opened(open_attempts: Any, name: str) -> Any:
        if failing:
            raise failing.pop()
        return await open_attempts(name)

    async with account(wrapped(open_attempts=opened)) as acme:
        permit = await acme.attempt()
        prediction = acme.replicate.made()
        with caplog.at_level(logging.WARNING):
            assert await acme.find(permit) == prediction
        assert now() == 2
        assert "the list of predictions could not be read" in caplog.text


@in_virtual_time
async def test_attempt_is_unknown_after_fifty_minutes_even_with_an_unreadable_list() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        await anyio.sleep(50 * 60 - 5)
        acme.replicate.always("list", refused(500))
        waiter = acme.wait(permit)
        await anyio.sleep(4.5)
        assert waiter.answer is None
        await anyio.sleep(2)
        assert waiter.answer is UNKNOWN


@in_virtual_time
async def test_attempt_recorded_during_a_state_read_is_not_unknown() -> None:
    entered, go_on = anyio.Event(), anyio.Event()

    async def opened(open_attempts: Any, name: str) -> Any:
        found = await open_attempts(name)
        entered.set()
        await go_on.wait()
        return found

    async with account(wrapped(open_attempts=opened)) as acme:
        permit = await acme.attempt()
        first = acme.wait(permit)
        await entered.wait()
        late = await acme.attempt(BOAT, batch="b_2")
        prediction = acme.replicate.made(BOAT)
        second = acme.wait(late)
        await anyio.sleep(0.1)
        go_on.set()
        await anyio.sleep(2)
        assert (first.answer, second.answer) == (None, prediction)


@in_virtual_time
async def test_unreadable_list_entry_does_not_hide_others() -> None:
    async with account() as acme:
        permit = await acme.attempt()
        prediction = acme.replicate.made()
        acme.replicate.always(
            "list", changed(lambda page: page["results"].insert(0, {"id": 3, "status": None}))
        )
        assert await acme.find(permit) == prediction
