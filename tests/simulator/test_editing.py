"""Image-only models: their outputs, and the locations of their inputs."""

import base64
import io
import xml.etree.ElementTree as ET
from typing import Any

import httpx
import pytest
from PIL import Image

from replicate_mcp.simulator import Simulator
from replicate_mcp.simulator.model_fixtures import MODELS_BY_ID
from simulator.calls import create

REMOVER = "851-labs/background-remover"
UPSCALER = "nightmareai/real-esrgan"
CRISP = "recraft-ai/recraft-crisp-upscale"
VECTORIZER = "recraft-ai/recraft-vectorize"


def png(width: int = 40, height: int = 20, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


async def run(client: httpx.AsyncClient, model: str, **inputs: object) -> dict[str, Any]:
    body = {"version": MODELS_BY_ID[model].version, "input": inputs}
    response = await client.post("/v1/predictions", json=body, headers={"prefer": "wait"})
    assert response.status_code == 201, response.text
    prediction: dict[str, Any] = response.json()
    return prediction


async def image(client: httpx.AsyncClient, prediction: dict[str, Any]) -> Image.Image:
    assert prediction["status"] == "succeeded", prediction["error"]
    return Image.open(io.BytesIO((await client.get(prediction["output"])).content))


async def test_background_remover_returns_a_transparent_image(
    client: httpx.AsyncClient,
) -> None:
    cut = await image(client, await run(client, REMOVER, image=data_uri(png())))
    assert (cut.format, cut.mode, cut.size) == ("PNG", "RGBA", (40, 20))
    assert cut.getpixel((20, 10)) == (255, 0, 0, 255)
    corner = cut.getpixel((0, 0))
    assert isinstance(corner, tuple)
    assert corner[3] == 0


async def test_background_remover_can_remove_the_subject_instead(
    client: httpx.AsyncClient,
) -> None:
    asked = {"image": data_uri(png()), "reverse": True}
    cut = await image(client, await run(client, REMOVER, **asked))
    alphas = cut.getchannel("A").getpixel((20, 10)), cut.getchannel("A").getpixel((0, 0))
    assert alphas == (0, 255)


async def test_background_remover_returns_the_requested_colour_and_format(
    client: httpx.AsyncClient,
) -> None:
    asked = {"image": data_uri(png()), "background_type": "green", "format": "jpg"}
    prediction = await run(client, REMOVER, **asked)
    assert prediction["output"].endswith("/out-0.jpg")
    cut = await image(client, prediction)
    assert (cut.format, cut.mode) == ("JPEG", "RGB")
    corner = cut.getpixel((0, 0))
    assert isinstance(corner, tuple)
    assert corner[1] > max(corner[0], corner[2]) + 50


@pytest.mark.parametrize(
    ("model", "inputs", "size"),
    [
        (UPSCALER, {"scale": 2}, (80, 40)),
        (UPSCALER, {"scale": 1.5}, (60, 30)),
        (UPSCALER, {}, (160, 80)),
        (CRISP, {}, (160, 80)),
    ],
)
async def test_upscaler_enlarges_the_image_by_its_factor(
    client: httpx.AsyncClient, model: str, inputs: dict[str, object], size: tuple[int, int]
) -> None:
    larger = await image(client, await run(client, model, image=data_uri(png()), **inputs))
    assert larger.size == size
    colour = larger.convert("RGB").getpixel((30, 15))
    assert isinstance(colour, tuple)
    assert colour[0] > 240


async def test_vectorizer_returns_an_svg_in_the_colours_of_the_image(
    client: httpx.AsyncClient,
) -> None:
    prediction = await run(client, VECTORIZER, image=data_uri(png(colour="#ff0000")))
    response = await client.get(prediction["output"])
    assert response.headers["content-type"] == "image/svg+xml"
    svg = ET.fromstring(response.text)
    assert (svg.get("width"), svg.get("height")) == ("40", "20")
    fills = {each.get("fill") for each in svg}
    assert fills == {"#ff0000"}


async def test_output_url_can_be_edited_again(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    (drawn,) = (await create(client, megapixels="0.25", output_format="png")).json()["output"]
    cut = await run(client, REMOVER, image=drawn)
    larger = await run(client, UPSCALER, image=cut["output"], scale=2)
    made = await image(client, larger)
    assert (made.size, made.mode) == ((1024, 1024), "RGBA")
    middle = Image.open(io.BytesIO((await client.get(drawn)).content)).getpixel((256, 256))
    found = made.getpixel((512, 512))
    assert isinstance(middle, tuple)
    assert isinstance(found, tuple)
    assert all(abs(a - b) < 12 for a, b in zip(middle, found, strict=False))


async def test_uploaded_file_is_readable_only_by_its_account(
    client: httpx.AsyncClient,
) -> None:
    upload = {"content": ("cat.png", png(), "image/png")}
    file = (await client.post("/v1/files", files=upload)).json()
    url = file["urls"]["get"]
    assert (await image(client, await run(client, UPSCALER, image=url, scale=2))).size == (80, 40)
    client.headers["authorization"] = "Bearer r8_other"
    assert (await run(client, UPSCALER, image=url))["status"] == "failed"
    client.headers["authorization"] = "Bearer r8_acme_1"
    assert (await client.delete(f"/v1/files/{file['id']}")).status_code == 204
    assert (await run(client, UPSCALER, image=url))["status"] == "failed"


async def test_foreign_image_url_is_drawn_and_not_fetched(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    before = simulator.stats()["requests"]
    # Nothing listens on port 1: a request to it would fail the prediction.
    prediction = await run(client, UPSCALER, image="http://127.0.0.1:1/cat.png", scale=1)
    assert (await image(client, prediction)).size == (1024, 1024)
    made = {k: n - before.get(k, 0) for k, n in simulator.stats()["requests"].items()}
    assert {name for name, count in made.items() if count} == {"POST /v1/predictions"}


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAAA",
        "data:image/png;base64,not base64!",
        "data:,hello",
        data_uri(png()[:40]),
        data_uri(b"<html></html>"),
    ],
)
async def test_non_image_input_fails_like_the_real_models(
    client: httpx.AsyncClient, url: str
) -> None:
    prediction = await run(client, REMOVER, image=url)
    assert (prediction["status"], prediction["output"]) == ("failed", None)
    assert prediction["error"] == "cannot identify image file"


async def test_image_too_large_for_the_upscaler_fails(client: httpx.AsyncClient) -> None:
    prediction = await run(client, UPSCALER, image=data_uri(png(2000, 1100)))
    assert prediction["status"] == "failed"
    assert "greater than the max size that fits in GPU memory" in prediction["error"]
    huge = await run(client, UPSCALER, image=data_uri(png(1400, 1400)), scale=10)
    assert huge["error"] == "CUDA out of memory."
