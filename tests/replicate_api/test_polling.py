"""Following of a prediction: polling interval, cancellation, and when it is given up."""

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from batches.direct import Answer, Replicate, changed, lost, refused, unsent
from batches.orphans import never_ends, now
from batches.virtual_time import EPOCH, in_virtual_time
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    PredictionStuck,
    ReplicateApiError,
    RequestNotSent,
    ResponseLost,
)
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.replicate_api.webhooks import FALLBACK_POLL_SECONDS, Webhooks


async def followed(
    replicate: Replicate, *, cancel_after: int = 600, until: float | None = None
) -> Prediction:
    """Follow a new prediction of which only the id is known."""
    made = replicate.made(cancel_after=cancel_after)
    gateway = replicate.gateway()
    by = gateway.now() + (cancel_after if until is None else until)
    return await gateway.follow(Prediction.from_id(made), until=by)


@in_virtual_time
async def test_prediction_is_polled_immediately_and_then_twice_a_second() -> None:
    replicate = Replicate(predict_seconds=1.7)
    found = await followed(replicate)
    assert found.status == "succeeded"
    assert replicate.times("get") == pytest.approx([0, 0.5, 1, 1.5, 2])


@in_virtual_time
async def test_running_prediction_is_polled_after_a_delay_and_ended_one_never() -> None:
    replicate = Replicate(predict_seconds=0.7)
    gateway = replicate.gateway()
    seen = await gateway.get(replicate.made())
    ended = await gateway.follow(seen, until=gateway.now() + 60)
    assert replicate.times("get") == pytest.approx([0, 0.5, 1])
    assert await gateway.follow(ended, until=gateway.now() - 10_000) is ended
    assert len(replicate.times("get")) == 3


@in_virtual_time
async def test_poll_interval_grows_with_the_number_of_followed_predictions() -> None:
    replicate = Replicate(predict_seconds=20.5)
    gateway = replicate.gateway()
    async with anyio.create_task_group() as group:
        for _ in range(100):
            follow = partial(gateway.follow, until=gateway.now() + 60)
            group.start_soon(follow, Prediction.from_id(replicate.made()))
    assert len(replicate.times("get")) == 100 * (1 + 9)  # Forty polls a second.
    await followed_again(gateway, replicate)


async def followed_again(gateway: Gateway, replicate: Replicate) -> None:
    """Check that an ended prediction, with any status, is not polled again."""
    replicate.calls.clear()
    replicate.world.configure({"predict_seconds": 0.9})
    start = now()
    await gateway.follow(Prediction.from_id(replicate.made()), until=gateway.now() + 60)
    assert [at - start for at in replicate.times("get")] == pytest.approx([0, 0.5, 1])


# The responses to polls, and the times of the next ones.
PACES: list[Any] = [
    pytest.param([lost(carried_out=False)], [0, 0.5], id="reset"),
    pytest.param([unsent], [0, 0.5], id="no connection"),
    pytest.param([refused(500)], [0, 2], id="500"),
    pytest.param([refused(400)], [0, 2], id="400"),
    pytest.param([refused(402)], [0, 2], id="402"),
    pytest.param([refused(429)], [0, 2], id="429"),
    pytest.param([refused(429, retry_after=0)], [0, 2], id="no pause"),
    pytest.param([refused(429, retry_after=0.1)], [0, 0.5], id="a short pause"),
    pytest.param([refused(429, retry_after=7)], [0, 7], id="a pause"),
    pytest.param([refused(503, retry_after=100)], [0, 30], id="a long pause"),
    pytest.param([refused(500), unsent], [0, 2, 2.5], id="two"),
]


@pytest.mark.parametrize(("answers", "times"), PACES)
@in_virtual_time
async def test_failed_poll_is_retried(answers: list[Answer], times: list[float]) -> None:
    replicate = Replicate()
    replicate.answer("get", *answers)
    assert (await followed(replicate)).status == "succeeded"
    assert replicate.times("get") == pytest.approx(times)


@pytest.mark.parametrize("status", [401, 403, 404])
@in_virtual_time
async def test_permanently_rejected_poll_is_not_retried(status: int) -> None:
    replicate = Replicate()
    replicate.answer("get", refused(status))
    gateway = replicate.gateway()
    with pytest.raises(ApiStatusError) as caught:
        await gateway.follow(Prediction.from_id(replicate.made()), until=gateway.now() + 60)
    assert caught.value.status == status
    assert len(replicate.times("get")) == 1
    await followed_again(gateway, replicate)


@in_virtual_time
async def test_prediction_past_its_deadline_is_cancelled_once_and_followed_to_its_end() -> None:
    replicate = Replicate(predict_seconds=100, cancel_seconds=10)
    found = await followed(replicate, until=20)
    assert found.status == "canceled"
    assert replicate.times("cancel") == pytest.approx([20.5])
    assert now() == pytest.approx(31, abs=0.6)


@in_virtual_time
async def test_prediction_found_ended_past_its_deadline_is_not_cancelled() -> None:
    replicate = Replicate(predict_seconds=1)
    made = replicate.made()
    await anyio.sleep(5)
    gateway = replicate.gateway()
    found = await gateway.follow(Prediction.from_id(made), until=gateway.now() - 1)
    assert found.status == "succeeded"
    assert replicate.times("cancel") == []


