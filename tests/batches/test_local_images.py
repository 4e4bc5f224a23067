"""Local images: which are accepted, and how they are read again for the upload."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import anyio
import pytest

from conftest import AppFactory
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.batches.local_images import (
    ImageContent,
    ImagePaths,
    LocalImages,
    named_path,
)
from replicate_mcp.errors import InvalidInput, ReplicateUnavailable
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.file_urls import is_local

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
def test_image_type_is_detected_from_content_not_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "image.txt").write_bytes(BEGINNINGS[kind])
    assert LocalImages(tmp_path).find("task 0: image", "image.txt").kind == kind


def test_file_changed_or_replaced_after_validation_is_not_read(tmp_path: Path) -> None:
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


def test_folder_replaced_by_a_symlink_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "allowed" / "cats", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir(parents=True)
        (each / "cat.png").write_bytes(PNG)
    found = LocalImages(tmp_path / "allowed").find("task 0: image", "cats/cat.png")
    folder.rename(tmp_path / "cats")
    folder.symlink_to(elsewhere)
    with pytest.raises(InvalidInput, match=r"is not there|cannot be read"):
        found.read()


def test_impossible_file_name_is_rejected_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="task 0: image 'xxx"):
        LocalImages(tmp_path).find("task 0: image", "x" * 5_000)


def test_unsupported_media_type_is_rejected(tmp_path: Path) -> None:
    for number, content in enumerate((b"ID3", b"<svg>", b"\x1aE\xdf\xa3", b"\xff\x0a", b"<html>")):
        (tmp_path / f"{number}.png").write_bytes(content)
        with pytest.raises(InvalidInput, match="is not an image: png, jpeg, webp, gif, bmp, tiff"):
            LocalImages(tmp_path).find("task 0: image", f"{number}.png")


@pytest.mark.parametrize(("size", "is_refused"), [(99_999_999, False), (100_000_000, True)])
def test_file_of_100_mb_is_rejected(tmp_path: Path, size: int, is_refused: bool) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(PNG)
    os.truncate(image, size)
    images = LocalImages(tmp_path)
    if not is_refused:
        assert images.find("task 0: image", "image.png").kind == "image/png"
        return
    with pytest.raises(InvalidInput, match=r"image\.png' has 100 MB: .* of less than 100 MB"):
        images.find("task 0: image", "image.png")


def test_content_of_100_mb_is_rejected() -> None:
    with pytest.raises(InvalidInput, match=r"^task 0: image has 100 MB: "):
        ImageContent.of("task 0: image", bytes(100_000_000))


def test_image_repr_omits_its_content() -> None:
    assert "PNG" not in repr(ImageContent.of("task 0: image", PNG))


# The paths that a caller may use.


ATTACHED = ImageContent.of("task 0: image", PNG)


def allowed(paths: ImagePaths, folder: Path | None) -> LocalImages:
    return LocalImages.allowed(paths, folder, {ATTACHED.uri: ATTACHED})


@pytest.mark.parametrize(
    ("paths", "end"),
    [
        ("none", "Paths are read on stdio alone, never over HTTP."),
        (
            "folder",
            "To name images of this machine, set REPLICATE_MCP_FILES to the folder that they are "
            "in.",
        ),
    ],
)
def test_rejection_of_every_path_names_the_remedy(paths: ImagePaths, end: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        allowed(paths, None).find("task 0: image", "cat.png")
    assert str(refused.value) == (
        "task 0: image 'cat.png' is not a URL: give an https:// link or a data: URI. " + end
    )


def test_allowed_folder_is_not_read_over_http(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    with pytest.raises(InvalidInput, match="never over HTTP"):
        allowed("none", tmp_path).find("task 0: image", "cat.png")


def test_files_outside_the_allowed_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "dog.png").write_bytes(PNG)
    images = allowed("folder", folder)
    assert images.find("task 0: image", "dog.png").read() == PNG
    assert images.found == {(folder / "dog.png").resolve().as_uri(): images.find("x", "dog.png")}
    for text in ("../cat.png", str(tmp_path / "cat.png"), "~/cat.png"):
        with pytest.raises(InvalidInput, match=r"leads out of|is not there"):
            images.find("task 0: image", text)


def test_user_may_name_any_path_relative_to_current_folder_or_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "cat.png").write_bytes(PNG)
    monkeypatch.chdir(folder)
    for home in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(home, str(tmp_path))
    images = allowed("any", None)
    uri = (tmp_path / "cat.png").resolve().as_uri()
    for text in ("../cat.png", str(tmp_path / "cat.png"), "~/cat.png", uri):
        assert images.find("task 0: image", text).uri == uri
    assert images.find("task 0: image", ATTACHED.uri) is ATTACHED
    assert sorted(images.found) == sorted([uri, ATTACHED.uri])
    for text in ("a\0b", "file://host/cat.png", "file://[x/cat.png"):
        with pytest.raises(InvalidInput, match="is not a path that can be followed"):
            images.find("task 0: image", text)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("a\0b", "is not a path that can be followed."),
        ("none.png", "is not there: {path} does not exist."),
        ("cat.png/cat.png", "is not there: {path} does not exist."),
        ("inner", "is a folder, not an image: name the image itself."),
        ("inner/pipe.png", "is not an ordinary file."),
        ("inner/text.png", "is not an image: png, jpeg, webp, gif, bmp, tiff, avif and heic are "
         "taken."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("anywhere", [False, True])
def test_non_image_is_rejected_with_its_kind(
    tmp_path: Path, text: str, end: str, anywhere: bool
) -> None:
    folder = tmp_path.resolve()
    (folder / "cat.png").write_bytes(PNG)
    (folder / "inner").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "inner" / "pipe.png")
    elif "pipe" in text:
        pytest.skip("Windows has no such files")
    (folder / "inner" / "text.png").write_text("text")
    with pytest.raises(InvalidInput) as refused:
        LocalImages(folder, anywhere=anywhere).find("task 0: image", text)
    assert str(refused.value).endswith(end.format(path=folder / text))
    assert str(refused.value).startswith("task 0: image '")


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="none, the folder that REPLICATE_MCP_FILES names, is"):
        LocalImages(tmp_path / "none").find("task 0: image", "cat.png")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="open files cannot be counted")
def test_images_in_subfolders_are_read_and_files_closed(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "cat.png").write_bytes(PNG)
    (tmp_path / "link.png").symlink_to(inner / "cat.png")
    opened = len(list(Path("/dev/fd").iterdir()))
    images = LocalImages(tmp_path)
    one, same = images.find("task 0: image", "a/b/cat.png"), images.find("x", "link.png")
    assert one is same
    assert (one.where, one.read()) == ("task 0: image", PNG)
    assert len(images.found) == 1
    assert len(list(Path("/dev/fd").iterdir())) == opened


WINDOWS = PureWindowsPath("C:\\Users\\you\\images")


@pytest.mark.parametrize(
    "text",
    [
        "D:\\cat.png",
        "d:cat.png",
        "\\\\host\\share\\cat.png",
        "//host/share/cat.png",
        "\\/host/share/cat.png",
        "//host",
        "////host/share/cat.png",
        "\\\\?\\C:\\Users\\you\\images\\cat.png",
        "\\\\?\\UNC\\host\\share\\cat.png",
        "\\\\.\\pipe\\cat.png",
        "//./C:/cat.png",
        "\\??\\UNC\\host\\share\\cat.png",
        "file://host/share/cat.png",
        "FILE://127.0.0.1/share/cat.png",
        "file:////host/share/cat.png",
        "file://///host/share/cat.png",
        "file:///%5C%5Chost/share/cat.png",
        "file:%2F%2Fhost/share/cat.png",
        "file:\\\\host\\share\\cat.png",
        "file:///D:/cat.png",
        "file:///D%3A/cat.png",
    ],
)
def test_windows_paths_to_other_hosts_drives_or_devices_are_rejected_by_text(text: str) -> None:
    assert is_local(text)
    assert named_path(text, WINDOWS) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat.png", "C:/Users/you/images/cat.png"),
        ("cats\\cat.png", "C:/Users/you/images/cats/cat.png"),
        ("c:\\users\\you\\images\\cat.png", "C:/Users/you/images/cat.png"),
        ("\\Users\\you\\images\\cat.png", "C:/Users/you/images/cat.png"),
        ("file:///C:/Users/you/images/cat.png", "C:/Users/you/images/cat.png"),
        ("file://localhost/C:/Users/you/images/a%20cat.png", "C:/Users/you/images/a cat.png"),
        ("file:cat.png", "C:/Users/you/images/cat.png"),
    ],
)
def test_windows_path_on_the_drive_of_the_folder_is_read(text: str, expected: str) -> None:
    named = named_path(text, WINDOWS)
    assert named is not None
    assert WINDOWS / named == PureWindowsPath(expected)


def test_folder_on_a_share_is_read_only_by_its_own_paths() -> None:
    share = PureWindowsPath("\\\\host\\share\\images")
    own = "\\\\HOST\\share\\images\\cat.png"
    assert named_path(own, share) == share / "cat.png"
    assert named_path("cat.png", share) == PureWindowsPath("cat.png")
    for other in ("\\\\host\\other\\cat.png", "\\\\evil\\share\\cat.png", "C:\\cat.png"):
        assert named_path(other, share) is None


@pytest.mark.parametrize("folder", ["\\\\?\\C:\\images", "\\\\.\\C:\\images"])
def test_device_path_is_rejected_even_if_the_folder_is_one(folder: str) -> None:
    assert named_path(f"{folder}\\cat.png", PureWindowsPath(folder)) is None


def test_posix_treats_backslash_paths_as_names_and_rejects_urls_with_a_host(tmp_path: Path) -> None:
    folder = PurePosixPath("/home/you/images")
    assert named_path("\\\\host\\cat.png", folder) == PurePosixPath("\\\\host\\cat.png")
    assert named_path("file://host/home/you/images/cat.png", folder) is None
    assert named_path("file:///C:/cat.png", folder) == PurePosixPath("/C:/cat.png")
    (tmp_path / "cat.png").write_bytes(PNG)
    url = (tmp_path / "cat.png").as_uri()
    images = LocalImages(tmp_path)
    assert images.find("task 0: image", url).kind == "image/png"
    for refused in (url.replace("file://", "file://host"), "//host/share/cat.png"):
        with pytest.raises(InvalidInput, match="leads out of"):
            images.find("task 0: image", refused)
    with pytest.raises(InvalidInput, match="is not a path that can be followed"):
        images.find("task 0: image", "file://[x/cat.png")


async def test_stalled_upload_rejects_the_request_within_its_timeout(
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
    request = BatchRequest(tasks, image_paths="folder", upload_seconds=1)
    async with app_with(REPLICATE_MCP_FILES=str(tmp_path)) as app:
        simulator.fault_next("silence", on="upload")
        with anyio.fail_after(10), pytest.raises(ReplicateUnavailable, match="give their URLs"):
            await app.batches.start(app.caller(), request)
        assert simulator.account("acme")["created"] == 0
        await app.batches.start(app.caller(), request)
