"""The gateway over the real Replicate client, with workarounds for the client's own faults."""

import time
import traceback
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    ConnectionMisconfigured,
    PredictionStuck,
    RequestNotSent,
    ResponseLost,
)
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.replicate_api.transport import Transport, call
from replicate_mcp.simulator import Fault, Simulator
from replicate_mcp.tasks.model_name import ModelName

SCHNELL = Target(ModelName.parse("black-forest-labs/flux-schnell"))
INPUTS = {"prompt": "a red car"}


@pytest.fixture
async def gateway(simulator: Simulator) -> AsyncIterator[Gateway]:
    gateway = Gateway("r8_acme_1", simulator.url)
    yield gateway
    await gateway.aclose()


async def test_creation_is_one_call_with_prefer_wait_and_cancel_after(
    gateway: Gateway, simulator: Simulator
) -> None:
    prediction = await gateway.create(SCHNELL, INPUTS, cancel_after=77)
    assert prediction.status == "succeeded"
    assert len(prediction.urls) == 1
    (made,) = simulator.predictions()
    assert made["cancel_after"] == 77
    assert sum(simulator.stats()["requests"].values()) == 1


async def test_two_hundred_creations_run_concurrently(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=4)

    async def create(number: int) -> None:
        await gateway.create(SCHNELL, {"prompt": f"car {number}"}, cancel_after=60)

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(create, number)
    stats = simulator.account("acme")
    assert (stats["max_in_flight"], stats["succeeded"]) == (200, 200)


async def test_aborted_status_is_recognised(gateway: Gateway, simulator: Simulator) -> None:
    simulator.configure(queue_seconds=30, minimum_cancel_after_seconds=0.1)
    prediction = await gateway.create(SCHNELL, INPUTS, cancel_after=1)
    assert (prediction.status, prediction.done) == ("aborted", True)
    (listed,) = (await gateway.predictions_since(0)).predictions
    assert listed.ended


async def test_list_includes_prediction_lifetimes(gateway: Gateway) -> None:
    await gateway.create(SCHNELL, INPUTS, cancel_after=77)
    (listed,) = (await gateway.predictions_since(gateway.now() - 60)).predictions
    assert listed.lifetime == pytest.approx(77, abs=0.01)
    sent = hash_inputs(INPUTS)
    assert {name: listed.inputs[name] for name in sent} == sent
    assert (await gateway.predictions_since(gateway.now() + 60)).predictions == []


async def test_long_list_is_read_page_by_page(gateway: Gateway, simulator: Simulator) -> None:
    simulator.configure(page_size=5)
    for _ in range(12):
        await gateway.create(SCHNELL, INPUTS, cancel_after=77)
    listed = await gateway.predictions_since(0)
    assert (len(listed.predictions), listed.complete_since) == (12, 0)


