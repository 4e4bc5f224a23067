"""The images that predictions make."""

import io
from typing import Any

import httpx
import pytest
from PIL import Image

from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.drawing import Picture, draw, picture_size
from simulator.calls import create


async def fetched(simulator: Simulator, url: str) -> httpx.Response:
    async with httpx.AsyncClient() as anyone:
        return await anyone.get(url)


@pytest.mark.parametrize(("extension", "kind"), [("webp", "WEBP"), ("png", "PNG"), ("jpg", "JPEG")])
async def test_image_is_fetched_without_a_token(
    simulator: Simulator, client: httpx.AsyncClient, extension: str, kind: str
) -> None:
    prediction = (await create(client, output_format=extension, megapixels="0.25")).json()
    (url,) = prediction["output"]
    assert url.endswith(f".{extension}")
    response = await fetched(simulator, url)
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == (kind, (512, 512))
    assert response.headers["content-type"] == f"image/{kind.lower()}"


async def test_output_url_can_lack_an_extension(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(delivery_extensions=False)
    (url,) = (await create(client, megapixels="0.25")).json()["output"]
    assert url.endswith("/out-0")
    response = await fetched(simulator, url)
    assert response.headers["content-type"] == "image/webp"


async def test_seed_makes_the_image_reproducible(client: httpx.AsyncClient) -> None:
    images = []
    for seed in (5, 5, 6):
        (url,) = (await create(client, seed=seed, megapixels="0.25")).json()["output"]
        images.append((await client.get(url)).content)
    assert images[0] == images[1] != images[2]


async def test_no_image_exists_before_the_end_or_beyond_the_last_output(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    running = (await create(client, "[hang]", wait=None)).json()
    path = f"{simulator.url}/delivery/{running['id']}/out-0.webp"
    assert (await fetched(simulator, path)).status_code == 404
    (url,) = (await create(client)).json()["output"]
    assert (await fetched(simulator, url.replace("out-0", "out-1"))).status_code == 404
    assert (await fetched(simulator, url.replace("webp", "png"))).status_code == 404


async def test_model_has_a_cover_image(simulator: Simulator, client: httpx.AsyncClient) -> None:
    model = (await client.get("/v1/models/google/imagen-4")).json()
    cover = await fetched(simulator, model["cover_image_url"])
    assert cover.headers["content-type"] == "image/webp"


async def test_head_request_returns_the_image_size(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    (url,) = (await create(client, megapixels="0.25")).json()["output"]
    head = await client.head(url)
    assert int(head.headers["content-length"]) == len((await client.get(url)).content)


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        ({}, (1024, 1024)),
        ({"aspect_ratio": "16:9"}, (1360, 768)),
        ({"aspect_ratio": "9:16"}, (768, 1360)),
        ({"aspect_ratio": "match_input_image"}, (1024, 1024)),
        ({"aspect_ratio": "custom", "width": 640, "height": 480}, (640, 480)),
        ({"size": "1365x1024", "aspect_ratio": "Not set"}, (1365, 1024)),
        ({"size": "2K", "aspect_ratio": "1:1"}, (2048, 2048)),
        ({"width": 256, "height": 512}, (256, 512)),
    ],
)
def test_image_has_the_requested_size(inputs: dict[str, Any], size: tuple[int, int]) -> None:
    assert picture_size(inputs) == size


@pytest.mark.parametrize("prompt", ["", "火车", "Ein müder Kater", "x" * 5000, "word " * 1000])
def test_any_prompt_is_drawable(prompt: str) -> None:
    image = Image.open(io.BytesIO(draw(Picture(prompt, 1, 256, 256, "png", "test"))))
    assert image.size == (256, 256)
