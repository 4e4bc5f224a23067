"""A local image that grows after it was checked."""

import os
import tracemalloc
from pathlib import Path

import pytest

from batches.test_local_images import PNG
from replicate_mcp.batches.local_images import MAX_BYTES, LocalImages
from replicate_mcp.errors import InvalidInput


def test_file_growing_during_reading_is_bounded_in_memory(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(PNG)
    found = LocalImages(tmp_path).find("task 0: image", "image.png")
    os.truncate(image, 4 * MAX_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="was changed while it was read"):
            found.read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MAX_BYTES
