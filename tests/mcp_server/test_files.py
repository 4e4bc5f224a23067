"""Local images as inputs, over stdio."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from mcp_server.conftest import Connect
from mcp_server.tool_results import call, text
from replicate_mcp.simulator import Simulator

EDIT = "black-forest-labs/flux-kontext-max"
COMBINE = "google/nano-banana"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return an allowed folder, and one beside it that is not allowed."""
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    Image.new("RGB", (8, 8), "red").save(folder / "same.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "cats" / "blue cat.jpg")
    Image.new("RGB", (8, 8), "green").save(tmp_path / "secret" / "green.webp")
    return folder


def uploaded(simulator: Simulator) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{simulator.url}/v1/files", headers={"authorization": "Bearer r8_acme_1"}, timeout=10
    )
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def inputs_of(simulator: Simulator, prediction_id: str) -> dict[str, Any]:
    answer = httpx.get(
        f"{simulator.url}/v1/predictions/{prediction_id}",
        headers={"authorization": "Bearer r8_acme_1"},
        timeout=10,
    )
    found: dict[str, Any] = answer.json()["input"]
    return found


async def test_path_used_by_several_tasks_is_uploaded_once(
    connect: Connect, simulator: Simulator, pictures: Path
) -> None:
    remote = "https://example.com/dog.png"
    tasks = [
        {"prompt": "at night", "input_image": "red.png", "model": EDIT},
        {"prompt": "in snow", "input_image": str(pictures / "same.png"), "model": EDIT},
        {"prompt": "in ink", "input_image": (pictures / "red.png").as_uri(), "model": EDIT},
        {
            "prompt": "both",
            "image_input": ["cats/../cats/blue cat.jpg", remote, "red.png"],
            "model": COMBINE,
        },
    ]
    async with connect(REPLICATE_MCP_FILES=str(pictures)) as client:
        assert f"a path in {pictures} as well" in str(client.instructions)
        answer = await call(client, "generate_images", tasks=tasks)
    assert answer["successful_count"] == 4
    files = {file["content_type"]: file for file in uploaded(simulator)}
    assert len(uploaded(simulator)) == 2
    assert files["image/png"]["size"] == (pictures / "red.png").stat().st_size
    assert "red" not in files["image/png"]["name"]
    assert files["image/png"]["name"].endswith(".png")
    assert files["image/jpeg"]["name"].endswith(".jpg")
    red, blue = files["image/png"]["urls"]["get"], files["image/jpeg"]["urls"]["get"]
    sent = [inputs_of(simulator, row["prediction_id"]) for row in answer["successful_results"]]
    assert [inputs["input_image"] for inputs in sent[:3]] == [red, red, red]
    assert sent[3]["image_input"] == [blue, remote, red]


def wrong_paths(folder: Path) -> Iterator[tuple[str, str]]:
    """Return paths that are rejected, and the message about each."""
    outside = folder.parent / "secret" / "green.webp"
    (folder / "link.webp").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "notes.png").write_text("my notes")
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")
    with (folder / "large.png").open("wb") as large:
        large.write((folder / "red.png").read_bytes())
        large.truncate(100_000_000)
    for leading_out in (
        "../secret/green.webp",
        str(outside),
        outside.as_uri(),
        "cats/../../secret/green.webp",
        "link.webp",
        "linked/green.webp",
        "/etc/passwd",
        "/nowhere/at/all.png",
    ):
        yield leading_out, "leads out of"
    yield "none.png", "is not there"
    yield "red.png/x.png", "is not there"
    yield "cats", "is a folder, not an image"
    yield ".", "is a folder, not an image"
    yield "circle", "not"
    yield "red\0.png", "not a path that can be followed"
    yield "notes.png", "is not an image: png, jpeg"
    yield "empty.png", "is not an image"
    yield "pipe.png", "is not an ordinary file"
    yield "large.png", "has 100 MB: Replicate takes files of less than 100 MB"