@in_virtual_time
async def test_failed_cancel_is_retried() -> None:
    replicate = Replicate(predict_seconds=100)
    replicate.answer("cancel", refused(500), lost(carried_out=False))
    assert (await followed(replicate, until=20)).status == "canceled"
    assert replicate.times("cancel") == pytest.approx([20.5, 22.5, 23])


@in_virtual_time
async def test_prediction_not_ended_a_minute_after_its_deadline_is_stuck() -> None:
    replicate = Replicate(predict_seconds=100)
    replicate.always("get", changed(never_ends))
    with pytest.raises(PredictionStuck, match=r"^prediction \w+ does not end$"):
        await followed(replicate, until=20)
    assert now() == pytest.approx(80.5)
    assert len(replicate.times("cancel")) == 1


@pytest.mark.parametrize("answer", [refused(500), lost(carried_out=False), unsent])
@in_virtual_time
async def test_unreadable_prediction_is_polled_until_its_files_expire(answer: Answer) -> None:
    replicate = Replicate()
    replicate.always("get", answer)
    with pytest.raises(ReplicateApiError) as caught:
        await followed(replicate, until=20 - 50 * 60)
    assert not isinstance(caught.value, PredictionStuck)
    assert 20 < now() <= 22


@in_virtual_time
async def test_prediction_is_polled_once_more_when_cancel_fails_long_after_its_deadline() -> None:
    replicate = Replicate(predict_seconds=1_000)
    replicate.always("cancel", lost(carried_out=False))
    with pytest.raises(PredictionStuck):
        await followed(replicate, until=-50 * 60 - 10)
    assert len(replicate.times("get")) == 1


@in_virtual_time
async def test_inline_output_is_awaited_until_the_end_of_the_prediction() -> None:
    def inline(document: dict[str, Any]) -> None:
        document["output"] = "data:image/png;base64,AA"

    replicate = Replicate(predict_seconds=3, output_before_end=1, settle_seconds=2)
    replicate.always("get", changed(inline))
    found = await followed(replicate)
    assert (found.status, found.inline) == ("succeeded", True)
    assert len(replicate.times("get")) == len(range(0, 11)) or replicate.times("get")[-1] >= 3


class SilentWebhooks:
    """Webhooks that never arrive; records which ones are awaited."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.forgotten: list[str] = []

    async def wait(self, prediction_id: str, *, seconds: float) -> None:
        self.waits.append(seconds)
        await anyio.sleep(seconds)

    def forget(self, prediction_id: str) -> None:
        self.forgotten.append(prediction_id)


@pytest.mark.parametrize(
    ("until", "waits"),
    [(1_000, [0, FALLBACK_POLL_SECONDS]), (9, [0, 9.5]), (-9, [0, FALLBACK_POLL_SECONDS])],
)
@in_virtual_time
async def test_with_webhooks_prediction_is_polled_occasionally_and_at_its_deadline(
    until: float, waits: list[float]
) -> None:
    replicate = Replicate(predict_seconds=5)
    gateway, silent = replicate.gateway(), SilentWebhooks()
    gateway.webhooks = cast(Webhooks, silent)
    made = replicate.made()
    await gateway.follow(Prediction.from_id(made), until=gateway.now() + until)
    assert silent.waits == pytest.approx(waits)
    assert silent.forgotten == [made]


@in_virtual_time
async def test_webhooks_are_requested_on_creation_when_configured() -> None:
    replicate = Replicate()
    gateway = replicate.gateway()
    webhook_args: list[Mapping[str, Any]] = []
    gateway.webhooks = cast(Webhooks, SimpleNamespace(url="https://mcp.example/x"))
    for webhooks in (gateway.webhooks, None):
        gateway.webhooks = webhooks
        webhook_args.append(gateway._webhook_args())
    assert webhook_args == [
        {"webhook": "https://mcp.example/x", "webhook_events_filter": ["completed"]},
        {},
    ]


# Time since which no call got a response.


async def fails(gateway: Gateway, kind: type[ReplicateApiError]) -> None:
    with pytest.raises(kind):
        await gateway.get("p")


@in_virtual_time
async def test_first_of_consecutive_unanswered_calls_is_recorded() -> None:
    replicate = Replicate()
    gateway = replicate.gateway()
    made = replicate.made()
    assert gateway.unanswered_since is None
    for answer in (
        None,
        refused(500),
        refused(404),
        changed(lambda document: document.update(id=7)),
    ):
        await anyio.sleep(10)
        replicate.answer("get", unsent, lost(carried_out=False))
        await fails(gateway, RequestNotSent)
        since = EPOCH + now()
        await anyio.sleep(1)
        await fails(gateway, ResponseLost)
        assert gateway.unanswered_since == since
        if answer is None:
            await gateway.get(made)
        else:
            replicate.answer("get", answer)
            with pytest.raises(ReplicateApiError):
                await gateway.get(made)
        assert gateway.unanswered_since is None
