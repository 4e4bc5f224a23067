"""Images of simulated predictions: colours derived from prompt and seed, with the prompt drawn."""

import colorsys
import io
import math
import random
import re
import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_MEGAPIXEL = 1024 * 1024
_STEP = 16
_SIZES = {"1K": _MEGAPIXEL, "2K": 4 * _MEGAPIXEL, "4K": 16 * _MEGAPIXEL}
_SIZE_INPUTS = ("size", "resolution", "megapixels", "output_megapixels")
_EXACT_SIZE = re.compile(r"(\d{2,4})x(\d{2,4})")
_MEGAPIXELS = re.compile(r"(\d(?:\.\d{1,2})?)(?: MP)?")
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """Description of an image to draw."""

    prompt: str
    seed: int
    width: int
    height: int
    format: str
    caption: str


def picture_size(given: Mapping[str, object]) -> tuple[int, int]:
    """Return the width and height that a model's inputs request, by default about a megapixel."""
    width, height = given.get("width"), given.get("height")
    ratio_text = given.get("aspect_ratio")
    if isinstance(width, int) and isinstance(height, int) and ratio_text in (None, "custom"):
        return width, height
    named = [str(given.get(name, "")) for name in _SIZE_INPUTS]
    for text in named:
        if (exact := _EXACT_SIZE.fullmatch(text)) and ratio_text in (None, "Not set", "1:1"):
            return int(exact[1]), int(exact[2])
    area = next(filter(None, map(_area, named)), _MEGAPIXEL)
    ratio = 1.0
    if isinstance(ratio_text, str) and ":" in ratio_text:
        wide, high = ratio_text.split(":")
        ratio = int(wide) / int(high)
    return _stepped(math.sqrt(area * ratio)), _stepped(math.sqrt(area / ratio))


@lru_cache(maxsize=32)
def draw(picture: Picture) -> bytes:
    """Return the image's file; equal pictures give equal bytes.

    Takes about 30 ms per megapixel.
    """
    from PIL import Image, ImageDraw

    rng = random.Random(f"{picture.prompt} {picture.seed}")  # noqa: S311 - reproducible
    hue = rng.random()
    top = _colour(hue, 0.45, 0.62)
    bottom = _colour(hue + rng.uniform(0.08, 0.3), 0.55, 0.42)
    image = _gradient(picture, top, bottom)
    shapes = Image.new("RGBA", image.size)
    _draw_shapes(ImageDraw.Draw(shapes), picture, rng, hue)
    image.paste(shapes, mask=shapes)
    _write(ImageDraw.Draw(image, "RGBA"), picture)
    return encoded(image, picture.format)


def _area(text: str) -> int:
    """Return the number of pixels of a size such as `2K`, `0.25` or `4 MP`; 0 for other texts."""
    megapixels = _MEGAPIXELS.fullmatch(text)
    return int(float(megapixels[1]) * _MEGAPIXEL) if megapixels else _SIZES.get(text, 0)


def _stepped(length: float) -> int:
    return max(_STEP, round(length / _STEP) * _STEP)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(picture: Picture, top: Colour, bottom: Colour) -> "Image.Image":
    from PIL import Image

    small = Image.new("RGB", (2, 2))
    between = (
        (top[0] + bottom[0]) // 2,
        (top[1] + bottom[1]) // 2,
        (top[2] + bottom[2]) // 2,
    )
    small.putdata([top, between, between, bottom])
    return small.resize((picture.width, picture.height), Image.Resampling.BICUBIC)


def _draw_shapes(
    canvas: "ImageDraw.ImageDraw", picture: Picture, rng: random.Random, hue: float
) -> None:
    short = min(picture.width, picture.height)
    for _ in range(rng.randint(3, 5)):
        radius = rng.uniform(0.08, 0.3) * short
        x, y = rng.uniform(0, picture.width), rng.uniform(0, picture.height)
        fill = (*_colour(hue + rng.uniform(-0.12, 0.4), 0.35, 0.95), rng.randint(40, 90))
        box = (x - radius, y - radius, x + radius, y + radius)
        if rng.random() < 0.7:
            canvas.ellipse(box, fill=fill)
        else:
            canvas.rounded_rectangle(box, radius=radius / 3, fill=fill)


def _write(canvas: "ImageDraw.ImageDraw", picture: Picture) -> None:
    short = min(picture.width, picture.height)
    margin = max(4, short // 18)
    font, text = _fitting(canvas, picture, margin)
    box = canvas.multiline_textbbox((0, 0), text, font=font)
    y = picture.height - margin - box[3]
    shade = (0, 0, 0, 90)
    canvas.rectangle((0, y - margin, picture.width, picture.height), fill=shade)
    canvas.multiline_text((margin, y), text, font=font, fill=(255, 255, 255, 255))
    caption = f"{picture.caption} · {picture.seed}"
    small = _font(max(9, short // 40))
    canvas.text((margin, margin), caption, font=small, fill=(255, 255, 255, 190))


def _fitting(
    canvas: "ImageDraw.ImageDraw", picture: Picture, margin: int
) -> "tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]":
    """Return the largest font with which the prompt covers at most half the image, and its text."""
    prompt = " ".join(_writable(picture.prompt).split())[:600] or "…"
    width = picture.width - 2 * margin
    size = max(10, min(picture.width, picture.height) // 14)
    while True:
        font = _font(size)
        per_letter = canvas.textlength("n", font=font) * 0.95
        text = textwrap.fill(prompt, max(8, int(width / per_letter)))
        box = canvas.multiline_textbbox((0, 0), text, font=font)
        if size <= 10 or (box[3] <= picture.height / 2 and box[2] <= width):
            return font, text
        size = size * 4 // 5


def _writable(text: str) -> str:
    """Return the characters that the bundled font has: without accents and non-Latin scripts."""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in plain if letter.isascii())


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def encoded(image: "Image.Image", file_format: str) -> bytes:
    """Return the image encoded in `file_format`."""
    buffer = io.BytesIO()
    match file_format:
        case "png":
            image.save(buffer, "PNG", compress_level=1)
        case "webp":
            image.save(buffer, "WEBP", quality=80, method=0)
        case _:
            image.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
