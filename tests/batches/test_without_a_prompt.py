"""Tasks of image-only models without a prompt, and prompts given to such models."""

from typing import Any

import anyio
import pytest

from conftest import AppFactory
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.errors import InvalidInput
from replicate_mcp.simulator import Simulator, model_fixtures
from replicate_mcp.simulator.input_schemas import Input
from replicate_mcp.simulator.models import Model
from replicate_mcp.tasks.result import BatchResult, as_json

IMAGE = "https://example.com/cat.png"


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return an upscaler, a model with another text input, and one with an optional prompt."""
    image = Input("image", "Image to work on", "uri", required=True)
    for name, inputs in {
        "upscaler": (image, Input("scale", "Factor", "integer", default=2)),
        "captioner": (image, Input("text", "What to write")),
        "varier": (image, Input("prompt", "What to change")),
    }.items():
        model = Model("community", name, "For tests", "single", inputs)
        monkeypatch.setitem(model_fixtures.MODELS_BY_ID, model.id, model)
        monkeypatch.setitem(model_fixtures.MODELS_BY_VERSION, model.version, model)


async def run(app: App, tasks: Any, **more: Any) -> BatchResult:
    batch_id = await app.batches.start(app.caller(), BatchRequest(tasks, **more))
    with anyio.fail_after(60):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


@pytest.mark.parametrize("prompt", [{}, {"prompt": ""}, {"prompt": None}], ids=str)
async def test_image_only_model_needs_no_prompt(
    app_with: AppFactory, simulator: Simulator, prompt: dict[str, Any]
) -> None:
    async with app_with() as app:
        result = await run(app, [{"model": "community/upscaler", "image": IMAGE, **prompt}])
    (row,) = result.successful_results
    assert "prompt" not in as_json(row)
    assert row.output_filename == "generated_image_1"
    (prediction,) = simulator.predictions("acme")
    assert "prompt" not in prediction["input"]


async def test_optional_prompt_may_be_given_or_omitted(app_with: AppFactory) -> None:
    tasks = [
        {"model": "community/varier", "image": IMAGE, "prompt": "in winter"},
        {"model": "community/varier", "image": IMAGE},
    ]
    async with app_with() as app:
        result = await run(app, tasks)
    assert [row.prompt for row in result.successful_results] == ["in winter", None]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            {"model": "community/upscaler", "image": IMAGE, "prompt": "x"},
            r"task 0: 'prompt' is not an input of community/upscaler\. Its inputs: image, scale\.",
        ),
        (
            {"model": "community/captioner", "image": IMAGE, "prompt": "x"},
            "'prompt' is not an input of community/captioner: did you mean 'text'",
        ),
        ({"model": "community/upscaler"}, "image is required by community/upscaler"),
        ({}, "task 0: prompt is required by black-forest-labs/flux-schnell"),
        ({"prompt": ""}, "task 0: prompt is empty: say what to draw"),
        ({"prompt": " \n"}, "task 0: prompt is empty: say what to draw"),
    ],
)
async def test_prompt_rules_of_the_model_schema_apply(
    app_with: AppFactory, simulator: Simulator, task: dict[str, Any], sentence: str
) -> None:
    async with app_with() as app:
        with pytest.raises(InvalidInput, match=sentence):
            await app.batches.start(app.caller(), BatchRequest([task]))
    assert simulator.account("acme")["creations_seen"] == 0


async def test_missing_prompt_is_left_to_replicate_without_a_schema(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        simulator.fault_next("503", 3, on="get")
        upscaled = await run(app, [{"image": IMAGE}], model="community/upscaler")
        simulator.fault_next("503", 3, on="get")
        refused = await run(app, [{"seed": 1, "prompt": " "}])
    assert upscaled.successful_count == 1
    assert refused.failed_results[0].error_code == "invalid_input"
    assert "prompt" in refused.failed_results[0].error


async def test_recovered_task_without_a_prompt_is_delivered_without_one(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=2)
    tasks = [{"model": "community/upscaler", "image": IMAGE}] * 2
    async with app_with(REPLICATE_CONCURRENT_LIMIT="1") as app:
        batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
        await simulator.reached(account="acme", in_flight=1)
    async with app_with() as app:
        with anyio.fail_after(30):
            await app.batches.wait(app.caller(), batch_id, seconds=None)
        result = await app.batches.result(app.caller(), batch_id)
    assert [row.error_code for row in result.failed_results] == ["interrupted"]
    assert result.successful_count == 1
    for row in (*result.successful_results, *result.failed_results):
        assert "prompt" not in as_json(row)
