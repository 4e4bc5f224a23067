"""Images of a batch are uploaded to Replicate, each once, before the first creation."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from batches.test_outcome import TASK
from replicate_mcp.batches.attachments import Attachments
from replicate_mcp.batches.local_images import LocalImages
from replicate_mcp.batches.uploads import MAX_CONCURRENT_UPLOADS, upload_images
from replicate_mcp.errors import InvalidInput, ReplicateUnavailable
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError, RequestNotSent
from replicate_mcp.replicate_api.gateway import Gateway

PNG = b"\x89PNG\r\n\x1a\n"


class Files:
    """Stand-in for Replicate's file storage.

    Attributes:
        sent: content, name and type of each upload.
        most_at_once: the peak number of concurrent uploads.
    """

    def __init__(self, fault: ReplicateApiError | None = None) -> None:
        self._fault = fault
        self._open = 0
        self.sent: list[tuple[bytes, str, str]] = []
        self.max_concurrent = 0

    async def upload(self, content: bytes, name: str, kind: str) -> str:
        self._open += 1
        self.max_concurrent = max(self.max_concurrent, self._open)
        await anyio.sleep(0.01)
        self._open -= 1
        if self._fault is not None:
            raise self._fault
        self.sent.append((content, name, kind))
        return f"https://replicate.example/{len(self.sent)}"


def attached(*contents: bytes) -> tuple[LocalImages, list[str]]:
    """Return images of these contents, and the URI of each."""
    attachments = Attachments()
    tasks = attachments.replaced([{"image": io.BytesIO(each)} for each in contents])
    return LocalImages(None, attached=attachments.images), [task["image"] for task in tasks]


async def uploaded(images: LocalImages, files: Files, *inputs: Any) -> list[Any]:
    tasks = [replace(TASK, inputs=each) for each in inputs]
    found = await upload_images(tasks, images, cast(Gateway, files))
    return [task.inputs for task in found]


async def test_each_image_is_uploaded_once_and_replaced_by_its_url_everywhere() -> None:
    images, (uri, other) = attached(PNG, b"GIF89a")
    files = Files()
    one, two = await uploaded(
        images,
        files,
        {"image": uri, "prompt": "x", "seed": 7},
        {"images": ["https://x/y", uri], "more": {"deep": [{"a": other}]}},
    )
    by_content = {content: number for number, (content, _, _) in enumerate(files.sent, 1)}
    url = f"https://replicate.example/{by_content[PNG]}"
    assert one == {"image": url, "prompt": "x", "seed": 7}
    assert two == {
        "images": ["https://x/y", url],
        "more": {"deep": [{"a": f"https://replicate.example/{by_content[b'GIF89a']}"}]},
    }
    digest = uri.removeprefix("content:")
    assert (PNG, f"{digest[:16]}.png", "image/png") in files.sent
    assert len(files.sent) == 2


async def test_images_with_equal_content_are_uploaded_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    images, files = LocalImages(tmp_path), Files()
    uris = [images.find("task 0: image", name).uri for name in ("a.png", "b.png")]
    assert uris[0] != uris[1]
    (inputs,) = await uploaded(images, files, {"images": uris})
    assert inputs == {"images": ["https://replicate.example/1"] * 2}
    assert "a.png" not in files.sent[0][1]


async def test_three_images_are_uploaded_concurrently() -> None:
    images, uris = attached(*(PNG + bytes([number]) for number in range(8)))
    files = Files()
    await uploaded(images, files, {"images": uris})
    assert len(files.sent) == 8
    assert files.max_concurrent == MAX_CONCURRENT_UPLOADS == 3


async def test_tasks_without_images_are_unchanged() -> None:
    tasks = [replace(TASK, inputs={"image": "content:x"})]
    assert await upload_images(tasks, LocalImages(None), cast(Gateway, Files())) is tasks


@pytest.mark.parametrize(
    ("fault", "kind", "end"),
    [
        (
            ApiStatusError(413, "It is too large."),
            InvalidInput,
            "Replicate refused it: It is too large.",
        ),
        (RequestNotSent("no route"), ReplicateUnavailable, "Nothing was created: try again."),
    ],
)
async def test_failed_image_upload_rejects_the_batch(
    fault: ReplicateApiError, kind: type[Exception], end: str
) -> None:
    images, (uri,) = attached(PNG)
    with pytest.raises(kind) as caught:
        await uploaded(images, Files(fault), {"image": uri})
    error = caught.value
    assert type(error) is kind
    assert str(error).startswith(
        "task 0: image could not be uploaded, so nothing was created. Replicate "
    )
    assert str(error).endswith(end)
