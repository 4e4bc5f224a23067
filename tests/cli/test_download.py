"""Saving a batch's images: sources, target folder, and files that are left unchanged."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicate_mcp.cli.downloader import Saver
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import GeneratedFile

from .conftest import CommandLine

COVER = "/delivery/covers/black-forest-labs/flux-schnell.webp"
"""An image that the simulator gives to anyone."""


def file_at(url: str, filename: str = "red_car.webp") -> GeneratedFile:
    return GeneratedFile(
        url=url, filename=filename, expires_at=datetime.now(UTC) + timedelta(hours=1)
    )


def test_latest_batch_is_saved_without_overwriting(
    replicate_mcp: CommandLine, tmp_path: Path
) -> None:
    made = replicate_mcp("generate", *[f"a red car {number}" for number in range(12)])
    assert made.returncode == 0, made.stderr
    # Saving needs no token, which may exist only in the host's configuration.
    saved = replicate_mcp("download", "latest", "--to", "pictures", REPLICATE_API_TOKEN="")
    assert saved.returncode == 0, saved.stderr
    assert "Saved 12 of 12 files" in saved.stderr
    names = {each.name for each in (tmp_path / "pictures").iterdir()}
    assert names == {line.split("\t")[0] for line in made.stdout.splitlines()}

    second = replicate_mcp("download", "latest", "--to", "pictures")
    assert second.returncode == 0
    assert second.stderr == "Saved 0 of 12 files in pictures; 12 there already.\n"

    one = tmp_path / "pictures" / "generated_image_1.webp"
    one.write_text("mine")
    again = replicate_mcp("download", "latest", "--to", "pictures")
    assert again.returncode == 1
    assert "generated_image_1.webp is not saved: a file of that name is there" in again.stderr
    assert "Saved 0 of 12 files in pictures; 11 there already." in again.stderr
    assert one.read_text() == "mine"

    replaced = replicate_mcp("download", "latest", "--to", "pictures", "--overwrite")
    assert replaced.returncode == 0
    assert one.read_bytes().startswith(b"RIFF")


@pytest.mark.parametrize("words", [("download", "latest", "--to", "here"), ("batches", "latest")])
def test_download_before_any_batch_explains_how_to_start_one(
    replicate_mcp: CommandLine, words: tuple[str, ...]
) -> None:
    ran = replicate_mcp(*words)
    assert ran.returncode == 2
    assert "There is no batch of the last 24 hours: `replicate-mcp generate`" in ran.stderr


def test_expired_url_is_reported_plainly(
    replicate_mcp: CommandLine, simulator: Simulator, tmp_path: Path
) -> None:
    assert replicate_mcp("generate", "a red car").returncode == 0
    simulator.configure(retention_seconds=0)
    ran = replicate_mcp("download", "latest", "--to", "pictures")
    assert ran.returncode == 1
    assert "generated_image_1.webp is not saved: its URL has expired" in ran.stderr
    assert list((tmp_path / "pictures").iterdir()) == []


def test_unusable_proxy_is_reported_without_its_password(
    replicate_mcp: CommandLine,
) -> None:
    assert replicate_mcp("generate", "a red car").returncode == 0
    away = {
        "REPLICATE_BASE_URL": "https://api.replicate.com",
        "REPLICATE_API_TOKEN": "",
        "HTTPS_PROXY": "http://user:p#ss-secret@proxy.example.com:8080",
    }
    ran = replicate_mcp("download", "latest", "--to", "pictures", **away)
    assert ran.returncode == 1
    reason = "generated_image_1.webp is not saved: the proxy that HTTPS_PROXY names cannot be used"
    assert reason in ran.stderr
    assert "user" not in ran.stderr
    assert "secret" not in ran.stderr


def test_unknown_batch_is_a_usage_error(replicate_mcp: CommandLine) -> None:
    ran = replicate_mcp("download", "b_nothing", "--to", "pictures")
    assert ran.returncode == 2
    assert "There is no batch 'b_nothing'" in ran.stderr


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/out-0.webp",
        "https://replicate.delivery.example.com/out-0.webp",
        "https://notreplicate.delivery/out-0.webp",
        "http://replicate.delivery/out-0.webp",
        "https://someone:secret@replicate.delivery/out-0.webp",
        "https://replicate.delivery:8443/out-0.webp",
        "file:///etc/hostname",
        "http://127.0.0.1:1/out-0.webp",
        "http://[::1/out-0.webp",
    ],
)
async def test_urls_of_other_hosts_are_not_requested(
    simulator: Simulator, tmp_path: Path, url: str
) -> None:
    failed = await Saver(tmp_path, simulator.url).save([file_at(url)])
    assert "its URL is not on replicate.delivery" in failed[0].reason
    assert list(tmp_path.iterdir()) == []


async def test_loopback_urls_are_requested_only_when_the_api_is_on_loopback(
    simulator: Simulator, tmp_path: Path
) -> None:
    saver = Saver(tmp_path, "https://api.replicate.com")
    failed = await saver.save([file_at(simulator.url + COVER)])
    assert "its URL is not on replicate.delivery" in failed[0].reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../red_car.webp", "/tmp/red_car.webp", "a/red_car.webp", "..", "", "con.webp"]
)
async def test_unsafe_filename_is_not_written(
    simulator: Simulator, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "inside"
    url = simulator.url + COVER
    failed = await Saver(folder, simulator.url).save([file_at(url, name)])
    assert failed[0].reason.startswith("its name ")
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


async def test_symlink_out_of_the_folder_is_not_followed(
    simulator: Simulator, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.txt"
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "red_car.webp").symlink_to(outside)
    url = simulator.url + COVER
    failed = await Saver(folder, simulator.url).save([file_at(url)])
    assert "is there already" in failed[0].reason
    assert await Saver(folder, simulator.url, overwrite=True).save([file_at(url)]) == []
    assert not outside.exists()
    assert (folder / "red_car.webp").read_bytes().startswith(b"RIFF")
