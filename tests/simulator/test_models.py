"""The simulated models and their inputs."""

from typing import Any

import httpx
import pytest

from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.model_fixtures import MODELS, MODELS_BY_ID
from replicate_mcp.simulator.models import Model
from replicate_mcp.tasks.media import media_type
from replicate_mcp.tasks.recommended_models import CATALOGUE
from simulator.calls import create

OFFICIAL = [model for model in MODELS if model.is_official]
COMMUNITY = [model for model in MODELS if not model.is_official]


def name(model: Model) -> str:
    return model.id


def least(model: Model) -> dict[str, str]:
    """Return the minimal input of a model."""
    values = {"prompt": "a red car", "image": "https://example.com/cat.png"}
    return {each.name: values[each.name] for each in model.inputs if each.required}


async def run(client: httpx.AsyncClient, model: Model, **inputs: object) -> dict[str, Any]:
    body = {"version": model.version, "input": {**least(model), **inputs}}
    response = await client.post("/v1/predictions", json=body, headers={"prefer": "wait"})
    prediction: dict[str, Any] = response.json()
    return prediction


def test_every_recommended_model_exists_with_its_listed_inputs() -> None:
    for known in CATALOGUE:
        types = {each.name: each.type for each in MODELS_BY_ID[known.name].inputs}
        assert ("prompt" in types) == known.takes_prompt
        for listed in known.inputs:
            name = listed.removesuffix("[]")
            assert (types[name] == "uris") == listed.endswith("[]"), (known.name, name)
        assert not known.image_input or types[known.image_input] in ("uri", "uris")


@pytest.mark.parametrize("model", MODELS, ids=name)
async def test_model_rejects_missing_required_inputs(
    client: httpx.AsyncClient, model: Model
) -> None:
    for required in least(model):
        given = {name: value for name, value in least(model).items() if name != required}
        body = {"version": model.version, "input": given}
        refused = await client.post("/v1/predictions", json=body)
        assert refused.status_code == 422
        assert refused.json()["detail"] == f"- input: {required} is required\n"


@pytest.mark.parametrize("model", MODELS, ids=name)
async def test_each_file_has_the_type_of_its_url_extension(
    client: httpx.AsyncClient, model: Model
) -> None:
    prediction = await run(client, model)
    assert prediction["status"] == "succeeded"
    output = prediction["output"]
    urls = list(output.values()) if isinstance(output, dict) else output
    for url in [urls] if isinstance(urls, str) else urls:
        content = (await client.get(url)).content
        kind = media_type(content)
        assert kind is not None
        assert kind.extensions[0] == url.rpartition(".")[2]


@pytest.mark.parametrize("model", OFFICIAL, ids=name)
async def test_official_model_runs_by_name(client: httpx.AsyncClient, model: Model) -> None:
    body = {"input": least(model)}
    response = await client.post(
        f"/v1/models/{model.id}/predictions", json=body, headers={"prefer": "wait"}
    )
    prediction = response.json()
    assert prediction["status"] == "succeeded"
    output = prediction["output"]
    assert isinstance(output, list) == (model.output == "list")
    url = output[0] if isinstance(output, list) else output
    assert url.endswith(f"/out-0.{model.default_format}")


@pytest.mark.parametrize("model", COMMUNITY, ids=name)
async def test_community_model_runs_only_by_version(
    client: httpx.AsyncClient, model: Model
) -> None:
    path = f"/v1/models/{model.id}"
    given = {"input": least(model)}
    assert (await client.post(f"{path}/predictions", json=given)).status_code == 404
    version = (await client.get(path)).json()["latest_version"]["id"]
    for text in (version, f"{model.id}:{version}"):
        body = {"version": text, "input": least(model)}
        response = await client.post("/v1/predictions", json=body, headers={"prefer": "wait"})
        assert response.status_code == 201
        assert response.json()["version"] == version
        assert response.json()["model"] == model.id
    body = {"version": model.id, "input": least(model)}
    assert (await client.post("/v1/predictions", json=body)).status_code == 422


async def test_official_model_also_runs_by_version(client: httpx.AsyncClient) -> None:
    body = {"version": "google/imagen-4", "input": {"prompt": "a"}}
    response = await client.post("/v1/predictions", json=body)
    assert (response.status_code, response.json()["version"]) == (201, "hidden")


@pytest.mark.parametrize(
    "version", ["0" * 64, "google/imagen-4:latest", "nobody/nothing", "google/imagen-4:" + "0" * 64]
)
async def test_invalid_version_is_rejected(client: httpx.AsyncClient, version: str) -> None:
    body = {"version": version, "input": {"prompt": "a"}}
    response = await client.post("/v1/predictions", json=body)
    assert response.status_code == 422
    assert response.json()["title"] == "Invalid version or not permitted"


async def test_deployment_runs_its_model(client: httpx.AsyncClient) -> None:
    prediction = (await create(client, path="/v1/deployments/acme/fast-flux/predictions")).json()
    assert prediction["deployment"] == "acme/fast-flux"
    assert prediction["model"] == "black-forest-labs/flux-schnell"
    missing = await create(client, path="/v1/deployments/acme/none/predictions")
    assert missing.status_code == 404


