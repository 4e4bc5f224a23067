"""Import of an account's running predictions into a backend that has lost its state."""

from typing import Any, cast

import anyio
import pytest

from batches.direct import (
    ACCOUNT,
    MODEL,
    OTHER_TOKEN,
    TOKEN,
    Replicate,
    refused,
    running_process,
    wrapped,
)
from batches.orphans import CAR, left, now, recovered, with_token
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.attempt_store import RunningPrediction
from replicate_mcp.semaphores.permit_store import AdmissionResult


class Forgetful:
    """A backend without state until running predictions are imported `times` times.

    Attributes:
        imported: the predictions of each import.
    """

    def __init__(self, *, times: int = 1, admission: AdmissionResult | None = None) -> None:
        self._times = times
        self._room = admission or AdmissionResult()
        self.imported: list[list[RunningPrediction]] = []

    def wrap(self) -> Any:
        return wrapped(has_lost_state=self._forgot, import_running=self._enter)

    async def _forgot(self, whole: Any, account: str) -> bool:
        assert account == ACCOUNT
        return len(self.imported) < self._times

    async def _enter(
        self, whole: Any, account: str, running: list[RunningPrediction]
    ) -> AdmissionResult:
        assert account == ACCOUNT
        self.imported.append(running)
        return self._room

    async def entered(self) -> list[RunningPrediction]:
        """Return the predictions of the first import."""
        while not self.imported:
            await anyio.sleep(0.1)
        return self.imported[0]


def lasts(seconds: float) -> float:
    return cast(float, pytest.approx(seconds, abs=2))


@in_virtual_time
async def test_untracked_running_predictions_are_imported_with_their_maximum_lifetime() -> None:
    replicate = Replicate(predict_seconds=500)
    forgetful = Forgetful()
    ended = replicate.made("ended", cancel_after=5)
    await anyio.sleep(10)
    async with running_process(wrap=forgetful.wrap()) as process:
        known, open_one = await left(process, CAR, {"prompt": "b"}, held=(0, 1))
        mine = replicate.made()
        assert await process.store.claim_prediction(known, "b_1", mine)
        fitting = replicate.made("b")
        other = replicate.made("b", cancel_after=300)
        untracked = replicate.made("c", cancel_after=900)
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert await forgetful.entered() == [
            RunningPrediction(untracked, MODEL, lasts(960)),
            RunningPrediction(other, MODEL, lasts(360)),
        ]
    assert replicate.statuses()[ended] == "canceled"
    assert fitting not in {each.id for each in forgetful.imported[0]}
    assert open_one != known


@in_virtual_time
async def test_only_one_of_two_equal_predictions_belongs_to_an_attempt() -> None:
    replicate = Replicate(predict_seconds=500)
    forgetful = Forgetful()
    async with running_process(wrap=forgetful.wrap()) as process:
        known, _ = await left(process, CAR, CAR, held=(0, 1))
        first = replicate.made()
        assert await process.store.claim_prediction(known, "b_1", first)
        await anyio.sleep(1)
        replicate.made(cancel_after=597)
        await anyio.sleep(1)
        untracked = replicate.made(cancel_after=597)
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert [each.id for each in await forgetful.entered()] == [untracked]


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 90 + 60), ({"list_deadlines": False}, 24 * 3600 - 10 + 60)],
)
@in_virtual_time
async def test_prediction_without_a_deadline_is_imported_with_a_day_of_lifetime(
    settings: dict[str, Any], seconds: float
) -> None:
    replicate = Replicate(predict_seconds=500, **settings)
    forgetful = Forgetful()
    replicate.made(cancel_after=100)
    await anyio.sleep(10)
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        (entered,) = await forgetful.entered()
    assert entered.ends_in == pytest.approx(seconds, abs=2)


@in_virtual_time
async def test_prediction_past_its_deadline_is_imported_with_a_minute_of_lifetime() -> None:
    from batches.direct import changed
    from replicate_mcp.simulator.engine.clock import timestamp

    replicate = Replicate(predict_seconds=500)
    forgetful = Forgetful()
    replicate.made(cancel_after=400)
    await anyio.sleep(300)
    past = timestamp(replicate.world.clock.now() - 100)
    replicate.always(
        "list", changed(lambda page: [row.update(deadline=past) for row in page["results"]])
    )
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        (entered,) = await forgetful.entered()
    assert entered.ends_in == 60


@in_virtual_time
async def test_prediction_list_is_read_an_hour_back_on_the_replicate_clock() -> None:
    replicate = Replicate(predict_seconds=9_000, run_limit_seconds=10_000, clock_offset_seconds=-99)
    forgetful = Forgetful()
    replicate.made("old", cancel_after=9_000)
    await anyio.sleep(20)
    young = replicate.made("young", cancel_after=9_000)
    await anyio.sleep(3_590)
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert [each.id for each in await forgetful.entered()] == [young]


@in_virtual_time
async def test_too_long_prediction_list_is_imported_as_far_as_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replicate = Replicate(predict_seconds=500, page_size=1)
    forgetful = Forgetful()
    made = [replicate.made(f"p{number}") for number in range(22)]
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        entered = await forgetful.entered()
    assert [each.id for each in entered] == made[:1:-1]
    assert "too long to read completely" in caplog.text


@pytest.mark.parametrize("status", [401, 403])
@in_virtual_time
async def test_running_predictions_are_imported_with_another_token_when_one_is_rejected(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    replicate = Replicate(predict_seconds=500)
    replicate.always("list", with_token(TOKEN, refused(status)))
    forgetful = Forgetful()
    made = replicate.made()
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        assert [each.id for each in await forgetful.entered()] == [made]
        assert now() < 5
    assert str(status) in caplog.text
    assert [record for record in caplog.records if record.exc_info] == []


@in_virtual_time
async def test_failed_list_read_is_retried_with_the_same_token() -> None:
    replicate = Replicate(predict_seconds=500)
    forgetful = Forgetful()
    replicate.made()
    replicate.answer("list", *[refused(500)] * 3)
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert len(await forgetful.entered()) == 1
        assert now() == pytest.approx(6, abs=1)


@in_virtual_time
async def test_no_orphan_is_adopted_before_import_and_its_admission_is_dispatched() -> None:
    replicate = Replicate()
    forgetful = Forgetful(admission=AdmissionResult(paused_for=7.0))
    replicate.answer("list", *[refused(500)] * 3)
    async with running_process(wrap=forgetful.wrap()) as process:
        await left(process, CAR)
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(5)
        assert len(await process.store.orphans(ACCOUNT)) == 1
        await forgetful.entered()
        assert process.dispatcher.paused_for == pytest.approx(7, abs=1)
        await recovered(process)
