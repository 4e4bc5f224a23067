"""The official Python client works with the simulator as it does with Replicate."""

import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from replicate.client import Client
    from replicate.exceptions import ReplicateError
    from replicate.prediction import Prediction

from replicate_mcp.simulator import Simulator

SCHNELL = "black-forest-labs/flux-schnell"


@pytest.fixture
async def official(simulator: Simulator) -> AsyncIterator[Client]:
    client = Client(api_token="r8_acme_1", base_url=simulator.url)
    yield client
    await client._async_client.aclose()  # It has no close method of its own.


async def test_python_client_creates_and_waits(official: Client) -> None:
    prediction = await official.models.predictions.async_create(
        SCHNELL, input={"prompt": "a", "num_outputs": 2}, wait=True
    )
    assert prediction.status == "succeeded"
    assert prediction.output is not None
    assert len(prediction.output) == 2
    assert prediction.metrics


async def test_python_client_creates_by_version(official: Client) -> None:
    model = await official.models.async_get("community/layers")
    assert model.latest_version is not None
    prediction = await official.predictions.async_create(
        version=model.latest_version, input={"prompt": "a"}, wait=10
    )
    assert prediction.output is not None
    assert set(prediction.output) == {"background", "foreground"}


async def test_python_client_creates_by_deployment(official: Client) -> None:
    deployment = await official.deployments.async_get("acme/fast-flux")
    assert deployment.current_release is not None
    assert deployment.current_release.model == SCHNELL
    prediction = await deployment.predictions.async_create(input={"prompt": "a"})
    assert isinstance(prediction, Prediction)


async def test_python_client_gets_and_cancels(official: Client, simulator: Simulator) -> None:
    prediction = await official.models.predictions.async_create(SCHNELL, {"prompt": "[hang]"})
    assert prediction.status == "starting"
    await simulator.reached(started=1)
    prediction = await official.predictions.async_get(prediction.id)
    assert prediction.status == "processing"
    await prediction.async_cancel()
    assert (await official.predictions.async_get(prediction.id)).status == "canceled"


async def test_python_client_lists_page_by_page(official: Client, simulator: Simulator) -> None:
    simulator.configure(page_size=2)
    for number in range(3):
        await official.models.predictions.async_create(SCHNELL, {"prompt": str(number)})
    page = await official.predictions.async_list()
    assert [(p.input or {})["prompt"] for p in page.results] == ["2", "1"]
    page = await official.predictions.async_list(cursor=page.next)
    assert [(p.input or {})["prompt"] for p in page.results] == ["0"]


async def test_python_client_reads_models_collections_versions_and_files(
    official: Client,
) -> None:
    models = await official.models.async_list()
    assert SCHNELL in [model.id for model in models.results]
    collection = await official.collections.async_get("text-to-image")
    assert len(collection) > 0
    model = await official.models.async_get(SCHNELL)
    versions = await model.versions.async_list()
    assert versions.results[0].openapi_schema["components"]["schemas"]["Input"]
    file = await official.files.async_create(__file__)
    assert (await official.files.async_get(file.id)).size == file.size
    await official.files.async_delete(file.id)
    assert (await official.accounts.async_current()).username == "acme"
    assert (await official.webhooks.default.async_secret()).key.startswith("whsec_")


async def test_python_client_runs_a_model(official: Client) -> None:
    output: Any = await official.async_run(SCHNELL, input={"prompt": "a"}, use_file_output=False)
    assert output[0].endswith("/out-0.webp")


async def test_python_client_parses_errors(official: Client, simulator: Simulator) -> None:
    with pytest.raises(ReplicateError) as error:
        await official.models.predictions.async_create(SCHNELL, {})
    assert error.value.status == 422
    assert error.value.title == "Input validation failed"
    simulator.change_account("acme", out_of_credit=True)
    with pytest.raises(ReplicateError) as error:
        await official.models.predictions.async_create(SCHNELL, {"prompt": "a"})
    assert error.value.status == 402
