"""Resources, and the completions that a host offers for their addresses."""

import json
from typing import Any, cast

import pytest
from mcp import Client, MCPError
from mcp_types import PromptReference, RequestParamsMeta, ResourceTemplateReference

from mcp_server.conftest import Connect
from mcp_server.tool_results import call
from replicate_mcp.simulator import Simulator

OTHER = cast(
    RequestParamsMeta, {"replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}}
)


async def read(client: Client, uri: str, **more: Any) -> dict[str, Any]:
    (content,) = (await client.read_resource(uri, **more)).contents
    assert content.mime_type == "application/json"
    found: dict[str, Any] = json.loads(cast(Any, content).text)
    return found


async def completed(client: Client, uri: str, name: str, value: str, **before: str) -> list[str]:
    ref = ResourceTemplateReference(uri=uri)
    answer = await client.complete(ref, {"name": name, "value": value}, before or None)
    return answer.completion.values


async def test_resources_equal_the_results_of_the_tools(connect: Connect) -> None:
    async with connect() as client:
        listed = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        semaphores = await read(client, "replicate://semaphores")
        batch = await call(client, "generate_images", tasks=[{"prompt": "x"}])
        same = await read(client, f"replicate://batches/{batch['batch_id']}")
        inputs = await call(client, "find_models", model="flux-dev")
        model = await read(client, "replicate://models/black-forest-labs/flux-dev")
    assert str(listed[0].uri) == "replicate://semaphores"
    assert "replicate://models/google/nano-banana" in {str(each.uri) for each in listed}
    assert {each.uri_template for each in templates} == {
        "replicate://batches/{id}",
        "replicate://models/{owner}/{name}",
    }
    assert semaphores["semaphores"][0]["name"] == "replicate-global"
    assert same == batch
    assert model == inputs


async def test_missing_resource_is_reported_with_a_message(connect: Connect) -> None:
    wrong = {
        "replicate://batches/b_nope": "There is no batch 'b_nope'",
        "replicate://models/google/nano-bananna": "did you mean google/nano-banana?",
        "replicate://images/1": "There is no resource 'replicate://images/1'",
    }
    async with connect() as client:
        for uri, sentence in wrong.items():
            with pytest.raises(MCPError) as refused:
                await client.read_resource(uri)
            assert refused.value.error.code == -32602
            assert sentence in refused.value.error.message


async def test_resource_without_a_token_explains_how_to_get_one(connect: Connect) -> None:
    async with connect(REPLICATE_API_TOKEN="") as client:
        assert (await client.list_resources()).resources
        with pytest.raises(MCPError, match="account/api-tokens"):
            await client.read_resource("replicate://semaphores")


async def test_batch_id_completion_offers_only_batches_of_the_caller(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect() as client:
        first = await call(client, "generate_images", tasks=[{"prompt": "x"}])
        other = await client.call_tool("generate_images", {"tasks": [{"prompt": "y"}]}, meta=OTHER)
        second = await call(client, "generate_images", tasks=[{"prompt": "z"}])
        offered = await completed(client, "replicate://batches/{id}", "id", "b_")
        one = await completed(client, "replicate://batches/{id}", "id", first["batch_id"][:9])
        with pytest.raises(MCPError, match="There is no batch"):
            await read(client, f"replicate://batches/{other.structured_content['batch_id']}")
    assert offered == [second["batch_id"], first["batch_id"]]
    assert one == [first["batch_id"]]


async def test_models_and_prompt_arguments_are_completed(connect: Connect) -> None:
    model = "replicate://models/{owner}/{name}"
    async with connect(REPLICATE_API_TOKEN="") as client:
        assert await completed(client, model, "owner", "goo") == ["google"]
        names = await completed(client, model, "name", "", owner="google")
        assert names == ["imagen-4", "nano-banana", "nano-banana-pro"]
        assert await completed(client, "replicate://batches/{id}", "id", "") == []
        for prompt, argument, typed, expected in [
            ("variations", "model", "google/im", ["google/imagen-4"]),
            ("edit_image", "model", "google/im", []),
            ("variations", "count", "1", ["12", "16"]),
            ("storyboard", "style", "ink", ["ink and watercolour"]),
            ("storyboard", "story", "x", []),
            ("nothing", "model2", "x", []),
        ]:
            answer = await client.complete(
                PromptReference(name=prompt), {"name": argument, "value": typed}
            )
            assert answer.completion.values == expected
