"""Large data URIs among a task's inputs: decoded once, planned by a URI, and uploaded as files."""

import base64
from typing import Any
from urllib.parse import quote_from_bytes

import pytest

from batches.test_planning import NAME, PNG, UNCHECKED, model, planned, task
from batches.test_uploads import Files, uploaded
from replicate_mcp.batches import local_images
from replicate_mcp.batches.local_images import ImageContent, LocalImages
from replicate_mcp.batches.planning import PlannedTask, plan
from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.task import Task

WHERE = "task 0: image"


def encoded(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


LARGE = encoded(PNG + b"x" * 20_000)
OTHER = encoded(PNG + b"y" * 20_000)


# The content.


@pytest.mark.parametrize("length", range(1, 9))
def test_base64_is_decoded_with_or_without_padding(length: int) -> None:
    content = b"\xfb\xef\xbe\xff" * 2
    text = base64.b64encode(content[:length]).decode()
    for each in (text, text.rstrip("="), text + "==", text.replace("+", "-").replace("/", "_")):
        found = ImageContent.of_data(WHERE, f"data:x/y;base64,{each}")
        assert (found.content, found.kind, found.where) == (content[:length], "x/y", WHERE)


@pytest.mark.parametrize(
    ("uri", "kind", "content"),
    [
        (encoded(PNG, "text/plain"), "image/png", PNG),
        (encoded(PNG, ""), "image/png", PNG),
        (f"data:image/png,{quote_from_bytes(PNG)}", "image/png", PNG),
        ("data:,a%20b", "application/octet-stream", b"a b"),
        ("data:text/x-notes,a=b", "text/x-notes", b"a=b"),
        ("data:text/x-notes;charset=utf-8;base64,YQ==", "text/x-notes", b"a"),
        ("DATA:text/x-notes;BASE64,YQ==", "text/x-notes", b"a"),
        ("data:text/x-notes;base64, Y Q\n=%3D", "text/x-notes", b"a"),
    ],
)
def test_type_of_a_data_uri_is_that_of_its_content_if_known(
    uri: str, kind: str, content: bytes
) -> None:
    found = ImageContent.of_data(WHERE, uri)
    assert (found.kind, found.read()) == (kind, content)
    assert found == ImageContent.of_data(WHERE, uri)
    assert found.uri.startswith("content:")


@pytest.mark.parametrize(
    "uri",
    [
        *("data:", "data:image/png", "data:image/png,", "data:image/png;base64,", "data:,"),
        *("data:image/png;base64,A", "data:image/png;base64,YWJj!", "data:é/png,a"),
    ],
)
def test_undecodable_data_uri_is_rejected(uri: str) -> None:
    with pytest.raises(InvalidInput, match="task 0: image is a data: URI that cannot be decoded"):
        ImageContent.of_data(WHERE, uri)


def test_data_uri_of_too_large_a_file_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_images, "MAX_BYTES", 100)
    assert ImageContent.of_data(WHERE, encoded(b"x" * 99)).content == b"x" * 99
    with pytest.raises(InvalidInput, match="less than 100 MB"):
        ImageContent.of_data(WHERE, encoded(b"x" * 100))


@pytest.mark.parametrize("scheme", ["data:", "DATA:"])
def test_data_uri_is_decoded_once_for_all_inputs(scheme: str) -> None:
    images = LocalImages(None)
    uri = scheme + LARGE.removeprefix("data:")
    first = images.find(WHERE, uri)
    assert images.find("task 1: image", uri) is first
    assert images.find("task 2: image", OTHER) is not first
    assert list(images.found) == [first.uri, images.find(WHERE, OTHER).uri]


# The plan.


async def test_large_data_uri_in_a_file_input_is_replaced_by_its_attachment() -> None:
    found = await planned(task(image=LARGE, text=LARGE), model())
    assert found.inputs["image"] == ImageContent.of_data(WHERE, LARGE).uri
    assert found.inputs["text"] == LARGE
    found = await planned(task(images=[LARGE, "https://x/y.png"]), model())
    assert found.inputs["images"] == [ImageContent.of_data(WHERE, LARGE).uri, "https://x/y.png"]


@pytest.mark.parametrize(
    ("value", "is_replaced"),
    [(LARGE, True), ([LARGE, OTHER], True), ([LARGE, "a fox"], False), ([], False), ("", False)],
)
async def test_large_data_uris_alone_are_replaced_without_a_schema(
    value: Any, is_replaced: bool
) -> None:
    found = await planned(task(prompt="x", anything=value), UNCHECKED)
    planned_value = found.inputs["anything"]
    assert (planned_value != value) is is_replaced
    if is_replaced:
        parts = planned_value if isinstance(value, list) else [planned_value]
        assert all(each.startswith("content:") for each in parts)


async def test_prompt_is_no_file_without_a_schema() -> None:
    (found,) = await plan([task(prompt=LARGE)], {NAME: UNCHECKED}, LocalImages(None))
    assert found.prompt == LARGE


# The upload.


@pytest.mark.parametrize(
    ("uri", "kind", "extension"),
    [
        (LARGE, "image/png", "png"),
        (encoded(b"notes" * 4_000, "text/x-notes"), "text/x-notes", "bin"),
    ],
)
async def test_file_of_a_data_uri_is_uploaded_with_its_type(
    uri: str, kind: str, extension: str
) -> None:
    images, files = LocalImages(None), Files()
    stand_in = images.find(WHERE, uri)
    assert await uploaded(images, files, {"image": stand_in.uri}) == [
        {"image": "https://replicate.example/1"}
    ]
    assert files.sent == [(stand_in.read(), f"{stand_in.digest[:16]}.{extension}", kind)]


# Secrets.


async def secrets(each: Task, **properties: Any) -> tuple[str, ...]:
    found: PlannedTask = await planned(each, model(properties) if properties else UNCHECKED)
    assert found.problems == ()
    return found.secrets


async def test_secret_inputs_of_a_task_are_named() -> None:
    text: dict[str, Any] = {"type": "string"}
    given = task(prompt="r8_0123456789", hf_token="hidden", text="a fox", key="hidden")
    assert await secrets(given) == ("hf_token",)
    marked = {"key": {**text, "format": "password"}, "text": text, "prompt": text}
    assert await secrets(given, hf_token=text, **marked) == ("hf_token", "key")
    marked["prompt"] = {**text, "writeOnly": True}
    assert await secrets(given, hf_token=text, **marked) == ("hf_token", "key")
    assert await secrets(task(text="a fox"), text=text) == ()
