"""Thumbnails of images."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE_PIXELS = 256

MAX_BYTES = 12_000
"""Maximum bytes of one thumbnail; an answer has room for two dozen of this size."""

MAX_PIXELS = 20_000_000
"""Maximum pixels of a decoded image, 4 bytes each.

4,096 by 4,096 is within the limit, and takes 70 MB for a moment. A compressed file of that many
pixels may have only a few kB.
"""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")

MIME_TYPE = "image/webp"

_ATTEMPTS = ((256, 75), (256, 50), (192, 40), (128, 30))
"""Longest side in pixels and WebP quality, tried in order until the thumbnail is small enough."""


class ThumbnailError(Exception):
    """No thumbnail could be made; the message is a clause for the end of a sentence."""


def thumbnail(data: bytes) -> bytes:
    """Return a WebP image of at most `MAX_SIDE_PIXELS` a side and `MAX_BYTES`.

    Raises:
        ThumbnailError: `data` is not a readable image, or has too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.size
            # Decode a JPEG at about the size that is needed.
            image.draft("RGB", (2 * MAX_SIDE_PIXELS, 2 * MAX_SIDE_PIXELS))
            if image.width * image.height > MAX_PIXELS:
                raise ThumbnailError(f"it has {size[0]:,} by {size[1]:,} pixels")
            image.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ThumbnailError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ThumbnailError("it has more pixels than can be opened") from None
    except Exception:  # Decoders raise arbitrary errors for broken files.
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
