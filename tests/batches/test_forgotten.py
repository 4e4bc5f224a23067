"""What is entered of an account into a backend that has lost its memory."""

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
)
from batches.leaving import CAR, left, now, recovered, with_token, wrapped
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.backend import RunningPrediction
from replicate_mcp.semaphores.permits import AdmissionResult


class Forgetful:
    """A backend that has lost its memory until it is told what runs.

    Attributes:
        told: what it was told, each time.
    """

    def __init__(self, *, times: int = 1, room: AdmissionResult | None = None) -> None:
        self._times = times
        self._room = room or AdmissionResult()
        self.told: list[list[RunningPrediction]] = []

    def wrap(self) -> Any:
        return wrapped(forgot=self._forgot, enter_running=self._enter)

    async def _forgot(self, whole: Any, account: str) -> bool:
        assert account == ACCOUNT
        return len(self.told) < self._times

    async def _enter(self, whole: Any, account: str, running: list[RunningPrediction]) -> AdmissionResult:
        assert account == ACCOUNT
        self.told.append(running)
        return self._room

    async def entered(self) -> list[RunningPrediction]:
        """Return what it was told first."""
        while not self.told:
            await anyio.sleep(0.1)
        return self.told[0]


def lasts(seconds: float) -> float:
    return cast(float, pytest.approx(seconds, abs=2))


@in_virtual_time
async def test_what_runs_and_is_nobodys_is_entered_with_its_longest_life() -> None:
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
        stranger = replicate.made("c", cancel_after=900)
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert await forgetful.entered() == [
            RunningPrediction(stranger, MODEL, lasts(960)),
            RunningPrediction(other, MODEL, lasts(360)),
        ]
    assert replicate.statuses()[ended] == "canceled"
    assert fitting not in {each.id for each in forgetful.told[0]}
    assert open_one != known


@in_virtual_time
async def test_of_two_equal_predictions_only_one_belongs_to_an_attempt() -> None:
    replicate = Replicate(predict_seconds=500)
    forgetful = Forgetful()
    async with running_process(wrap=forgetful.wrap()) as process:
        known, _ = await left(process, CAR, CAR, held=(0, 1))
        first = replicate.made()
        assert await process.store.claim_prediction(known, "b_1", first)
        await anyio.sleep(1)
        replicate.made(cancel_after=597)
        await anyio.sleep(1)
        stranger = replicate.made(cancel_after=597)
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert [each.id for each in await forgetful.entered()] == [stranger]


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 90 + 60), ({"list_deadlines": False}, 24 * 3600 - 10 + 60)],
)
@in_virtual_time
async def test_a_prediction_without_a_deadline_may_live_for_a_day(
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
async def test_a_prediction_past_its_deadline_may_take_a_minute_more() -> None:
    from batches.direct import changed
    from replicate_mcp.simulator.clock import timestamp

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
async def test_the_list_is_read_an_hour_back_on_replicates_clock() -> None:
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
async def test_a_list_too_long_is_entered_as_far_as_it_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replicate = Replicate(predict_seconds=500, page_size=1)
    forgetful = Forgetful()
    made = [replicate.made(f"p{number}") for number in range(22)]
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        entered = await forgetful.entered()
    assert [each.id for each in entered] == made[:1:-1]
    assert "too long to be read whole" in caplog.text


@pytest.mark.parametrize("status", [401, 403])
@in_virtual_time
async def test_where_a_token_is_refused_another_tells_what_runs(
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
async def test_a_list_that_cannot_be_read_is_read_again_with_the_same_token() -> None:
    replicate = Replicate(predict_seconds=500)
    forgetful = Forgetful()
    replicate.made()
    replicate.answer("list", *[refused(500)] * 3)
    async with running_process(wrap=forgetful.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert len(await forgetful.entered()) == 1
        assert now() == pytest.approx(6, abs=1)


@in_virtual_time
async def test_until_it_is_told_no_orphan_is_taken_and_the_room_is_handed_on() -> None:
    replicate = Replicate()
    forgetful = Forgetful(room=AdmissionResult(paused_for=7.0))
    replicate.answer("list", *[refused(500)] * 3)
    async with running_process(wrap=forgetful.wrap()) as process:
        await left(process, CAR)
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(5)
        assert len(await process.store.orphans(ACCOUNT)) == 1
        await forgetful.entered()
        assert process.holder.paused_for == pytest.approx(7, abs=1)
        await recovered(process)