async def test_too_long_list_reports_how_far_back_it_is_complete(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.configure(page_size=1)
    made = [await gateway.create(SCHNELL, INPUTS, cancel_after=77) for _ in range(23)]
    listed = await gateway.predictions_since(0)
    assert [each.id for each in listed.predictions] == [each.id for each in made[:2:-1]]
    assert listed.complete_since == made[3].created_at


async def test_429_reports_retry_after_and_rate_limit(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.configure(throttle_wording="announced", throttle_field=False)
    simulator.change_account("acme", requests_per_minute=6, burst=1)
    await gateway.create(SCHNELL, INPUTS, cancel_after=60)
    with pytest.raises(ApiStatusError) as refused:
        await gateway.create(SCHNELL, INPUTS, cancel_after=60)
    assert refused.value.status == 429
    assert refused.value.retry_after == pytest.approx(10, abs=1)
    assert refused.value.reduced_to == (6, 1)


async def test_error_response_is_not_retried_by_the_gateway(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.fault_next("503", on="get")
    with pytest.raises(ApiStatusError):
        await gateway.model("black-forest-labs", "flux-schnell")
    simulator.fault_next("503")
    with pytest.raises(ApiStatusError):
        await gateway.create(SCHNELL, INPUTS, cancel_after=60)
    assert sum(simulator.stats()["requests"].values()) == 2


async def test_422_names_the_invalid_inputs(gateway: Gateway) -> None:
    with pytest.raises(ApiStatusError) as refused:
        await gateway.create(SCHNELL, {"prompt": "x", "num_outputs": 9}, cancel_after=60)
    assert set(refused.value.fields) == {"num_outputs"}


@pytest.mark.parametrize("fault", [Fault("reset_after"), Fault("truncated"), Fault("malformed")])
async def test_incomplete_response_is_lost(
    gateway: Gateway, simulator: Simulator, fault: Fault
) -> None:
    simulator.fault_next(fault)
    with pytest.raises(ResponseLost):
        await gateway.create(SCHNELL, INPUTS, cancel_after=60)


async def test_refused_connection_means_request_not_sent() -> None:
    gateway = Gateway("r8_acme_1", "http://127.0.0.1:1")
    with pytest.raises(RequestNotSent, match=r"the simulator at .* does not answer: start"):
        await gateway.create(SCHNELL, INPUTS, cancel_after=60)


async def test_following_polls_until_the_prediction_ends(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.configure(data_url_outputs=1)
    prediction = await gateway.create(SCHNELL, INPUTS, cancel_after=60)
    assert prediction.inline
    assert not prediction.urls
    followed = await gateway.follow(prediction, until=gateway.now() + 60)
    assert followed.urls[0].startswith("http")


@pytest.mark.parametrize("fault", ["429", "500", "reset"])
async def test_one_failed_poll_after_the_deadline_does_not_mean_prediction_stuck(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    made = await gateway.create(SCHNELL, INPUTS, cancel_after=60)
    simulator.fault_next(fault, on="get")
    followed = await gateway.follow(Prediction.from_id(made.id), until=gateway.now() - 61)
    assert followed.status == "succeeded"


async def test_prediction_running_past_its_deadline_is_cancelled_and_given_up(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=60, cancel_seconds=60)
    made = await created_elsewhere(simulator)
    with pytest.raises(PredictionStuck):
        await gateway.follow(Prediction.from_id(made), until=gateway.now() - 61)
    assert simulator.stats()["requests"]["POST /v1/predictions/{id}/cancel"] == 1


async def test_following_is_given_up_when_polling_fails_past_file_expiry(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.fault_next("reset", on="get")
    with pytest.raises(ResponseLost):
        await gateway.follow(Prediction.from_id("any"), until=gateway.now() - 50 * 60 - 1)


async def created_elsewhere(simulator: Simulator) -> str:
    """Create a prediction without holding its response."""
    async with httpx.AsyncClient(headers={"Authorization": "Bearer r8_acme_2"}) as client:
        url = f"{simulator.url}/v1/models/black-forest-labs/flux-schnell/predictions"
        made: str = (await client.post(url, json={"input": INPUTS})).json()["id"]
    return made


async def test_cancelling_an_ended_or_unknown_prediction_is_not_an_error(gateway: Gateway) -> None:
    prediction = await gateway.create(SCHNELL, INPUTS, cancel_after=60)
    await gateway.cancel(prediction.id)
    await gateway.cancel("nosuchprediction")


async def test_token_is_sent_only_to_the_api(simulator: Simulator) -> None:
    transport = Transport("https://api.replicate.com")
    client = httpx.AsyncClient(transport=transport, headers={"Authorization": "Bearer r8_x"})
    with call(), pytest.raises(RequestNotSent, match="the token is not sent there"):
        await client.get(simulator.url)
    assert simulator.stats()["requests"] == {}


async def test_clock_is_synced_from_responses(simulator: Simulator) -> None:
    simulator.configure(clock_offset_seconds=3_600)
    gateway = Gateway("r8_acme_1", simulator.url)
    await gateway.account()
    assert gateway.now() - time.time() == pytest.approx(3_600, abs=2)
    await gateway.aclose()


async def test_clock_is_synced_from_an_error_response(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.configure(clock_offset_seconds=3_600)
    simulator.fault_next("503", on="get")
    await gateway.sync_clock()
    await gateway.sync_clock()
    assert gateway.now() - time.time() == pytest.approx(3_600, abs=2)
    assert sum(simulator.stats()["requests"].values()) == 1


async def test_replicate_clock_is_monotonic_when_the_local_clock_is_set(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.account()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 30)
    assert gateway.now() == pytest.approx(real(), abs=2)


async def test_response_without_date_header_does_not_sync_the_clock() -> None:
    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        gateway = Gateway("r8_acme_1", f"http://127.0.0.1:{port}")
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            with pytest.raises(ResponseLost, match="its answer has no Date header"):
                await gateway.sync_clock()
            group.cancel_scope.cancel()
        await gateway.aclose()


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:s3cr#t@proxy.example:80",
        "http://user:s3cret@proxy.example:80a",
        "http://user:s3cret@127.0.0.1:99999",
        "user:s3cret@proxy.example:80:80",
        "http://user:s3c\nret@proxy.example:80",
        "socks4://user:s3cret@proxy.example:80",
        "socks5://user:s3cret@proxy.example:80",
    ],
)
async def test_malformed_proxy_error_names_its_variable_and_hides_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("no_proxy", "")
    gateway = Gateway("r8_acme_1", "https://api.replicate.test")
    with pytest.raises(
        ConnectionMisconfigured, match=r"HTTPS_PROXY names (cannot|needs)"
    ) as refused:
        await gateway.account()
    shown = "".join(traceback.format_exception(refused.value))
    assert "s3c" not in shown
