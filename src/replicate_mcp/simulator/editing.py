"""Simulated image-to-image models without a prompt: remove background, upscale, vectorize."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Union

from replicate_mcp.simulator.drawing import Picture, draw, encoded
from replicate_mcp.simulator.models import Effect

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 40_000_000
"""Maximum number of pixels of a result; upscaling a megapixel four times gives 16 million."""

_TRACED_CELLS = 48
_TRACED_COLOURS = 16


@dataclass(frozen=True, slots=True)
class Edit:
    """Edit of an image.

    Attributes:
        effect: kind of edit.
        source: source image: the bytes of a file, or a description of an image to make.
        format: format of the result.
        scale: factor by which width and height grow.
        background: replacement of the background; `rgba` for transparency.
        reverse: whether to remove the subject instead of the background.
        max_pixels: maximum size of the source, above which the model fails; None for no maximum.
    """

    effect: Effect
    source: "Recipe"
    format: str
    scale: float = 1
    background: str = "rgba"
    reverse: bool = False
    max_pixels: int | None = None


Recipe = Union[Picture, Edit, bytes]  # noqa: UP007 - `|` takes no forward reference
"""Image file, or the description of one, which always renders to the same bytes."""


def render(recipe: Recipe) -> bytes:
    """Return the image's file."""
    match recipe:
        case Picture():
            return draw(recipe)
        case Edit():
            return _edited(recipe)
        case _:
            return recipe


def problem(edit: Edit) -> str | None:
    """Return the error message with which a model fails to make this edit; None if it can."""
    try:
        width, height = _size(edit.source)
    except (OSError, ValueError):
        return "cannot identify image file"
    if edit.max_pixels is not None and width * height > edit.max_pixels:
        return (
            f"Input image of dimensions ({height}, {width}, 3) has a total number of pixels "
            f"{width * height} greater than the max size that fits in GPU memory on this "
            f"hardware, {edit.max_pixels}. Resize input image and try again."
        )
    return "CUDA out of memory." if width * height * edit.scale**2 > MAX_PIXELS else None


def _size(recipe: Recipe) -> tuple[int, int]:
    """Return width and height.

    Raises:
        OSError: the file is not an image.
        ValueError: the image has no pixels, or too many.
    """
    match recipe:
        case Picture():
            return recipe.width, recipe.height
        case Edit():
            if recipe.format == "svg":
                raise ValueError("an SVG has no pixels")
            width, height = _size(recipe.source)
            return _scaled(width, recipe.scale), _scaled(height, recipe.scale)
        case _:
            from PIL import Image

            with Image.open(io.BytesIO(recipe)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError("the image is too large")
                return image.size


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


@lru_cache(maxsize=8)
def _edited(edit: Edit) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(render(edit.source))) as opened:
        image = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    match edit.effect:
        case "remove_background":
            return encoded(_cut_out(image, edit), edit.format)
        case "upscale":
            size = _scaled(image.width, edit.scale), _scaled(image.height, edit.scale)
            return encoded(image.resize(size, Image.Resampling.LANCZOS), edit.format)
        case _:
            return _traced(image)


def _cut_out(image: "Image.Image", edit: Edit) -> "Image.Image":
    """Keep an oval in the middle, since the simulator does not recognise subjects."""
    from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter

    mask = Image.new("L", image.size)
    inset = image.width // 8, image.height // 8
    oval = (*inset, image.width - inset[0], image.height - inset[1])
    ImageDraw.Draw(mask).ellipse(oval, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(min(image.size) / 100))
    if edit.reverse:
        mask = ImageChops.invert(mask)
    subject = image.convert("RGBA")
    subject.putalpha(ImageChops.multiply(mask, subject.getchannel("A")))
    if edit.background == "rgba" and edit.format != "jpg":
        return subject
    try:
        colour = ImageColor.getrgb(edit.background)
    except ValueError:
        colour = (255, 255, 255)
    flat = Image.new("RGBA", image.size, colour)
    flat.alpha_composite(subject)
    return flat.convert("RGB")


def _traced(image: "Image.Image") -> bytes:
    """Draw the image as an SVG of rectangles, one per run of equal colour."""
    longest = max(image.size)
    columns = max(1, round(_TRACED_CELLS * image.width / longest))
    rows = max(1, round(_TRACED_CELLS * image.height / longest))
    small = image.convert("RGB").resize((columns, rows)).quantize(_TRACED_COLOURS).convert("RGB")
    shapes = []
    for y in range(rows):
        start = 0
        for x in range(1, columns + 1):
            colour = small.getpixel((start, y))
            if x == columns or small.getpixel((x, y)) != colour:
                assert isinstance(colour, tuple)
                red, green, blue = colour
                fill = f"#{red:02x}{green:02x}{blue:02x}"
                shapes.append(f'<path d="M{start} {y}H{x}V{y + 1}H{start}Z" fill="{fill}"/>')
                start = x
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{image.width}" height="{image.height}" '
        f'viewBox="0 0 {columns} {rows}" shape-rendering="crispEdges">{"".join(shapes)}</svg>\n'
    ).encode()
