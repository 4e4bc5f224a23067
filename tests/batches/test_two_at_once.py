"""Concurrent work in any order of calls: equal attempts, and cancellation of one of two batches."""

from collections import Counter

import anyio
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from batches.direct import (
    ACCOUNT,
    OTHER_TOKEN,
    TOKEN,
    Answer,
    Replicate,
    finished,
    forwarded,
    lost,
    recorded,
    refused,
    running_process,
    task,
    unsent,
    wrapped,
)
from batches.virtual_time import Schedule, in_virtual_time
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.reconciliation import Reconciler, Verdict
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.tasks.result import TaskFailure, TaskSuccess


@pytest.mark.parametrize("cancel_at", [30, 70])
@in_virtual_time
async def test_cancel_does_not_stop_a_prediction_claimed_by_an_equal_attempt(
    cancel_at: int,
) -> None:
    """Match the prediction before and after the response to the cancelled batch's own creation."""
    replicate = Replicate(predict_seconds=100, list_deadlines=False)
    replicate.answer("create", lost(carried_out=False))
    async with running_process() as process:
        # Its creation never arrived. The other's prediction is equal, and is assigned to it.
        kept = await process.start(replicate.gateway(), task())
        other = await process.start(replicate.gateway(), task())
        await anyio.sleep(cancel_at)
        process.runner.cancel(other)
        kept_rows, other_rows = await process.rows(kept), await process.rows(other)
        assert isinstance(kept_rows[0], TaskSuccess)
        assert isinstance(other_rows[0], TaskFailure)
        assert other_rows[0].error_code == "canceled"
        assert list(replicate.statuses()) == [kept_rows[0].prediction_id]
        assert await process.in_use() == 0


@in_virtual_time
async def test_cancel_stops_running_predictions_while_the_backend_is_unreachable() -> None:
    async def away(*_: object) -> None:
        raise BackendUnavailable("It is away.")

    replicate = Replicate(predict_seconds=100)
    async with running_process(wrap=wrapped(claim_prediction=away)) as process:
        batch = await process.start(replicate.gateway(), task())
        await anyio.sleep(70)
        process.runner.cancel(batch)
        await batch.ended.wait()
        assert list(replicate.statuses().values()) == ["canceled"]


CHOICES = st.lists(st.integers(0, 11), max_size=50)

# Seconds until an attempt's prediction is created, if ever, and until its response or loss.
ATTEMPT = st.tuples(
    st.sampled_from([None, 0, 2, 15]), st.integers(0, 3), st.sampled_from(["lost", "answered"])
)


@settings(max_examples=25, deadline=None)
@given(
    choices=CHOICES,
    attempts=st.lists(ATTEMPT, min_size=2, max_size=3),
    list_deadlines=st.booleans(),
    revoked=st.booleans(),
)
@example([], [(0, 0, "answered"), (0, 0, "lost"), (None, 0, "lost")], False, True)
@example([], [(15, 0, "answered"), (0, 0, "lost")], False, False)
@in_virtual_time
async def test_equal_attempts_get_one_prediction_each_and_none_is_reported_not_created(
    choices: list[int],
    attempts: list[tuple[int | None, int, str]],
    list_deadlines: bool,
    revoked: bool,
) -> None:
    results: dict[int, str | Verdict] = {}

    async def live(permit: int, batch: str, life: int, fate: tuple[int | None, int, str]) -> None:
        """Handle an attempt like the engine does when its response arrives or is lost."""
        made_after, answer_after, end = fate
        prediction: str | Verdict | None = None
        if made_after is not None:
            await anyio.sleep(made_after)
            prediction = replicate.made(cancel_after=life)
        await anyio.sleep(answer_after)
        if prediction is None or end == "lost":
            prediction = await reconciler.resolve(permit, gateways[permit % 2])
        while isinstance(prediction, str):
            row = finished(prediction=prediction)
            if await backend.finish(permit, batch, row) is not None:
                break
            prediction = await reconciler.resolve(permit, gateways[permit % 2])
        else:
            await backend.requeue(permit)
        results[permit] = prediction

    with Schedule(choices) as schedule:
        replicate = Replicate(
            schedule=schedule, list_deadlines=list_deadlines, predict_seconds=1_000
        )
        gateways = [replicate.gateway(TOKEN), replicate.gateway(OTHER_TOKEN)]
        if revoked:
            replicate.world.revoke({TOKEN})
        async with running_process() as process:
            noted_attempts = [
                await recorded(process.store, gateways[0], {"prompt": "a red car"}, batch=f"b_{n}")
                for n in range(len(attempts))
            ]
            names = (
                "open_attempts",
                "list_prediction_ids",
                "claim_prediction",
                "finish",
                "requeue",
            )
            backend = schedule.hold(process.store, *names)
            reconciler = Reconciler(ACCOUNT, backend, process.group.start_soon)
            async with anyio.create_task_group() as group:
                for number, (each, fate) in enumerate(zip(noted_attempts, attempts, strict=True)):
                    ((permit, life),) = each.items()
                    group.start_soon(live, permit, f"b_{number}", life, fate)
    if revoked:
        # Only waiters that gave the other token are certain to get a result.
        results = {k: v for k, v in results.items() if v is not Verdict.REFUSED}
    else:
        assert Counter(map(type, results.values()))[str] == len(replicate.predictions)
    ids = [each for each in results.values() if isinstance(each, str)]
    assert len(ids) == len(set(ids)), "no prediction is two attempts'"
    not_made = [each for each in results.values() if each is Verdict.NOT_MADE]
    assert len(not_made) <= sum(made_after is None for made_after, _, _ in attempts)
    assert Verdict.UNKNOWN not in results.values()


