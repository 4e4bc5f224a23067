"""`find_models` called by a client over stdio, in both protocol eras."""

from typing import Any

from mcp_server.conftest import Connect
from mcp_server.tool_results import call, structured, text
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.recommended_models import CATALOGUE


async def test_recommended_models_are_listed_without_a_token(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect(REPLICATE_API_TOKEN="") as client:
        result = await client.call_tool("find_models", {})
    answer = structured(result)
    assert [model["name"] for model in answer["models"]] == [known.name for known in CATALOGUE]
    dev = next(model for model in answer["models"] if model.get("alias") == "flux-dev")
    assert dev["price"] == "$$"
    assert {"aspect_ratio", "num_outputs", "image"} <= set(dev["inputs"])
    lines = text(result).splitlines()
    assert len(lines) == len(CATALOGUE) + 1
    assert lines[0].startswith("black-forest-labs/flux-schnell ($): drafts and volume")
    assert "under 1 cent" in lines[-1]
    assert not simulator.stats()["requests"]


async def test_search_lists_recommended_models_before_those_of_replicate(
    connect: Connect,
) -> None:
    async with connect() as client:
        answer = await call(client, "find_models", query="flux")
        others = await client.call_tool("find_models", {"query": "stickers"})
        nothing = await client.call_tool("find_models", {"query": "zeppelins"})
    names = [model["name"] for model in answer["models"]]
    assert names == [known.name for known in CATALOGUE if "flux" in known.name]
    (found,) = structured(others)["models"]
    assert (found["name"], found["runs"]) == ("community/sticker-maker", 1_200_000)
    assert "price" not in found
    assert text(others) == (
        "community/sticker-maker (1,200,000 runs): Makes stickers with transparent backgrounds"
    )
    assert structured(nothing)["count"] == 0
    assert "No model was found" in text(nothing)


async def test_search_without_a_token_lists_recommended_models_and_explains_how_to_get_one(
    connect: Connect,
) -> None:
    async with connect(REPLICATE_API_TOKEN="") as client:
        known = await client.call_tool("find_models", {"query": "posters"})
        unknown = await client.call_tool("find_models", {"query": "stickers"})
        inputs = await client.call_tool("find_models", {"model": "flux-dev"})
    (found,) = structured(known)["models"]
    assert found["name"] == "ideogram-ai/ideogram-v3-turbo"
    assert "https://replicate.com/account/api-tokens" in structured(known)["note"]
    for refused in (unknown, inputs):
        assert refused.is_error
        assert "https://replicate.com/account/api-tokens" in text(refused)


async def test_search_without_replicate_lists_recommended_models(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(other_requests_per_minute=1, other_burst=1)
    async with connect() as client:
        await client.call_tool("find_models", {"query": "stickers"})
        answer = await call(client, "find_models", query="posters")
    assert [model["name"] for model in answer["models"]] == ["ideogram-ai/ideogram-v3-turbo"]
    assert "was not searched: Replicate did not answer" in answer["note"]


async def test_model_inputs_are_listed_one_per_line_from_a_schema_fetched_once(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect() as client:
        result = await client.call_tool("find_models", {"model": "flux-dev"})
        await client.call_tool("find_models", {"model": "black-forest-labs/flux-dev"})
        banana = await client.call_tool("find_models", {"model": "google/nano-banana"})
    answer = structured(result)
    assert answer["model"] == "black-forest-labs/flux-dev"
    inputs_by_name = {field["name"]: field for field in answer["inputs"]}
    assert inputs_by_name["prompt"]["required"] is True
    assert inputs_by_name["num_outputs"] == {
        "name": "num_outputs",
        "type": "integer",
        "default": 1,
        "minimum": 1,
        "maximum": 4,
        "description": "How many images to make",
    }
    assert inputs_by_name["output_format"]["choices"] == ["webp", "jpg", "png"]
    lines = text(result).splitlines()
    assert lines[0] == "black-forest-labs/flux-dev takes:"
    assert "prompt (string; required): Prompt for the image" in lines
    assert "num_outputs (integer; 1..4; default 1): How many images to make" in lines
    assert "image (file): Image to start from" in lines
    assert "image_input (array of file; default []): Images to start from" in text(banana)
    assert simulator.stats()["requests"]["GET /v1/models/{owner}/{name}"] == 2


WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"model": "flux-schnel"}, "did you mean black-forest-labs/flux-schnell?"),
    ({"model": "black-forest-labs/flux-shnell"}, "did you mean black-forest-labs/flux-schnell?"),
    ({"model": "nobody/nothing"}, "Replicate knows no model 'nobody/nothing': check its name"),
    ({"model": "x", "query": "y"}, "either query or model"),
    ({"model": 7}, "model 7 is a number"),
    ({"words": "x"}, "'words' is not an argument of find_models: did you mean 'query'?"),
]


async def test_invalid_call_is_rejected_with_the_correct_usage(connect: Connect) -> None:
    async with connect() as client:
        for arguments, sentence in WRONG_CALLS:
            result = await client.call_tool("find_models", arguments)
            assert result.is_error
            assert sentence in text(result)


async def test_misspelt_model_is_rejected_with_a_suggestion(connect: Connect) -> None:
    async with connect() as client:
        short = await client.call_tool(
            "generate_images", {"tasks": [{"prompt": "x"}], "model": "flux-shnell"}
        )
        wrong = await client.call_tool(
            "generate_images", {"tasks": [{"prompt": "x", "model": "google/nano-bananna"}]}
        )
    assert "did you mean black-forest-labs/flux-schnell?" in text(short)
    assert "task 0: Replicate knows no model" in text(wrong)
    assert "did you mean google/nano-banana?" in text(wrong)
