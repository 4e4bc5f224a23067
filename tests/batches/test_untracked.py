"""Predictions without a known attempt hold their permits to their ends."""

from typing import Any

import anyio
import pytest

from batches.direct import (
    ACCOUNT,
    MODEL,
    OTHER_TOKEN,
    TOKEN,
    Answer,
    Replicate,
    lost,
    refused,
    running_process,
    wrapped,
)
from batches.orphans import now, with_token
from batches.virtual_time import in_virtual_time
from replicate_mcp.batches.attempt_store import AttemptRecord

# Untracked predictions.


class Entered:
    """A backend with one untracked prediction, which records the calls for its permit.

    Attributes:
        done: each call and its time.
    """

    def __init__(self, prediction: str) -> None:
        self._entered = AttemptRecord(77, "", 0, MODEL, {}, 0, 0.0, prediction)
        self._is_held = False
        self.done: list[tuple[str, float]] = []

    def wrap(self) -> Any:
        return wrapped(
            orphans=self._orphans, adopt=self._adopt, release=self._release, abandon=self._abandon
        )

    async def _orphans(self, whole: Any, account: str) -> list[AttemptRecord]:
        return [] if self._is_held else [self._entered]

    async def _adopt(self, whole: Any, permit: int) -> bool:
        assert permit == 77
        self._is_held = True
        return True

    async def _release(self, whole: Any, permit: int) -> Any:
        self.done.append(("release", now()))
        return await whole(permit)

    async def _abandon(self, whole: Any, permit: int) -> None:
        assert permit == 77
        self.done.append(("abandon", now()))

    async def steps(self, count: int = 1) -> list[str]:
        while len(self.done) < count:
            await anyio.sleep(0.1)
        return [step for step, _ in self.done]


@pytest.mark.parametrize("answers", [[], [refused(500)] * 3, [lost(carried_out=False)] * 3])
@in_virtual_time
async def test_untracked_prediction_holds_its_permit_to_its_end_and_is_not_cancelled(
    answers: list[Answer],
) -> None:
    replicate = Replicate(predict_seconds=100)
    made = replicate.made(cancel_after=200)
    entered = Entered(made)
    replicate.answer("get", *answers)
    async with running_process(wrap=entered.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert await entered.steps() == ["release"]
        assert entered.done[0][1] == pytest.approx(100, abs=3)
    assert replicate.statuses() == {made: "succeeded"}
    assert replicate.times("cancel") == []


@in_virtual_time
async def test_missing_untracked_prediction_frees_its_permit() -> None:
    entered = Entered("p0")
    async with running_process(wrap=entered.wrap()) as process:
        process.runner.recover(ACCOUNT, Replicate().gateway())
        assert await entered.steps() == ["release"]
        assert now() < 5


@pytest.mark.parametrize("status", [401, 403])
@in_virtual_time
async def test_untracked_prediction_is_abandoned_without_a_working_token(status: int) -> None:
    replicate = Replicate(predict_seconds=60)
    entered = Entered(replicate.made())
    replicate.always("get", with_token(TOKEN, refused(status)))
    async with running_process(wrap=entered.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert await entered.steps() == ["abandon"]
        assert len(replicate.times("get")) == 1


@pytest.mark.parametrize("status", [401, 403])
@in_virtual_time
async def test_untracked_prediction_is_followed_with_another_token(status: int) -> None:
    replicate = Replicate(predict_seconds=60)
    entered = Entered(replicate.made())
    replicate.always("get", with_token(TOKEN, refused(status)))
    async with running_process(wrap=entered.wrap()) as process:
        process.runner.recover(ACCOUNT, replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        assert await entered.steps() == ["release"]
        assert now() == pytest.approx(60, abs=3)


@in_virtual_time
async def test_untracked_prediction_is_retried_later_after_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from replicate_mcp.batches import recovery

    async def fails(*_: Any) -> None:
        raise KeyError("a fault of our own")

    monkeypatch.setattr(recovery, "wait_until_ended", fails)
    entered = Entered("p0")
    async with running_process(wrap=entered.wrap()) as process:
        process.runner.recover(ACCOUNT, Replicate().gateway())
        assert await entered.steps() == ["abandon"]
        assert entered.done[0][1] == pytest.approx(30, abs=0.1)
