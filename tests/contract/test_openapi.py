"""Replicate's OpenAPI document allows every response of the simulator."""

import asyncio

import httpx
import pytest

from contract.document import Document
from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.api import route_names
from replicate_mcp.simulator.model_fixtures import MODELS, MODELS_BY_ID
from replicate_mcp.simulator.models import Model

SCHNELL = "black-forest-labs/flux-schnell"
LAYERS = MODELS_BY_ID["community/layers"]


async def created(
    client: httpx.AsyncClient, prompt: str = "a red car", model: str = SCHNELL, **headers: str
) -> httpx.Response:
    body = {"input": {"prompt": prompt}}
    return await client.post(f"/models/{model}/predictions", json=body, headers=headers)


async def test_every_route_matches_the_openapi_document(
    document: Document, client: httpx.AsyncClient
) -> None:
    schnell = f"/models/{SCHNELL}"
    prediction = (await created(client)).json()
    upload = {"content": ("cat.png", b"cat", "image/png")}
    file = (await client.post("/files", files=upload)).json()
    version = MODELS_BY_ID[SCHNELL].version
    body = {"input": {"prompt": "a"}}
    answers = [
        await created(client),
        await client.post("/predictions", json={**body, "version": version}),
        await client.post("/deployments/acme/fast-flux/predictions", json=body),
        await client.get(f"/predictions/{prediction['id']}"),
        await client.post(f"/predictions/{prediction['id']}/cancel"),
        await client.get("/predictions"),
        await client.get("/models"),
        await client.request("QUERY", "/models", content="flux"),
        await client.get(schnell),
        await client.get(f"{schnell}/versions"),
        await client.get(f"{schnell}/versions/{version}"),
        await client.get("/search", params={"query": "flux"}),
        await client.get("/deployments"),
        await client.get("/deployments/acme/fast-flux"),
        await client.get("/collections"),
        await client.get("/collections/text-to-image"),
        await client.get("/account"),
        await client.get("/webhooks/default/secret"),
        await client.post("/files", files=upload),
        await client.get("/files"),
        await client.get(f"/files/{file['id']}"),
        await client.delete(f"/files/{file['id']}"),
    ]
    checked = [document.check(answer) for answer in answers]
    assert all(status < 300 for _, _, status in checked), checked
    assert len({(method, path) for method, path, _ in checked}) == len(route_names())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
async def test_every_model_and_its_predictions_match_the_openapi_document(
    document: Document, client: httpx.AsyncClient, model: Model
) -> None:
    document.check(await client.get(f"/models/{model.id}"))
    given = {"image": "https://example.com/a.png"} if model.effect else {"prompt": "a"}
    body = {"version": model.version, "input": given}
    document.check(await client.post("/predictions", json=body, headers={"prefer": "wait"}))


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("a", "succeeded"),
        ("[fail]", "failed"),
        ("[nsfw]", "failed"),
        ("[nsfw-log]", "succeeded"),
        ("[words]", "succeeded"),
        ("[no-output]", "succeeded"),
    ],
)
async def test_ended_prediction_matches_the_openapi_document(
    document: Document, client: httpx.AsyncClient, prompt: str, status: str
) -> None:
    answer = await created(client, prompt, prefer="wait")
    assert answer.json()["status"] == status
    document.check(answer)
    document.check(await client.get("/predictions"))


@pytest.mark.parametrize(("queue", "status"), [(0, "canceled"), (60, "aborted")])
async def test_prediction_stopped_at_its_deadline_matches_the_openapi_document(
    document: Document,
    simulator: Simulator,
    client: httpx.AsyncClient,
    queue: float,
    status: str,
) -> None:
    simulator.configure(queue_seconds=queue)
    prediction = (await created(client, "[hang]", **{"cancel-after": "60"})).json()
    if not queue:
        await simulator.reached(started=1)
    document.check(await client.get(f"/predictions/{prediction['id']}"))
    answer = await client.post(f"/predictions/{prediction['id']}/cancel")
    assert answer.json()["status"] == status
    document.check(answer)


@pytest.mark.parametrize(
    "settings",
    [
        {"output_before_end": True},
        {"files_one_by_one": True, "predict_seconds": 0.2},
        {"data_url_outputs": True},
        {"missing_metrics": True},
        {"answer_202": True},
        {"delivery_extensions": False},
        {"clock_offset_seconds": -86400},
        {"retention_seconds": 0},
        {"page_size": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_configured_response_variants_match_the_openapi_document(
    document: Document,
    simulator: Simulator,
    client: httpx.AsyncClient,
    settings: dict[str, object],
) -> None:
    simulator.configure(**settings)
    answers = await asyncio.gather(*(created(client, prefer="wait") for _ in range(3)))
    asked = ["/predictions", f"/models/{SCHNELL}"]
    for answer in (*answers, *[await client.get(path) for path in asked]):
        document.check(answer)


@pytest.mark.parametrize("fault", ["429", "500", "502", "503", "504", "503_after"])
async def test_errors_are_problem_documents(
    document: Document, simulator: Simulator, client: httpx.AsyncClient, fault: str
) -> None:
    simulator.fault_next(fault)
    assert document.check(await created(client))[2] == int(fault[:3])


async def test_rejections_are_problem_documents(
    document: Document, simulator: Simulator, client: httpx.AsyncClient
) -> None:
    answers = [
        await created(client, authorization="Bearer nonsense"),
        await created(client, model="community/layers"),
        await created(client, **{"cancel-after": "1s"}),
        await created(client, prefer="wait=99x"),
        await client.post(f"/models/{SCHNELL}/predictions", json={"input": {}}),
        await client.post("/predictions", json={"version": "x", "input": {}}),
        await client.get("/predictions/none"),
        await client.get("/models/no/body"),
        await client.get("/files/none"),
        await client.delete("/files/none"),
        await client.get("/search"),
    ]
    statuses = [document.check(answer)[2] for answer in answers]
    assert statuses == [401, 404, 422, 422, 422, 422, 404, 404, 404, 404, 400]
    simulator.change_account("acme", out_of_credit=True)
    assert document.check(await created(client))[2] == 402


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"prompt": "a"}},
        {"input": {"prompt": "a"}, "stream": False, "webhook": "https://example.com/hook"},
        {"input": {"prompt": "a"}, "webhook_events_filter": ["completed"]},
        {"input": {"prompt": "a"}, "webhook_events_filter": ["ended"]},
        {"input": {"prompt": "a"}, "model": SCHNELL},
        {"input": {"prompt": "a"}, "version": LAYERS.version},
        {"input": "a"},
        {},
    ],
)
async def test_request_body_is_accepted_where_the_openapi_document_allows_it(
    document: Document, client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    to_model = await client.post(f"/models/{SCHNELL}/predictions", json=body)
    allowed = document.accepts_body("POST", "/models/{model_owner}/{model_name}/predictions", body)
    assert (to_model.status_code == 201) == allowed
    by_version = await client.post("/predictions", json=body)
    assert (by_version.status_code == 201) == document.accepts_body("POST", "/predictions", body)
