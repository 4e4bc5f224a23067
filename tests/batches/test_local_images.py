"""Images of this machine, as they are looked at and read again."""

from pathlib import Path

import anyio
import pytest

from conftest import AppFactory
from replicate_mcp.batches.local_images import LocalImages, is_path
from replicate_mcp.callers_batches import BatchRequest
from replicate_mcp.errors import InvalidInput, ReplicateUnavailable
from replicate_mcp.simulator import Simulator

PNG = b"\x89PNG\r\n\x1a\n"

BEGINNINGS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
    "image/bmp": b"BM\x10\x00\x00\x00\x00\x00\x00\x00",
    "image/tiff": b"II*\x00",
    "image/avif": b"\x00\x00\x00\x1cftypavif",
    "image/heic": b"\x00\x00\x00\x18ftypheic",
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_an_image_is_known_by_its_content_whatever_it_is_called(tmp_path: Path, kind: str) -> None:
    (tmp_path / "image.txt").write_bytes(BEGINNINGS[kind])
    assert LocalImages(tmp_path).find("task 0: image", "image.txt").kind == kind


def test_what_was_changed_or_exchanged_since_it_was_looked_at_is_not_sent(tmp_path: Path) -> None:
    image, other = tmp_path / "image.png", tmp_path / "other.png"
    image.write_bytes(PNG)
    other.write_bytes(PNG)
    found = LocalImages(tmp_path).find("task 0: image", "image.png")
    assert found.read() == PNG
    image.write_bytes(PNG + b"more")
    with pytest.raises(InvalidInput, match="was changed while it was read"):
        found.read()
    image.unlink()
    image.symlink_to(other)
    with pytest.raises(InvalidInput, match="cannot be read"):
        found.read()


def test_a_folder_that_was_exchanged_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "allowed" / "cats", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir(parents=True)
        (each / "cat.png").write_bytes(PNG)
    found = LocalImages(tmp_path / "allowed").find("task 0: image", "cats/cat.png")
    folder.rename(tmp_path / "cats")
    folder.symlink_to(elsewhere)
    with pytest.raises(InvalidInput, match=r"is not there|cannot be read"):
        found.read()


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="task 0: image 'xxx"):
        LocalImages(tmp_path).find("task 0: image", "x" * 5_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat.png", True),
        ("/home/you/cat.png", True),
        ("C:\\cat.png", True),
        ("file:///home/you/cat.png", True),
        ("FILE:cat.png", True),
        ("https://example.com/cat.png", False),
        ("data:image/png;base64,AAAA", False),
    ],
)
def test_what_has_no_scheme_may_be_a_path(text: str, expected: bool) -> None:
    assert is_path(text) is expected


async def test_an_image_that_does_not_get_through_refuses_the_request_in_time(
    app_with: AppFactory, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(PNG)
    tasks = [
        {
            "prompt": "at night",
            "input_image": "red.png",
            "model": "black-forest-labs/flux-kontext-max",
        }
    ]
    request = BatchRequest(tasks, is_local=True, upload_seconds=1)
    async with app_with(REPLICATE_MCP_FILES=str(tmp_path)) as app:
        simulator.fault_next("silence", on="upload")
        with anyio.fail_after(10), pytest.raises(ReplicateUnavailable, match="give their URLs"):
            await app.batches.start(app.caller(), request)
        assert simulator.account("acme")["created"] == 0
        await app.batches.start(app.caller(), request)
