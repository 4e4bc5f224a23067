"""Thumbnails are small for every image, and unsafe files are not opened."""

import io
import random
from typing import Any

import pytest
from PIL import Image

from replicate_mcp.mcp_server.thumbnail import MAX_BYTES, MAX_SIDE_PIXELS, ThumbnailError, thumbnail


def encoded(image: Image.Image, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("size", [(1344, 768), (768, 1344), (64, 48)])
def test_thumbnail_keeps_the_aspect_ratio_and_is_never_larger(
    kind: str, size: tuple[int, int]
) -> None:
    small = Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGB", size, "teal"), kind))))
    assert small.format == "WEBP"
    assert max(small.size) == min(MAX_SIDE_PIXELS, max(size))
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_thumbnail_accepts_every_pixel_mode(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert thumbnail(encoded(Image.new(mode, (300, 300)), kind))


def test_incompressible_image_fits_the_size_limit() -> None:
    noise = Image.frombytes("RGB", (512, 512), random.Random(1).randbytes(512 * 512 * 3))
    assert len(thumbnail(encoded(noise, "PNG"))) <= MAX_BYTES


@pytest.mark.parametrize("side", [8_000, 11_000, 20_000])
def test_decompression_bomb_is_not_opened(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)), "PNG")
    assert len(bomb) < 200_000
    with pytest.raises(ThumbnailError, match="pixels"):
        thumbnail(bomb)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(Image.new("RGB", (300, 300)), "PNG")[:200],
        encoded(Image.new("RGB", (300, 300)), "TIFF"),
    ],
    ids=["empty", "svg", "cut off", "tiff"],
)
def test_non_image_raises_a_clear_error(data: bytes) -> None:
    with pytest.raises(ThumbnailError, match="cannot be read as a picture"):
        thumbnail(data)