async def test_output_can_be_a_dict_of_urls(client: httpx.AsyncClient) -> None:
    body = {"version": MODELS_BY_ID["community/layers"].version, "input": {"prompt": "a"}}
    response = await client.post("/v1/predictions", json=body, headers={"prefer": "wait"})
    output = response.json()["output"]
    assert set(output) == {"background", "foreground"}
    for url in output.values():
        assert (await client.get(url)).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("model", "inputs", "files"),
    [
        ("black-forest-labs/flux-dev", {"num_outputs": 4}, 4),
        ("openai/gpt-image-1.5", {"number_of_images": 10}, 10),
        ("bytedance/seedream-4", {"max_images": 3}, 1),
        ("bytedance/seedream-4", {"max_images": 3, "sequential_image_generation": "auto"}, 3),
    ],
)
async def test_prediction_makes_the_requested_number_of_files(
    client: httpx.AsyncClient, model: str, inputs: dict[str, Any], files: int
) -> None:
    response = await create(client, path=f"/v1/models/{model}/predictions", **inputs)
    assert len(response.json()["output"]) == files


SCHNELL = "black-forest-labs/flux-schnell"


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "text"),
    [
        (SCHNELL, {"num_outputs": 5}, "number_lte", "Must be less than or equal to 4"),
        (SCHNELL, {"num_outputs": 0}, "number_gte", "Must be greater than or equal to 1"),
        (SCHNELL, {"seed": "x"}, "invalid_type", "Invalid type. Expected: integer, given: string"),
        (
            SCHNELL,
            {"megapixels": "9"},
            "enum",
            'input.megapixels must be one of the following: "1", "0.25"',
        ),
        (
            SCHNELL,
            {"sead": 1},
            "additional_property_not_allowed",
            "Additional property sead is not allowed",
        ),
        (
            "google/imagen-4",
            {"seed": 1},
            "additional_property_not_allowed",
            "Additional property seed is not allowed",
        ),
        (
            "google/nano-banana",
            {"image_input": ["https://example.com/a.png"] * 11},
            "array_max_items",
            "Array must have at most 10 items",
        ),
    ],
)
async def test_invalid_inputs_are_named(
    client: httpx.AsyncClient, model: str, inputs: dict[str, Any], kind: str, text: str
) -> None:
    response = await create(client, path=f"/v1/models/{model}/predictions", **inputs)
    assert response.status_code == 422
    problem = response.json()
    assert problem["title"] == "Input validation failed"
    (field,) = problem["invalid_fields"]
    assert (field["type"], field["description"]) == (kind, text)
    assert problem["detail"] == f"- {field['field']}: {text}\n"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"input": {}}, "- input: prompt is required\n"),
        ({}, "- input is required\n"),
        ({"input": {}, "model": "x"}, "- Additional property model is not allowed\n"),
        ([], "- Invalid type. Expected: object, given: array\n"),
    ],
)
async def test_invalid_bodies_are_rejected(
    client: httpx.AsyncClient, body: object, detail: str
) -> None:
    response = await client.post(f"/v1/models/{SCHNELL}/predictions", json=body)
    assert (response.status_code, response.json()["detail"]) == (422, detail)


async def test_non_json_body_is_rejected(client: httpx.AsyncClient) -> None:
    response = await client.post(f"/v1/models/{SCHNELL}/predictions", content=b"{")
    assert response.status_code == 400


async def test_unknown_inputs_can_be_accepted(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(reject_unknown_inputs=False)
    assert (await create(client, sead=1)).status_code == 201


async def test_null_counts_as_an_omitted_optional_input(client: httpx.AsyncClient) -> None:
    assert (await create(client, seed=None)).status_code == 201


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_schema_has_the_form_replicate_uses(model: Model) -> None:
    schemas: dict[str, Any] = model.openapi_schema["components"]["schemas"]
    properties = schemas["Input"]["properties"]
    assert schemas["Input"]["required"] == ["image" if model.effect else "prompt"]
    assert [item["x-order"] for item in properties.values()] == list(range(len(properties)))
    for key, item in properties.items():
        if "allOf" in item:
            assert item["allOf"] == [{"$ref": f"#/components/schemas/{key}"}]
            assert item["default"] in schemas[key]["enum"]
    assert "Output" in schemas


async def test_search_finds_models_by_words(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/v1/search", params={"query": "FLUX billion"})).json()
    assert [found["model"]["name"] for found in answer["models"]] == ["flux-dev"]
    limited = (await client.get("/v1/search", params={"query": "flux", "limit": 2})).json()
    assert len(limited["models"]) == 2
    assert (await client.get("/v1/search")).status_code == 400
    queried = (await client.request("QUERY", "/v1/models", content="nano")).json()
    assert [found["name"] for found in queried["results"]] == ["nano-banana", "nano-banana-pro"]


async def test_unknown_resources_get_404(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models/a/b", "/v1/nothing", "/nothing", "/v1/predictions/x", "/v1/files/x"):
        response = await client.get(path)
        assert response.status_code == 404
        assert response.json()["status"] == 404
