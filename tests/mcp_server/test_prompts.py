"""Prompts requested by a client over stdio, in both protocol eras."""

import pytest
from mcp import Client, MCPError

from mcp_server.conftest import Connect


async def written(client: Client, name: str, **arguments: str) -> str:
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    text: str = getattr(message.content, "text", "")
    assert text.count("generate_images once") == 1
    return text


async def test_each_prompt_requests_one_call_with_all_tasks(connect: Connect) -> None:
    async with connect(REPLICATE_API_TOKEN="") as client:
        listed = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert set(listed) == {"variations", "storyboard", "edit_image"}
        assert [a.name for a in listed["edit_image"].arguments or [] if a.required] == [
            "image",
            "edits",
        ]
        cars = await written(client, "variations", idea="a red car", count="12", model="flux-dev")
        assert "12 variations of one idea: a red car" in cars
        assert "all 12 tasks and model 'black-forest-labs/flux-dev'" in cars
        assert "8 variations" in await written(client, "variations", idea="a house")
        story = await written(client, "storyboard", story="A fox goes to sea", style="woodcut")
        assert "6 panels: A fox goes to sea" in story
        assert "The style is woodcut." in story
        cat = "https://example.com/cat.png"
        edits = await written(client, "edit_image", image=cat, edits="at night; in snow\nin ink")
        assert f"in 3 ways: {cat}" in edits
        assert "3. in ink" in edits
        assert "model 'black-forest-labs/flux-kontext-pro', and the image in each task as" in edits
        listing = await written(
            client, "edit_image", image=cat, edits="at night", model="google/nano-banana"
        )
        assert "as image_input, in a list" in listing
        unknown = await written(client, "edit_image", image=cat, edits="x", model="a/b")
        assert "find_models with model='a/b'" in unknown


WRONG = [
    ("variations", {}, "The prompt variations needs idea: what the images show."),
    ("variations", {"idea": "  "}, "needs idea"),
    ("variations", {"idea": "x", "count": "many"}, "count must be a whole number from 1 to 100"),
    ("variations", {"idea": "x", "count": "0"}, "count must be a whole number from 1 to 100"),
    ("variations", {"idea": "x", "number": "3"}, "has no argument 'number': it takes idea, count"),
    ("variations", {"idea": "x", "model": "flux-shnell"}, "did you mean black-forest-labs/flux"),
    ("edit_image", {"image": "x", "edits": ";"}, "edits is empty"),
    (
        "edit_image",
        {"image": "x", "edits": "y", "model": "google/imagen-4"},
        "google/imagen-4 does not start from an image: choose one of",
    ),
    (
        "edit_image",
        {"image": "x", "edits": "y", "model": "nightmareai/real-esrgan"},
        "nightmareai/real-esrgan takes no prompt: choose one of",
    ),
    ("poem", {}, "There is no prompt 'poem': there are variations, storyboard, edit_image"),
]


async def test_invalid_prompt_arguments_are_rejected_with_the_correct_usage(
    connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    async with connect() as client:
        for name, arguments, sentence in WRONG:
            with pytest.raises(MCPError) as refused:
                await client.get_prompt(name, arguments)
            assert refused.value.error.code == -32602
            assert sentence in refused.value.error.message
    assert "Traceback" not in capfd.readouterr().err
