"""The lifecycle of predictions, as seen by a client of Replicate."""

import asyncio

import httpx
import pytest

from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.problem_details import Problem
from replicate_mcp.simulator.routes.predictions import cancel_after
from simulator.calls import create, get


async def test_held_creation_returns_the_output_when_the_prediction_ends(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(predict_seconds=0.05)
    response = await create(client, num_outputs=3)
    prediction = response.json()
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "wait"
    assert response.headers["location"].endswith(prediction["id"])
    assert prediction["status"] == "succeeded"
    assert len(prediction["output"]) == 3
    assert prediction["metrics"]["predict_time"] >= 0.05
    assert prediction["version"] == "hidden"


async def test_creation_without_prefer_header_returns_immediately(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    response = await create(client, wait=None)
    assert response.json()["status"] == "starting"
    assert response.json()["output"] is None
    assert "preference-applied" not in response.headers
    await simulator.reached(succeeded=1)
    assert (await get(client, response.json()))["status"] == "succeeded"


async def test_expired_hold_returns_the_running_prediction(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    response = await create(client, "[hang]", wait="wait=1")
    assert response.headers["preference-applied"] == "wait=1"
    assert response.json()["status"] == "processing"
    assert "completed_at" not in response.json()


async def test_prediction_is_queued_before_it_starts(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(queue_seconds=0.1)
    prediction = (await create(client)).json()
    assert prediction["metrics"]["total_time"] >= 0.1 > prediction["metrics"]["predict_time"]


async def test_cancelling_a_running_prediction_ends_its_held_creation(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    held = asyncio.create_task(create(client, "[hang]"))
    await simulator.reached(in_flight=1)
    await wait_until_started(simulator)
    (known,) = simulator.predictions()
    cancelled = await client.post(f"/v1/predictions/{known['id']}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "canceled"
    assert "predict_time" in cancelled.json()["metrics"]
    assert (await held).json()["status"] == "canceled"


async def test_cancelling_a_queued_prediction_aborts_it(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(queue_seconds=60)
    prediction = (await create(client, wait=None)).json()
    await client.post(f"/v1/predictions/{prediction['id']}/cancel")
    prediction = await get(client, prediction)
    assert prediction["status"] == "aborted"
    assert "metrics" not in prediction


async def test_cancelling_an_ended_prediction_changes_nothing(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    prediction = (await create(client)).json()
    answer = await client.post(f"/v1/predictions/{prediction['id']}/cancel")
    assert answer.json() == prediction


async def test_cancel_duration_is_configurable(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(cancel_seconds=0.05)
    prediction = (await create(client, "[hang]", wait=None)).json()
    await wait_until_started(simulator)
    answer = await client.post(f"/v1/predictions/{prediction['id']}/cancel")
    assert answer.json()["status"] == "processing"
    await simulator.reached(canceled=1)


@pytest.mark.parametrize(("queue_seconds", "status"), [(0, "canceled"), (60, "aborted")])
async def test_prediction_past_its_deadline_is_stopped(
    simulator: Simulator, client: httpx.AsyncClient, queue_seconds: float, status: str
) -> None:
    simulator.configure(minimum_cancel_after_seconds=1, queue_seconds=queue_seconds)
    prediction = (await create(client, "[hang]", cancel_after="1s")).json()
    assert prediction["status"] == status
    assert prediction["deadline"] > prediction["created_at"]
    assert prediction["output"] is None


async def test_unreached_deadline_has_no_effect(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    assert (await create(client, cancel_after="5m")).json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"30", 30), (b"30s", 30), (b"5m", 300), (b"1h30m", 5400), (b"1h30m45s", 5445), (b"", None)],
)
def test_cancel_after_is_parsed(text: bytes, seconds: float | None) -> None:
    assert cancel_after(text, 5) == seconds


@pytest.mark.parametrize("text", [b"4", b"25h", b"soon", b"1.5s", b"30s5m"])
def test_invalid_cancel_after_is_rejected(text: bytes) -> None:
    with pytest.raises(Problem) as refusal:
        cancel_after(text, 5)
    assert refusal.value.status == 422


@pytest.mark.parametrize("prefer", ["wait=0", "wait=100", "wait=500", "wait=x"])
async def test_invalid_wait_is_rejected(client: httpx.AsyncClient, prefer: str) -> None:
    assert (await create(client, wait=prefer)).status_code == 422


async def test_prediction_continues_after_its_client_disconnects(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(predict_seconds=0.3)
    with pytest.raises(httpx.ReadTimeout):
        await client.post(
            "/v1/models/black-forest-labs/flux-schnell/predictions",
            json={"input": {"prompt": "a"}},
            headers={"prefer": "wait"},
            timeout=0.1,
        )
    assert (await simulator.reached(succeeded=1))["accounts"]["acme"]["in_flight"] == 0


@pytest.mark.parametrize(
    ("word", "status", "error"),
    [("[fail]", "failed", "Prediction failed"), ("[nsfw]", "failed", "NSFW content detected")],
)
async def test_word_in_the_prompt_makes_the_prediction_fail(
    client: httpx.AsyncClient, word: str, status: str, error: str
) -> None:
    prediction = (await create(client, f"a cat {word}")).json()
    assert prediction["status"] == status
    assert prediction["error"].startswith(error)
    assert prediction["output"] is None


@pytest.mark.parametrize(
    ("model", "nothing"),
    [("black-forest-labs/flux-schnell", []), ("black-forest-labs/flux-1.1-pro", None)],
)
async def test_prediction_can_succeed_without_output(
    client: httpx.AsyncClient, model: str, nothing: object
) -> None:
    path = f"/v1/models/{model}/predictions"
    prediction = (await create(client, "[no-output]", path=path)).json()
    assert (prediction["status"], prediction["output"]) == ("succeeded", nothing)


async def test_prediction_can_reject_content_in_its_log_or_as_text(
    client: httpx.AsyncClient,
) -> None:
    refused = (await create(client, "[nsfw-log]")).json()
    assert (refused["status"], refused["output"]) == ("succeeded", [])
    assert refused["logs"].endswith("NSFW content detected in image 0\n")
    worded = (await create(client, "[words]")).json()
    assert (worded["status"], worded["output"]) == ("succeeded", "I cannot draw that.")


async def test_prompt_words_can_be_disabled(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(prompt_words=False)
    assert (await create(client, "[fail]")).json()["status"] == "succeeded"


async def test_prediction_is_stopped_at_the_run_limit(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(run_limit_seconds=0.05)
    prediction = (await create(client, "[hang]")).json()
    assert prediction["status"] == "failed"
    assert "longer" in prediction["error"]


async def test_prediction_with_early_output_is_no_longer_in_flight(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(output_before_end=True, settle_seconds=0.2)
    prediction = (await create(client)).json()
    assert prediction["status"] == "processing"
    assert prediction["output"]
    assert "metrics" not in prediction
    assert simulator.account("acme")["in_flight"] == 0
    await simulator.reached(succeeded=1)
    settled = await get(client, prediction)
    assert settled["output"] == prediction["output"]
    assert settled["metrics"]
    assert simulator.account("acme")["in_flight"] == 0


async def test_files_can_appear_one_by_one_starting_in_the_held_response(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(files_one_by_one=True, predict_seconds=0.5)
    prediction = (await create(client, num_outputs=4)).json()
    assert (prediction["status"], len(prediction["output"])) == ("processing", 1)
    assert simulator.account("acme")["in_flight"] == 1
    seen = [prediction]
    while seen[-1]["status"] == "processing":
        seen.append(await get(client, prediction))
    assert [each["output"] for each in seen] == sorted(each["output"] for each in seen)
    assert (seen[-1]["status"], len(seen[-1]["output"])) == ("succeeded", 4)
    model = (await client.get("/v1/models/black-forest-labs/flux-schnell")).json()
    output = model["latest_version"]["openapi_schema"]["components"]["schemas"]["Output"]
    assert output["x-cog-array-type"] == "iterator"


async def test_output_shown_before_a_cancel_is_kept(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(files_one_by_one=True, predict_seconds=3)
    prediction = (await create(client, num_outputs=4)).json()
    await client.post(f"/v1/predictions/{prediction['id']}/cancel")
    canceled = await get(client, prediction)
    assert (canceled["status"], canceled["output"]) == ("canceled", prediction["output"])


async def test_data_urls_appear_only_in_held_responses(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(data_url_outputs=True)
    prediction = (await create(client, megapixels="0.25")).json()
    assert prediction["output"][0].startswith("data:image/webp;base64,")
    later = await get(client, prediction)
    assert later["output"][0].startswith(f"{simulator.url}/delivery/")


async def test_metrics_can_be_missing(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.configure(missing_metrics=True)
    assert "metrics" not in (await create(client)).json()


async def test_creation_can_return_202(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.configure(answer_202=True)
    assert (await create(client)).status_code == 202


async def test_input_output_and_files_are_deleted_after_the_retention_time(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    prediction = (await create(client)).json()
    simulator.configure(retention_seconds=0)
    later = await get(client, prediction)
    assert later["data_removed"] is True
    assert (later["input"], later["output"]) == ({}, None)
    assert (await client.get(prediction["output"][0])).status_code == 404


async def test_reset_ends_held_creations(simulator: Simulator, client: httpx.AsyncClient) -> None:
    held = asyncio.create_task(create(client, "[hang]"))
    await simulator.reached(in_flight=1)
    simulator.reset()
    assert (await held).status_code == 201
    assert simulator.predictions() == []


async def wait_until_started(simulator: Simulator) -> None:
    await simulator.reached(started=1)
