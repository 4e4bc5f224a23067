"""`preview=true`: thumbnails for the model, with a real client of a real server."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from mcp_server.conftest import Connect
from replicate_mcp.mcp_server.previews import Previews
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult

MAX_CHARACTERS = 1_048_576
"""Of an answer, for hosts."""

pytestmark = pytest.mark.parametrize("era", ["auto"])


def seen(answer: CallToolResult) -> tuple[list[str], list[Image.Image]]:
    """Return the text's lines and the thumbnails."""
    text, *images = answer.content
    assert isinstance(text, TextContent)
    pictures: list[Image.Image] = []
    for image in images:
        assert isinstance(image, ImageContent)
        assert image.mime_type == "image/webp"
        pictures.append(Image.open(io.BytesIO(base64.b64decode(image.data))))
    return text.text.splitlines(), pictures


async def test_each_image_has_a_thumbnail_identified_in_the_text(
    connect: Connect,
) -> None:
    tasks: list[dict[str, Any]] = [
        {"prompt": "A red car", "output_filename": "car.png", "aspect_ratio": "16:9"},
        {"prompt": "[fail] x"},
        {"prompt": "A house", "output_filename": "house.jpg", "num_outputs": 2},
    ]
    async with connect() as client:
        made = await client.call_tool("generate_images", {"tasks": tasks, "preview": True})
        batch = (made.structured_content or {})["batch_id"]
        again = await client.call_tool("get_batch", {"batch_id": batch, "preview": True})
        plain = await client.call_tool("get_batch", {"batch_id": batch})
    for answer in (made, again):
        lines, pictures = seen(answer)
        assert lines[-1] == "Thumbnails, in this order: car.png, house_1.jpg, house_2.jpg."
        assert [picture.size for picture in pictures] == [(256, 145), (256, 256), (256, 256)]
    assert len(plain.content) == 1
    assert plain.structured_content == made.structured_content


async def test_page_with_thumbnails_fits_the_limit_of_hosts(connect: Connect) -> None:
    tasks = [{"prompt": f"picture {number}", "megapixels": "0.25"} for number in range(26)]
    async with connect() as client:
        first = await client.call_tool("generate_images", {"tasks": tasks, "preview": True})
        cursor = (first.structured_content or {})["cursor"]
        rest = await client.call_tool("get_batch", {"after": cursor, "preview": True})
        whole = await client.call_tool("get_batch", {"limit": 26, "preview": True})
    assert len(seen(first)[1]) + len(seen(rest)[1]) == 26
    assert len(seen(whole)[1]) == 24
    assert seen(whole)[0][-1] == "2 more files have no thumbnail here: ask for fewer."
    assert len(whole.model_dump_json(by_alias=True)) < MAX_CHARACTERS


async def test_unfetchable_image_is_named_without_failing_the_call(
    connect: Connect, simulator: Simulator
) -> None:
    simulator.configure(public_url="https://elsewhere.example")
    async with connect() as client:
        answer = await client.call_tool(
            "generate_images",
            {"tasks": [{"prompt": "x", "output_filename": "x.png"}], "preview": True},
        )
        simulator.configure(public_url="")
        tasks = [{"prompt": "y", "output_filename": "y.png"}]
        await client.call_tool("generate_images", {"tasks": tasks})
        simulator.configure(retention_seconds=0)
        gone = await client.call_tool("get_batch", {"preview": True})
    assert not answer.is_error
    assert seen(answer)[0][-1] == "No thumbnail of x.png: its URL is not on replicate.delivery."
    assert "No thumbnail of y.png: its URL has expired" in seen(gone)[0][-1]
    assert seen(answer)[1] == seen(gone)[1] == []


async def test_missing_preview_extra_still_makes_images_and_names_the_package(
    connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys; sys.modules["PIL"] = None')
    tasks = [{"prompt": "x", "output_filename": "x.png"}]
    async with connect(PYTHONPATH=str(tmp_path)) as client:
        answer = await client.call_tool("generate_images", {"tasks": tasks, "preview": True})
    assert not answer.is_error
    lines, pictures = seen(answer)
    assert lines[1].startswith("x.png http")
    assert "pip install pillow" in lines[-1]
    assert pictures == []


async def test_unusable_proxy_does_not_fail_finished_images(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect() as client:
        made = await client.call_tool("generate_images", {"tasks": [{"prompt": "a red car"}]})
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p#ss-secret@proxy.example.com:1")
    result = BatchResult.model_validate(made.structured_content)
    answer = await Previews("https://api.replicate.com").add_to(made, result)
    assert answer.structured_content == made.structured_content
    assert any(
        "No thumbnail of generated_image_1.webp: the proxy that HTTPS_PROXY names" in content.text
        for content in answer.content
        if isinstance(content, TextContent)
    )
