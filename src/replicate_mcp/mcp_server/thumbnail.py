"""Makes a small picture of a large one."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LONGEST_SIDE = 256

MOST_BYTES = 12_000
"""Of one thumbnail; two dozen of them are what an answer has room for."""

MOST_PIXELS = 20_000_000
"""Of a picture as it is decoded, 4 bytes each: 4,096 by 4,096 fits, and takes 70 MB for a moment.
Compressed, it may have a few kB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")

MIME_TYPE = "image/webp"

_ATTEMPTS = ((256, 75), (256, 50), (192, 40), (128, 30))
"""Longest side and quality, until it is small enough."""


class NoPicture(Exception):
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
            image.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))
            if image.width * image.height > MOST_PIXELS:
                raise NoPicture(f"it has {size[0]:,} by {size[1]:,} pixels")
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except NoPicture:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise NoPicture("it has more pixels than can be opened") from None
    except Exception:  # Decoders raise whatever a broken file leads them to.
        raise NoPicture("it cannot be read as a picture") from None
    return _encoded(small)


def _encoded(image: "Image.Image") -> bytes:
    for side, quality in _ATTEMPTS:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=4)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise NoPicture("its thumbnail would be too large")
