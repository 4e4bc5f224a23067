"""Media types by content, and the names under which files may be saved."""

import pytest

from replicate_mcp.tasks.media import (
    DATA_EXTENSIONS,
    HEAD_BYTES,
    MEDIA_EXTENSIONS,
    MEDIA_TYPES,
    extension_of_type,
    media_type,
    name_to_save,
    without_media_extension,
)

PNG = b"\x89PNG\r\n\x1a\n"

# The first bytes of a file, and its media type.
BEGINNINGS = [
    (PNG, "image/png"),
    (b"\xff\xd8\xff\xe0", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
    (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
    (b"RIFF\0\0\0\0AVI ", None),
    (b"BM\x10\0\0\0\0\0\0\0", "image/bmp"),
    (b"BM\x10\0\0\0\1\0\0\0", None),
    (b"II\x2a\0", "image/tiff"),
    (b"MM\0\x2a", "image/tiff"),
    (b"\0\0\0\x20ftypavif", "image/avif"),
    (b"\0\0\0\x20ftypavis", "image/avif"),
    *((b"\0\0\0\x20ftyp" + brand, "image/heic") for brand in (b"heic", b"heim", b"heis", b"heix")),
    *((b"\0\0\0\x20ftyp" + brand, "image/heic") for brand in (b"hevc", b"hevm", b"hevs", b"hevx")),
    *((b"\0\0\0\x20ftyp" + brand, "image/heic") for brand in (b"mif1", b"msf1")),
    (b"\0\0\0\x20ftypisom", "video/mp4"),
    (b"\xff\x0a", "image/jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"ID3", "audio/mpeg"),
    *((b"\xff" + bytes([second]), "audio/mpeg") for second in b"\xfb\xfa\xf3\xf2\xe3\xe2"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"<svg>", "image/svg+xml"),
    (b"<svg xmlns=''>", "image/svg+xml"),
    (b"\xef\xbb\xbf \n<?xml version='1.0'?>\n<!-- a <b> --><!DOCTYPE svg><svg\n", "image/svg+xml"),
    (b"<svgx>", None),
    (b"<html><svg>", None),
    (b"<!DOCTYPE html><svg>", None),
    (b"<!-- never ends <svg>", None),
    (b"text", None),
    (b"", None),
]


@pytest.mark.parametrize(("beginning", "name"), BEGINNINGS)
def test_media_type_is_detected_from_the_first_bytes(beginning: bytes, name: str | None) -> None:
    found = media_type(beginning)
    assert (found and found.name) == name


def test_signature_counts_only_at_its_offset() -> None:
    for each in MEDIA_TYPES:
        for signature in each.signatures:
            size = max(offset + len(part) for offset, part in signature)
            file = bytearray(b"\x01" * size)
            for offset, part in signature:
                file[offset : offset + len(part)] = part
            found = media_type(bytes(file))
            assert found is not None
            moved = media_type(b"\x01" + bytes(file))
            assert moved is None


@pytest.mark.parametrize(
    ("name", "beginning", "saved"),
    [
        # Media have an extension of their type.
        ("cat.png", PNG, "cat.png"),
        ("cat.PNG", PNG, "cat.PNG"),
        ("cat.jfif", b"\xff\xd8\xff", "cat.jfif"),
        ("cat.jpg", PNG, "cat.png"),
        ("cat.mp4", PNG, "cat.png"),
        ("cat", PNG, "cat.png"),
        ("cat.exe", PNG, "cat.exe.png"),
        ("cat.zip", PNG, "cat.zip.png"),
        (".png", PNG, ".png.png"),
        ("a.b.webp", PNG, "a.b.png"),
        # Other content keeps an extension of data, and no other.
        ("mesh.glb", b"glTF", "mesh.glb"),
        ("mesh.GLB", b"glTF", "mesh.GLB"),
        ("run.exe", b"MZ", "run.bin"),
        ("run.sh", b"#!/bin/sh", "run.bin"),
        ("page.html", b"<html>", "page.bin"),
        ("notes.txt", b"<html>", "notes.txt"),
        # An HTML page, or nothing, where data was expected.
        ("data.json", b"<!DOCTYPE html>", None),
        ("data.json", b"\xef\xbb\xbf \n<HTML>", None),
        ("data.json", b"<htmlx>", "data.json"),
        ("data.json", b"", None),
        ("cat.png", b"text", None),
        ("cat", b"text", None),
        ("cat.toolongextension", b"text", None),
        ("cat.a-b", b"text", None),
    ],
)
def test_saved_extension_matches_the_content(
    name: str, beginning: bytes, saved: str | None
) -> None:
    assert name_to_save(name, beginning) == saved


@pytest.mark.parametrize(
    ("name", "without"),
    [("cat.png", "cat"), ("cat.MP4", "cat"), ("cat.zip", "cat.zip"), (".png", ".png"), ("a", "a")],
)
def test_only_media_extensions_may_be_replaced(name: str, without: str) -> None:
    assert without_media_extension(name) == without


def test_each_media_type_has_its_usual_and_unique_extension() -> None:
    assert extension_of_type("image/jpeg") == "jpg"
    assert extension_of_type("image/svg+xml") == "svg"
    with pytest.raises(StopIteration):
        extension_of_type("text/html")
    every = [extension for each in MEDIA_TYPES for extension in each.extensions]
    assert len(every) == len(set(every)) == len(MEDIA_EXTENSIONS)
    assert not MEDIA_EXTENSIONS & DATA_EXTENSIONS


EXTENSIONS = """\
image/png png
image/jpeg jpg jpeg jpe jfif
image/gif gif
image/webp webp
image/bmp bmp
image/tiff tiff tif
image/avif avif
image/heic heic heif
image/jxl jxl
image/x-icon ico
image/svg+xml svg
video/mp4 mp4 m4v m4a mov
video/webm webm mkv
audio/mpeg mp3
audio/wav wav
audio/ogg ogg oga ogv opus
audio/flac flac
"""


@pytest.mark.parametrize("line", EXTENSIONS.splitlines())
def test_media_file_keeps_an_extension_of_its_type_else_gets_the_usual_one(line: str) -> None:
    name, *extensions = line.split()
    assert extension_of_type(name) == extensions[0]
    beginnings = [beginning for beginning, kind in BEGINNINGS if kind == name]
    assert beginnings
    for beginning in beginnings:
        assert name_to_save("x", beginning) == f"x.{extensions[0]}"
        for extension in extensions:
            assert name_to_save(f"x.{extension}", beginning) == f"x.{extension}"


def test_each_data_extension_is_kept() -> None:
    kept = "safetensors zip tar gz npz npy json jsonl txt csv pdf glb gltf ply obj stl splat"
    for extension in kept.split():
        assert name_to_save(f"x.{extension}", b"data") == f"x.{extension}"
    assert frozenset(kept.split()) == DATA_EXTENSIONS


def test_sniffed_head_covers_a_comment_before_the_first_element() -> None:
    file = b"<?xml version='1.0'?><!--" + b" licence" * 500 + b"--><svg><!-- more -->"
    assert media_type(file[:HEAD_BYTES]) == media_type(b"<svg>")


@pytest.mark.parametrize("extension", ["exe", "sh", "html", "js", "bat", "py", "lnk", "url"])
def test_executable_extensions_are_neither_media_nor_data(extension: str) -> None:
    assert extension not in MEDIA_EXTENSIONS | DATA_EXTENSIONS
