"""Makes a small picture of a large one."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE_PIXELS = 256

MAX_BYTES = 12_000
"""Of one thumbnail; two dozen of them are what an answer has room for."""

MAX_PIXELS = 20_000_000
"""Of a picture as it is decoded, 4 bytes each: 4,096 by 4,096 fits, and takes 70 MB for a moment.
Compressed, it may have a few kB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")

MIME_TYPE = "image/webp"

_ATTEMPTS = ((256, 75), (256, 50), (192, 40), (128, 30))
"""Longest side and quality, until it is small enough."""


class ThumbnailError(Exception):
    """Why there is no thumbnail, as a sentence without its beginning and its full stop."""


def thumbnail(data: bytes) -> bytes:
    """A WebP of at most `LONGEST_SIDE` pixels and `MOST_BYTES`.

    Raises:
        NoPicture: it is no picture that can be read, or one too large to be opened.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.size
            # A JPEG is decoded at about the size that is needed.
            image.draft("RGB", (2 * MAX_SIDE_PIXELS, 2 * MAX_SIDE_PIXELS))
            if image.width * image.height > MAX_PIXELS:
                raise ThumbnailError(f"it has {size[0]:,} by {size[1]:,} pixels")
            image.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ThumbnailError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ThumbnailError("it has more pixels than can be opened") from None
    except Exception:  # Decoders raise whatever a broken file leads them to.
        raise ThumbnailError("it cannot be read as a picture") from None
    return _encoded(small)


def _encoded(image: "Image.Image") -> bytes:
    for side, quality in _ATTEMPTS:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=4)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    raise ThumbnailError("its thumbnail would be too large")