CREATIONS: dict[str, Answer] = {
    "made": forwarded,
    "lost, made": lost(carried_out=True),
    "lost, not made": lost(carried_out=False),
    "not sent": unsent,
    "500": refused(500),
    "429": refused(429, retry_after=1),
}

WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Shrinking a failure of whole batches takes minutes, and the order of calls is printed anyway."""

HELD = (
    "record_attempts",
    "open_attempts",
    "list_prediction_ids",
    "claim_prediction",
    "finish",
    "requeue",
    "record_results",
    "dequeue",
)


@settings(max_examples=10, deadline=None, phases=WITHOUT_SHRINKING)
@given(
    choices=CHOICES,
    faults=st.lists(st.sampled_from(sorted(CREATIONS)), max_size=4),
    list_deadlines=st.booleans(),
    predict_seconds=st.sampled_from(["2", "2,20", "20,90"]),
    cancel_at=st.none() | st.integers(0, 80),
)
@in_virtual_time
async def test_equal_batches_create_each_task_once_and_cancel_only_their_own(
    choices: list[int],
    faults: list[str],
    list_deadlines: bool,
    predict_seconds: str,
    cancel_at: int | None,
) -> None:
    with Schedule(choices) as schedule:
        replicate = Replicate(
            schedule=schedule, predict_seconds=predict_seconds, list_deadlines=list_deadlines
        )
        replicate.answer("create", *(CREATIONS[fault] for fault in faults))

        def wrap(backend: Backend) -> Backend:
            return schedule.hold(backend, *HELD)

        async with running_process(wrap=wrap) as process:
            kept = await process.start(replicate.gateway(), task(0), task(1))
            other = await process.start(replicate.gateway(), task(0), task(1))
            if cancel_at is not None:
                await anyio.sleep(cancel_at)
                process.runner.cancel(other)
            kept_rows, other_rows = await process.rows(kept), await process.rows(other)
            rows = [*kept_rows.values(), *other_rows.values()]
            assert [type(row) for row in kept_rows.values()] == [TaskSuccess] * 2
            reported = Counter(row.prediction_id for row in rows if row.prediction_id)
            assert set(reported.values()) <= {1}, "no prediction is two tasks'"
            assert set(reported) == set(replicate.statuses()), "every prediction is some task's"
            for row in other_rows.values():
                assert isinstance(row, TaskSuccess) or row.error_code == "canceled"
                assert cancel_at is not None or isinstance(row, TaskSuccess)
            assert await process.in_use() == 0
            assert replicate.world.account(ACCOUNT).in_flight == 0
