"""Name and extension of saved files, and files that are not saved."""

import errno
import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from replicate_mcp.cli import downloader
from replicate_mcp.cli.downloader import Saver
from replicate_mcp.platform import files
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import GeneratedFile

from .conftest import CommandLine
from .hostile import HOSTILE, hostile_replicate

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
WEBP = b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 100
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 100
SVG_TEXT = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
MP4 = b"\0\0\0\x1cftypisom" + b"\0" * 100
PAGE = b"<!DOCTYPE html><html><body>Bad gateway</body></html>"
PROGRAM = b"MZ\x90\0" + b"\0" * 100


class Host:
    """A host of output files on loopback.

    Attributes:
        bodies: its successive responses; the last one is repeated.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []
        self.encoding: str | None = None
        self.length: int | None = None
        self.asked: list[str | None] = []


@contextmanager
def _running() -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append(self.headers["accept-encoding"])
            body = running.bodies.pop(0) if len(running.bodies) > 1 else running.bodies[0]
            self.send_response(200)
            if running.encoding:
                self.send_header("content-encoding", running.encoding)
            if running.length is not None:
                self.send_header("content-length", str(running.length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = Host(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "RETRY_DELAY_SECONDS", 0.02)


@pytest.fixture
def host() -> Iterator[Host]:
    with _running() as running:
        yield running


def file(url: str, name: str) -> GeneratedFile:
    return GeneratedFile(url=url, filename=name, expires_at=datetime.now(UTC) + timedelta(hours=1))


async def save(host: Host, folder: Path, *names: str, **options: Any) -> list[str]:
    """Save files with these names; return the reasons of those that could not be saved."""
    saver = Saver(folder, host.url, **options)
    failed = await saver.save([file(f"{host.url}/{number}", n) for number, n in enumerate(names)])
    return [each.reason for each in failed]


def saved(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("a.png", PNG, "a.png"),
        ("a.JPEG", b"\xff\xd8\xff\xe0", "a.JPEG"),
        ("a.png", WEBP, "a.webp"),
        ("a.png", JPEG, "a.jpg"),
        ("a.PNG", JPEG, "a.jpg"),
        ("a.webp", SVG_TEXT, "a.svg"),
        ("a", WEBP, "a.webp"),
        ("v1.2", WEBP, "v1.2.webp"),
        ("a.webp", MP4, "a.mp4"),
        ("a.mov", MP4, "a.mov"),
        ("a.exe", PNG, "a.exe.png"),
        ("a.html", b"\n<?xml version='1.0'?><!-- a --><svg xmlns=''/>", "a.html.svg"),
        ("a.exe", PROGRAM, "a.bin"),
        ("a.lnk", b"L\0\0\0", "a.bin"),
        ("a.sh", b"#!/bin/sh\n", "a.bin"),
        ("a.HTML", PAGE, "a.bin"),
        ("a.js", b"alert(1)", "a.bin"),
        ("a.safetensors", PROGRAM, "a.safetensors"),
        ("a.txt", PAGE, "a.txt"),
        ("a.zip", b"PK\3\4" + b"\0" * 100, "a.zip"),
        ("a.json", b'{"boxes": []}', "a.json"),
    ],
)
async def test_extension_follows_the_content(
    host: Host, tmp_path: Path, name: str, body: bytes, expected: str
) -> None:
    host.bodies = [body]
    assert await save(host, tmp_path, name) == []
    assert saved(tmp_path) == [expected]
    assert (tmp_path / expected).read_bytes() == body


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.png", PAGE),
        ("a.svg", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        ("a.webp", b'{"detail": "not found"}'),
        ("a.jpg", b"upstream connect error"),
        ("a.safetensors", PAGE),
        ("a.zip", b"\n<html><title>502</title></html>"),
        ("a", PROGRAM),
        ("a.exe~", PROGRAM),
        ("a.png", gzip.compress(PNG, mtime=0)),
    ],
)
async def test_download_with_non_media_content_is_retried_and_not_saved(
    host: Host, tmp_path: Path, name: str, body: bytes
) -> None:
    host.bodies = [body]
    (reason,) = await save(host, tmp_path, name)
    assert reason.startswith("its content is no image")
    assert len(host.asked) == 3
    assert saved(tmp_path) == []


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a", "a.safetensors", "a.lnk"])
async def test_empty_download_is_retried_and_not_saved(
    host: Host, tmp_path: Path, name: str
) -> None:
    host.bodies = [b""]
    assert await save(host, tmp_path, name) == ["its host sent an empty file"]
    assert len(host.asked) == 3
    assert saved(tmp_path) == []


async def test_truncated_download_is_retried_and_not_saved(host: Host, tmp_path: Path) -> None:
    host.bodies, host.length = [PNG], len(PNG) + 1
    (reason,) = await save(host, tmp_path, "a.png")
    assert reason.startswith("the connection failed")
    assert len(host.asked) == 3
    assert saved(tmp_path) == []


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("page_for_file", "its content is no image, nor video or audio"),
        ("empty_file", "its host sent an empty file"),
    ],
)
def test_command_line_reports_unsaved_files_and_exits_with_1(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path, setting: str, reason: str
) -> None:
    simulator.configure(**{setting: 1})
    made = replicate_mcp("generate", "a fox", "a house", "--out", "one")
    again = replicate_mcp("download", "latest", "--to", "two")
    for ran, folder in ((made, "one"), (again, "two")):
        assert ran.returncode == 1
        assert ran.stderr.count(reason) == 2
        assert f"Saved 0 of 2 files in {folder}." in ran.stderr
        assert saved(tmp_path / folder) == []
    simulator.configure(**{setting: 0})
    assert replicate_mcp("download", "latest", "--to", "two").returncode == 0
    assert len(saved(tmp_path / "two")) == 2


async def test_intermittent_error_page_costs_only_one_attempt(host: Host, tmp_path: Path) -> None:
    host.bodies = [PAGE, b"", PNG]
    assert await save(host, tmp_path, "a.png") == []
    assert (tmp_path / "a.png").read_bytes() == PNG


async def test_too_large_download_leaves_no_file(host: Host, tmp_path: Path) -> None:
    host.bodies = [PNG + b"\0" * 1_000_000]
    assert await save(host, tmp_path, "a.png", max_mb=1) == [
        "it is over 1 MB (--max-mb allows more)"
    ]
    assert len(host.asked) == 1
    assert saved(tmp_path) == []
    assert await save(host, tmp_path, "a.png", max_mb=2) == []


@pytest.mark.parametrize("body", [gzip.compress(PNG * 100_000, mtime=0), b"\x1f\x8bbroken"])
async def test_content_encoded_response_is_rejected_undecoded(
    host: Host, tmp_path: Path, body: bytes
) -> None:
    host.bodies, host.encoding = [body], "gzip"
    (reason,) = await save(host, tmp_path, "a.png")
    assert reason == "its host sent it encoded (gzip), which was not asked for"
    assert host.asked == ["identity"]
    assert saved(tmp_path) == []


async def test_files_with_corrected_extensions_do_not_overwrite_each_other(
    host: Host, tmp_path: Path
) -> None:
    host.bodies = [WEBP]
    assert await save(host, tmp_path, "a.png", "a.webp", "A.jpg", overwrite=True) == []
    assert len({name.lower() for name in saved(tmp_path)}) == 3
    assert "a.webp" in saved(tmp_path)
    assert all(name.endswith(".webp") for name in saved(tmp_path))
    names = saved(tmp_path)
    assert await save(host, tmp_path, "a.png", "a.webp", "A.jpg") == []
    host.bodies = [WEBP + b"another"]
    assert len(await save(host, tmp_path, "a.png", "a.webp", "A.jpg")) == 3
    assert saved(tmp_path) == names
    assert len(saved(tmp_path)) == 3


@pytest.mark.parametrize("hard_links", [True, False])
async def test_existing_filename_is_numbered_or_rejected_and_kept(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:  # As on exFAT.

        def refuse(self: Path, target: Path) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    for name in ("a.webp", "a_2.webp"):
        (tmp_path / name).write_text("mine")
    host.bodies = [WEBP]
    assert len(await save(host, tmp_path, "a.png")) == 1
    assert await save(host, tmp_path, "a.png", number=True) == []
    assert (tmp_path / "a_3.webp").read_bytes() == WEBP
    assert {(tmp_path / name).read_text() for name in ("a.webp", "a_2.webp")} == {"mine"}
    assert len(saved(tmp_path)) == 3


def test_concurrent_saves_into_one_folder_do_not_overwrite_each_other(
    host: Host, tmp_path: Path
) -> None:
    host.bodies = [WEBP]

    def save_one(_: int) -> list[str]:
        return anyio.run(lambda: save(host, tmp_path, "a.webp", number=True))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(save_one, range(24))) == [[]] * 24
    assert len(saved(tmp_path)) == 24


@pytest.mark.parametrize(
    "path",
    ["/\0", "/" + "a" * 70_000, f"/{HOSTILE}", "/\ud800", "/a\r\nHost: evil", "/%00", "/ \x7f"],
    ids=range(7),
)
async def test_malformed_url_is_reported_without_a_crash(
    host: Host, tmp_path: Path, path: str
) -> None:
    host.bodies = [PNG]
    saver = Saver(tmp_path, host.url)
    malformed = file(host.url + "/x", "odd.png").model_copy(update={"url": host.url + path})
    failed = await saver.save([malformed, file(host.url + "/y", "good.png")])
    assert [each.filename for each in failed] in ([], ["odd.png"])
    assert "good.png" in saved(tmp_path)
    if path != "/%00":
        assert failed or len(host.asked) == 2


def test_generate_handles_malformed_urls_and_validates_max_mb(
    replicate_mcp: CommandLine, simulator: Any, tmp_path: Path
) -> None:
    with hostile_replicate(simulator, ["output"], "\0" + "a" * 70_000) as url:
        replicate_mcp.environment["REPLICATE_BASE_URL"] = url
        ran = replicate_mcp("generate", "a red car", "--out", "pictures")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert 'generated_image_1 ("a red car"): no_output' in ran.stderr  # This is not a URL.
    assert "Saved 0 of 0 files" in ran.stderr
    assert saved(tmp_path / "pictures") == []
    for command in (("generate", "a", "--out", "p"), ("download", "latest", "--to", "p")):
        wrong = replicate_mcp(*command, "--max-mb", 0)
        assert wrong.returncode == 2
        assert "must be from 1 to" in wrong.stderr


async def test_image_is_saved_although_briefly_locked_by_a_virus_scanner(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried_at: list[float] = []
    move = Saver._move

    def held(self: Saver, part: Path, target: Path) -> None:
        tried_at.append(time.monotonic())
        if time.monotonic() < tried_at[0] + 0.3:
            raise PermissionError(errno.EACCES, "held by another program")
        move(self, part, target)

    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(Saver, "_move", held)
    host.bodies = [WEBP]
    assert await save(host, tmp_path, "a.webp") == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]


NFC, NFD = "caf\u00e9.webp", "cafe\u0301.webp"


@pytest.mark.parametrize(("name", "on_disk"), [(NFC, NFD), (NFD, NFC)], ids=["NFD", "NFC"])
async def test_existing_file_in_another_unicode_normal_form_is_kept(
    host: Host, tmp_path: Path, name: str, on_disk: str
) -> None:
    (tmp_path / on_disk).write_text("mine")
    host.bodies = [WEBP]
    (reason,) = await save(host, tmp_path, name)
    assert reason.startswith("a file of that name is there already")
    assert await save(host, tmp_path, name, number=True) == []
    assert await save(host, tmp_path, name, number=True) == []
    numbered = [name.replace(".", f"_{number}.") for number in (2, 3)]
    assert saved(tmp_path) == sorted([on_disk, *numbered])
    assert (tmp_path / on_disk).read_text() == "mine"


@pytest.mark.parametrize(("name", "on_disk"), [(NFC, NFD), (NFD, NFC)], ids=["NFD", "NFC"])
async def test_saved_file_is_found_in_another_unicode_normal_form(
    host: Host, tmp_path: Path, name: str, on_disk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / on_disk).write_bytes(WEBP)
    host.bodies = [WEBP]
    assert await save(host, tmp_path, name) == []
    assert saved(tmp_path) == [on_disk]
    host.bodies = [WEBP + b"newer"]
    assert await save(host, tmp_path, name, overwrite=True) == []
    assert saved(tmp_path) == [on_disk]
    assert (tmp_path / on_disk).read_bytes().endswith(b"newer")


async def test_file_is_saved_into_an_unlistable_folder(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "drop box"
    folder.mkdir()
    host.bodies = [WEBP]
    folder.chmod(0o333)
    assert await save(host, folder, NFC) == []
    folder.chmod(0o700)
    assert saved(folder) == [NFC]