@pytest.mark.parametrize("era", ["auto"])
async def test_forbidden_path_is_rejected_before_anything_is_sent(
    connect: Connect, simulator: Simulator, pictures: Path
) -> None:
    async with connect(REPLICATE_MCP_FILES=str(pictures)) as client:
        for path, sentence in wrong_paths(pictures):
            tasks: list[dict[str, Any]] = [
                {"prompt": "fine", "input_image": "red.png", "model": EDIT},
                {"prompt": "wrong", "image_input": ["red.png", path], "model": COMBINE},
            ]
            refused = await client.call_tool("generate_images", {"tasks": tasks})
            assert refused.is_error
            assert text(refused).startswith("task 1: image_input[1] '"), path
            assert sentence in text(refused), path
        tasks[1]["image_input"] = ["red.png", 7]
        refused = await client.call_tool("generate_images", {"tasks": tasks})
        assert "task 1: image_input[1] 7 is not a URL" in text(refused)
    assert uploaded(simulator) == []
    assert simulator.account("acme")["creations_seen"] == 0


@pytest.mark.parametrize(
    ("model", "inputs", "sentence"),
    [
        (
            EDIT,
            {"input_image": ["red.png"]},
            "is a list, not one URL: did you mean 'red.png'?",
        ),
        (EDIT, {"input_image": "['red.png']"}, "'['red.png']' is JSON text, not one URL"),
        (EDIT, {"input_image": '["red.png"'}, "is JSON text, not one URL"),
        (EDIT, {"input_image": "sandbox:/mnt/data/red.png"}, "is not a URL: give an https:// link"),
        (EDIT, {"input_image": "content:red"}, "'content:red' is not there"),
        (COMBINE, {"image_input": "['red.png'"}, "image_input is JSON text"),
        (COMBINE, {"image_input": "red.png"}, "is not a list: did you mean a list that holds it?"),
        (COMBINE, {"image_input": [""]}, "image_input[0] '' is not a URL"),
        (
            COMBINE,
            {"image_input": ["red.png", "https://"]},
            "image_input[1] 'https://' is not a URL",
        ),
    ],
)
async def test_image_in_an_unsupported_form_is_rejected_as_given(
    connect: Connect,
    simulator: Simulator,
    pictures: Path,
    model: str,
    inputs: dict[str, Any],
    sentence: str,
) -> None:
    async with connect(REPLICATE_MCP_FILES=str(pictures)) as client:
        tasks = [{"prompt": "x", "model": model, **inputs}]
        refused = await client.call_tool("generate_images", {"tasks": tasks})
    assert refused.is_error
    assert sentence in text(refused)
    assert "file://" not in text(refused)
    assert simulator.account("acme")["creations_seen"] == 0


async def test_path_input_without_files_setting_names_the_setting(
    connect: Connect, simulator: Simulator, pictures: Path
) -> None:
    tasks = [{"prompt": "x", "input_image": str(pictures / "red.png"), "model": EDIT}]
    async with connect() as client:
        refused = await client.call_tool("generate_images", {"tasks": tasks})
        tasks[0]["input_image"] = (pictures / "red.png").as_uri()
        uri = await client.call_tool("generate_images", {"tasks": tasks})
    for answer in (refused, uri):
        assert answer.is_error
        assert "is not a URL: give an https:// link or a data: URI" in text(answer)
        assert "set REPLICATE_MCP_FILES to the folder" in text(answer)
    async with connect(REPLICATE_MCP_FILES=str(pictures / "gone")) as client:
        gone = await client.call_tool("generate_images", {"tasks": tasks})
    assert "the folder that REPLICATE_MCP_FILES names, is not there" in text(gone)
    assert uploaded(simulator) == []


async def test_failed_upload_fails_the_call_and_creates_nothing(
    connect: Connect, simulator: Simulator, pictures: Path
) -> None:
    tasks = [{"prompt": "x", "input_image": "red.png", "model": EDIT}]
    async with connect(REPLICATE_MCP_FILES=str(pictures)) as client:
        for fault in ("429", "503", "reset", "reset_after", "truncated"):
            simulator.fault_next(fault, on="upload")
            failed = await client.call_tool("generate_images", {"tasks": tasks})
            assert failed.is_error
            assert text(failed).startswith("task 0: input_image could not be uploaded, so nothing")
        assert simulator.account("acme")["creations_seen"] == 0
        await call(client, "generate_images", tasks=tasks)
